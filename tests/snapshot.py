"""Everything that a probe could disturb, as comparable values."""

from __future__ import annotations

import random
from collections import deque
from types import SimpleNamespace
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
        "inference_mode": torch.is_inference_mode_enabled(),
        "default_dtype": torch.get_default_dtype(),
        "autocast": (
            torch.is_autocast_enabled("cpu"),
            torch.get_autocast_dtype("cpu"),
            torch.is_autocast_cache_enabled(),
        ),
        "attention": torch.backends.mha.get_fastpath_enabled(),
        "global hooks": [_identity(v) for k, v in vars(torch.nn.modules.module).items() if k.startswith("_global")],
    }
    for name, parameter in model.named_parameters(remove_duplicate=False):
        grad = parameter.grad
        state[f"parameter {name}"] = (
            id(parameter), parameter.data_ptr(), _bytes(parameter), parameter._version, parameter.requires_grad,
            None if grad is None else (id(grad), _bytes(grad), grad._version),
        )  # fmt: skip
    for name, buffer in model.named_buffers(remove_duplicate=False):
        state[f"buffer {name}"] = (id(buffer), _bytes(buffer), buffer._version)
    registered = frozenset(model.modules())
    for name, module in model.named_modules(remove_duplicate=False):
        for key, value in vars(module).items():
            is_generator = isinstance(value, torch.Generator)
            state[f"module {name}.{key}"] = _bytes(value.get_state()) if is_generator else _identity(value, registered)
    if optimizer is not None:
        state["optimizer"] = repr(optimizer.state_dict())
    return state


def _identity(value: Any, registered: frozenset[nn.Module] = frozenset()) -> Any:
    """The object, and what is in it, to any depth of containers, of our own objects and of modules not registered."""
    if isinstance(value, bool | int | float | str | None):
        return value
    if isinstance(value, torch.Tensor):
        return (id(value), value.data_ptr(), _bytes(value), value._version)
    if isinstance(value, np.ndarray):
        return (id(value), value.tobytes())
    if isinstance(value, dict):
        return (id(value), tuple((key, id(key), _identity(item, registered)) for key, item in value.items()))
    if isinstance(value, list | tuple | deque):
        return (id(value), tuple(_identity(item, registered) for item in value))
    if isinstance(value, set):
        return (id(value), frozenset(value))
    if type(value).__module__.startswith("tests.") or isinstance(value, SimpleNamespace):
        slots = {name: getattr(value, name, None) for name in getattr(value, "__slots__", ()) if name != "__dict__"}
        return (id(value), _identity({**vars(value), **slots}, registered)[1])
    if isinstance(value, random.Random | np.random.RandomState):
        return (id(value), repr(value.getstate() if isinstance(value, random.Random) else value.get_state()))
    if isinstance(value, nn.Module) and value not in registered:
        return (id(value), _identity(vars(value), registered)[1])
    return id(value)


def _bytes(tensor: torch.Tensor) -> bytes:
    if tensor.is_sparse:
        return b"".join(_bytes(part) for part in (tensor._indices(), tensor._values()))
    return tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
