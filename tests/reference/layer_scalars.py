"""Naive twin of layer_scalars: .backward() on a deep copy, flat NumPy vectors, the arc cosine."""

from __future__ import annotations

from typing import Any

import numpy as np
from tests.reference.line_profile import loss_and_gradient


def scalars(model: Any, loss_fn: Any, batch: Any, lr: float) -> dict[tuple[str, str], dict[str, float]]:
    _, gradient = loss_and_gradient(model, loss_fn, batch, None, 0.0)
    found = {}
    for layer, module in model.named_modules():
        own = {n: p for n, p in module.named_parameters(prefix=layer, recurse=False) if p.requires_grad}
        for kind in ("weight", "bias", "scale"):
            names = [n for n, p in own.items() if n in gradient and _kind(n, p) == kind]
            if names:
                w = np.concatenate([own[n].detach().double().numpy().ravel() for n in names])
                g = np.concatenate([gradient[n].ravel() for n in names])
                found[layer or "(model)", kind] = _numbers(w, g, lr)
    return found


def _kind(name: str, parameter: Any) -> str:
    return "weight" if parameter.ndim > 1 else "bias" if "bias" in name.split(".")[-1] else "scale"


def _numbers(w: np.ndarray, g: np.ndarray, lr: float) -> dict[str, float]:
    norm, moved = np.linalg.norm(w), w - lr * g
    cosine = w @ moved / (norm * np.linalg.norm(moved)) if norm else np.nan
    return {
        "norm": norm,
        "gradient_norm": np.linalg.norm(g),
        "gradient_ratio": np.linalg.norm(g) / norm if norm else np.nan,
        "update_norm": lr * np.linalg.norm(g),
        "update_ratio": lr * np.linalg.norm(g) / norm if norm else np.nan,
        "effective_learning_rate": lr / norm**2 if norm else np.nan,
        "angular_update": np.arccos(np.clip(cosine, -1, 1)),
    }
