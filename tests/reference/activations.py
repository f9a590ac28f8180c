"""Naive twin of activation_statistics: a deep copy is run, every output is kept, SciPy does the rest."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import scipy.stats
import torch

PROBABILITIES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


def keep_everything(model: Any, loss_fn: Any, batch: Any) -> dict[str, list[np.ndarray]]:
    """All outputs of all modules, call by call, with the current random state."""
    state = torch.get_rng_state()
    twin = copy.deepcopy(model)
    kept: dict[str, list[np.ndarray]] = {}
    for name, module in twin.named_modules():

        def hook(module: Any, inputs: Any, output: Any, name: str = name) -> None:
            first = output
            while isinstance(first, tuple | list | dict):
                first = next(iter(first.values() if isinstance(first, dict) else first))
            kept.setdefault(name, []).append(first.detach().double().numpy().copy())

        module.register_forward_hook(hook)
    with torch.no_grad():
        loss_fn(twin, batch)
    torch.set_rng_state(state)
    return kept


def by_unit(calls: list[np.ndarray], axis: int) -> np.ndarray:
    """(C, S): all samples of each unit."""
    return np.concatenate([np.moveaxis(a, axis, 0).reshape(a.shape[axis], -1) for a in calls], axis=1)


def moments(values: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "mean": values.mean(1),
        "variance": values.var(1),
        "skewness": scipy.stats.skew(values, axis=1),
        "kurtosis": scipy.stats.kurtosis(values, axis=1, fisher=False),
        "minimum": values.min(1),
        "maximum": values.max(1),
    }


def quantiles(values: np.ndarray, probabilities: Any = PROBABILITIES) -> np.ndarray:
    """The smallest value with at least a fraction p of the values at or below it."""
    return np.quantile(values, probabilities, method="inverted_cdf")
