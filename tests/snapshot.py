"""Everything that a probe could disturb, as comparable values."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import nn


def snapshot(model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> dict[str, Any]:
    state: dict[str, Any] = {
        "cpu": torch.get_rng_state().numpy().tobytes(),
        "python": random.getstate(),
        "numpy": repr(np.random.get_state()),
        "grad_mode": torch.is_grad_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
    }
    for name, parameter in model.named_parameters(remove_duplicate=False):
        grad = parameter.grad
        state[f"parameter {name}"] = (
            id(parameter), parameter.data_ptr(), _bytes(parameter), parameter._version, parameter.requires_grad,
            None if grad is None else (id(grad), _bytes(grad), grad._version),
        )  # fmt: skip
    for name, buffer in model.named_buffers(remove_duplicate=False):
        state[f"buffer {name}"] = (id(buffer), _bytes(buffer), buffer._version)
    for name, module in model.named_modules(remove_duplicate=False):
        for key, value in vars(module).items():
            is_generator = isinstance(value, torch.Generator)
            state[f"module {name}.{key}"] = _bytes(value.get_state()) if is_generator else _identity(value)
    if optimizer is not None:
        state["optimizer"] = repr(optimizer.state_dict())
    return state


def _identity(value: Any) -> Any:
    if isinstance(value, bool | int | float | str | None):
        return value
    return (id(value), tuple(map(id, value.values()))) if isinstance(value, dict) else id(value)


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
