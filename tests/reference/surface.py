"""Naive twins of loss_surface and interpolate: explicit loops over filters, and a deep copy for every point."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch


def loss_at(model: Any, loss_fn: Any, batch: Any, parameters: dict[str, torch.Tensor]) -> float:
    """The loss of a copy with these parameters, with the current random state."""
    random = torch.get_rng_state()
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in twin.named_parameters():
            if name in parameters:
                parameter.copy_(parameters[name])
        loss = float(loss_fn(twin, batch))
    torch.set_rng_state(random)
    return loss


def surface(
    model: Any, loss_fn: Any, batch: Any, origin: Any, first: Any, second: Any, x: Sequence[float], y: Sequence[float]
) -> np.ndarray:
    """Li et al. 2018, equation 1: f(a, b) = L(theta + a delta + b eta)."""
    grid = np.empty((len(x), len(y)))
    for i, a in enumerate(x):
        for j, b in enumerate(y):
            grid[i, j] = loss_at(
                model, loss_fn, batch, {n: origin[n] + float(a) * first[n] + float(b) * second[n] for n in origin}
            )
    return grid


def filter_normalized(weights: dict[str, np.ndarray], direction: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Li et al. 2018, section 4, filter by filter along axis 0; what has one dimension rests."""
    out = {name: np.zeros_like(value) for name, value in direction.items()}
    for name, weight in weights.items():
        if weight.ndim < 2:
            continue
        for j in range(weight.shape[0]):
            length = np.sqrt(np.sum(direction[name][j] ** 2))
            if length > 0:
                out[name][j] = direction[name][j] / length * np.sqrt(np.sum(weight[j] ** 2))
    return out


def recomputed(model: Any, batches: Sequence[torch.Tensor], layer: str) -> tuple[np.ndarray, np.ndarray]:
    """Running mean and variance of one BatchNorm as the mean, over the batches, of each batch's own."""
    twin = copy.deepcopy(model)
    inputs: list[np.ndarray] = []
    twin.get_submodule(layer).register_forward_pre_hook(lambda m, args: inputs.append(args[0].double().numpy()))
    twin.get_submodule(layer).train()
    with torch.no_grad():
        for batch in batches:
            twin(batch)
    return np.mean([x.mean(0) for x in inputs], axis=0), np.mean([x.var(0, ddof=1) for x in inputs], axis=0)
