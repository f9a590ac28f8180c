"""A Krylov basis that grows step by step, and the operator on it."""

from __future__ import annotations

import torch
from torch import Tensor

from alidade.landscape.curvature.operator import SymmetricOperator, require_symmetric


class Krylov:
    """Orthonormal rows ``basis`` of span(v, Hv, H^2 v, ...), and the operator on it.

    Lanczos with full reorthogonalization: one product per row. On its basis the operator is tridiagonal, with
    ``diagonal`` and ``beside`` (of which the last entry leads out of the space).
    """

    def __init__(self, operator: SymmetricOperator, start: Tensor) -> None:
        self._operator = operator
        self.basis = start.new_empty(0, len(start))
        self.diagonal: list[float] = []
        self.beside: list[float] = []
        self._next: Tensor | None = start / torch.linalg.vector_norm(start)
        self._scale, self._asymmetry = 0.0, 0.0

    @property
    def complete(self) -> bool:
        """Whether the space is invariant: there is no further direction in it."""
        return self._next is None

    def extend(self, steps: int) -> None:
        """Add as many rows, or as many as there are.

        Raises:
            RefusedError: the operator is not symmetric.
        """
        for _ in range(steps):
            if self._next is not None and len(self.basis) < self._operator.dimension:
                self._step(self._next)
        require_symmetric(self._operator, self._asymmetry, self._scale)

    def outside(self, vector: Tensor) -> Tensor:
        """What of a vector is orthogonal to the basis, projected twice."""
        for _ in range(2):
            vector = vector - (self.basis @ vector) @ self.basis
        return vector

    def _step(self, direction: Tensor) -> None:
        product = self._operator.matvec(direction)
        before = len(self.basis)
        self.basis = torch.cat([self.basis, direction[None]])
        inside = (self.basis @ product).double()
        self.diagonal.append(float(inside[-1]))
        self._scale = max(self._scale, float(inside.abs().max()))
        if before:  # so it would be of a symmetric matrix
            expected = torch.zeros_like(inside)
            expected[before - 1] = self.beside[-1]
            self._asymmetry = max(self._asymmetry, float((inside - expected)[:before].abs().max()))
        outside = self.outside(product)
        self.beside.append(float(torch.linalg.vector_norm(outside)))
        if self.beside[-1] <= 10 * torch.finfo(self.basis.dtype).eps * self._scale:
            self._next = None
        else:
            following = self.outside(outside / self.beside[-1])
            self._next = following / torch.linalg.vector_norm(following)
