"""Naive twin of line_profile: a deep copy of the model is moved, differentiated by .backward(), and thrown away."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch


def loss_and_gradient(model: Any, loss_fn: Any, batch: Any, direction: dict[str, np.ndarray] | None, eta: float) -> Any:
    """Loss and flat gradient at theta - eta d, on a copy, with the current random state."""
    state = torch.get_rng_state()
    twin = copy.deepcopy(model)
    for name, parameter in twin.named_parameters():
        parameter.grad = None
        if parameter.requires_grad and direction is not None:
            parameter.data -= eta * torch.from_numpy(direction[name]).to(parameter.dtype)
    loss = loss_fn(twin, batch)
    loss.backward()
    torch.set_rng_state(state)
    gradient = {
        name: np.zeros(p.shape) if p.grad is None else p.grad.double().numpy().copy()
        for name, p in twin.named_parameters()
        if p.requires_grad
    }
    return loss.item(), gradient


def flat(gradient: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([value.ravel() for value in gradient.values()])


def raw_profile(model: Any, loss_fn: Any, batch: Any, step_sizes: list[float]) -> dict[str, np.ndarray]:
    """Definitions of Santurkar et al. 2018, A.2.2, along the gradient."""
    _, base = loss_and_gradient(model, loss_fn, batch, None, 0.0)
    g0 = flat(base)
    rows = []
    for eta in step_sizes:
        loss, gradient = loss_and_gradient(model, loss_fn, batch, base, eta)
        g = flat(gradient)
        distance = np.sqrt(np.sum((g - g0) ** 2))
        rows.append(
            (
                loss,
                distance,
                (g @ g0) / (np.linalg.norm(g) * np.linalg.norm(g0)),
                distance / (abs(eta) * np.linalg.norm(g0)),
                g0 @ (g0 - g) / (eta * (g0 @ g0)),
            )
        )
    names = ("losses", "gradient_distances", "gradient_cosines", "effective_smoothness", "directional_curvature")
    return dict(zip(names, np.array(rows).T, strict=True))


def relative_profile(model: Any, loss_fn: Any, batch: Any, step_sizes: list[float]) -> dict[str, np.ndarray]:
    """The scale-free twin: G_j = |w_j| g_j, d_j = sqrt(N) |w_j|^2 g_j / |G|, filter by filter along axis 0."""
    _, base = loss_and_gradient(model, loss_fn, batch, None, 0.0)
    weights = {n: p.detach().double().numpy() for n, p in model.named_parameters() if p.requires_grad and p.ndim > 1}
    filters = [(n, j) for n, w in weights.items() for j in range(w.shape[0]) if np.linalg.norm(w[j]) > 0]

    def scaled(gradient: dict[str, np.ndarray]) -> np.ndarray:
        return np.concatenate([np.linalg.norm(weights[n][j]) * gradient[n][j].ravel() for n, j in filters])

    G0 = scaled(base)
    direction = {n: np.zeros_like(g) for n, g in base.items()}
    for n, j in filters:
        direction[n][j] = np.sqrt(len(filters)) * np.linalg.norm(weights[n][j]) ** 2 * base[n][j] / np.linalg.norm(G0)
    rows = []
    for eta in step_sizes:
        loss, gradient = loss_and_gradient(model, loss_fn, batch, direction, eta)
        G = scaled(gradient)
        cosine = G @ G0 / (np.linalg.norm(G) * np.linalg.norm(G0))
        rows.append((loss, np.linalg.norm(G - G0) / np.linalg.norm(G0), cosine))
    return dict(zip(("losses", "gradient_distances", "gradient_cosines"), np.array(rows).T, strict=True))
