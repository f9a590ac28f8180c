"""A Krylov basis that grows step by step, and the operator on it."""

from __future__ import annotations

import torch
from torch import Tensor

from alidade.landscape.curvature.operator import SymmetricOperator, require_symmetric


class Krylov:
    """Orthonormal rows ``basis`` of span(v, Hv, H^2 v, ...), and ``inner``, the trace of the operator on it.

    Lanczos with full reorthogonalization: one product per row.
    """

    def __init__(self, operator: SymmetricOperator, start: Tensor) -> None:
        self._operator = operator
        self.basis = start.new_empty(0, len(start))
        self.inner = 0.0
        self._next: Tensor | None = start / torch.linalg.vector_norm(start)
        self._left, self._scale, self._asymmetry = 0.0, 0.0, 0.0

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
        self.inner += float(inside[-1])
        self._scale = max(self._scale, float(inside.abs().max()))
        if before:  # a symmetric matrix is tridiagonal in this basis
            expected = torch.zeros_like(inside)
            expected[before - 1] = self._left
            self._asymmetry = max(self._asymmetry, float((inside - expected)[:before].abs().max()))
        outside = self.outside(product)
        self._left = float(torch.linalg.vector_norm(outside))
        if self._left <= 10 * torch.finfo(self.basis.dtype).eps * self._scale:
            self._next = None
        else:
            following = self.outside(outside / self._left)
            self._next = following / torch.linalg.vector_norm(following)
