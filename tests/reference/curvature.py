"""Naive twins of the curvature estimators: dense matrices, one row at a time, on a deep copy of the model."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from tests.reference.line_profile import loss_and_gradient

from alidade.core.records import Provenance
from alidade.landscape.curvature.block import Block


def dense_hessian(model: Any, loss_fn: Any, batch: Any) -> np.ndarray:
    """Row i is the gradient of the i-th entry of the gradient, by torch's own double backward."""
    state, twin = torch.get_rng_state(), copy.deepcopy(model)
    parameters = [p for p in twin.parameters() if p.requires_grad]
    first = torch.autograd.grad(loss_fn(twin, batch), parameters, create_graph=True)
    entries = torch.cat([gradient.reshape(-1) for gradient in first])
    rows = []
    for entry in entries:
        row = torch.autograd.grad(entry, parameters, retain_graph=True, allow_unused=True)
        rows.append(
            torch.cat(
                [torch.zeros(p.numel()) if r is None else r.reshape(-1) for r, p in zip(row, parameters, strict=True)]
            )
        )
    torch.set_rng_state(state)
    return torch.stack(rows).double().numpy()


def central_difference(model: Any, loss_fn: Any, batch: Any, v: dict[str, np.ndarray], step: float) -> np.ndarray:
    """(g(theta + h v) - g(theta - h v)) / 2h as one vector."""
    ahead, behind = (loss_and_gradient(model, loss_fn, batch, v, eta)[1] for eta in (-step, step))
    return np.concatenate([((ahead[name] - behind[name]) / (2 * step)).reshape(-1) for name in ahead])


def dense_by_differences(model: Any, loss_fn: Any, batch: Any, step: float = 1e-5) -> np.ndarray:
    """The Hessian column by column from first derivatives alone, by central differences, made symmetric."""
    names = {name: p for name, p in model.named_parameters() if p.requires_grad}
    sizes = [p.numel() for p in names.values()]
    columns = []
    for index in range(sum(sizes)):
        unit = np.zeros(sum(sizes))
        unit[index] = 1.0
        parts = np.split(unit, np.cumsum(sizes)[:-1])
        v = {name: part.reshape(p.shape) for (name, p), part in zip(names.items(), parts, strict=True)}
        columns.append(central_difference(model, loss_fn, batch, v, step))
    matrix = np.stack(columns)
    return (matrix + matrix.T) / 2


class MatrixOperator:
    """An explicit matrix as an operator; it need not be symmetric or finite."""

    route, problem, provenance = "matrix", None, Provenance("none", "float64", None)

    def __init__(self, matrix: np.ndarray, gradient: np.ndarray | None = None) -> None:
        self.matrix, self._gradient = torch.as_tensor(matrix), gradient
        self.dimension, self.matvecs = len(matrix), 0
        self.block = Block({"x": torch.zeros(len(matrix), dtype=torch.float64)})

    def matvec(self, vector: torch.Tensor) -> torch.Tensor:
        self.matvecs += 1
        return self.matrix @ vector

    def gradient(self) -> torch.Tensor | None:
        return None if self._gradient is None else torch.as_tensor(self._gradient)

    def repeated(self) -> nullcontext[None]:
        return nullcontext()


def symmetric(eigenvalues: Any, seed: int = 0) -> np.ndarray:
    """A matrix with these eigenvalues and random eigenvectors."""
    values = np.asarray(eigenvalues, dtype=np.float64)
    basis = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(values), len(values))))[0]
    return (basis * values) @ basis.T


def wasserstein(nodes: np.ndarray, weights: np.ndarray, eigenvalues: np.ndarray) -> float:
    """The area between the two distribution functions."""
    points = np.sort(np.concatenate([nodes, eigenvalues]))
    order = np.argsort(nodes)
    mine = np.append(0.0, np.cumsum(weights[order]))[np.searchsorted(nodes[order], points[:-1], side="right")]
    theirs = np.searchsorted(np.sort(eigenvalues), points[:-1], side="right") / len(eigenvalues)
    return float(np.sum(np.abs(mine - theirs) * np.diff(points)))
