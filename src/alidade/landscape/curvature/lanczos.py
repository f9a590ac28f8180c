"""Thick-restart Lanczos with full reorthogonalization on a bounded basis (Wu & Simon 2000, SIAM J. Matrix Anal. 22)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from alidade.core.records import Floats
from alidade.landscape.curvature.operator import SymmetricOperator, require_symmetric

#: Vectors of the basis, and memory that basis and products may take together; restarts need some room beside k.
MOST_VECTORS = 40
MOST_BYTES = 1 << 30
ROOM = 8
#: Roundings of the operator's size below which no residual can be brought.
ROUNDINGS = 10.0
#: Products with which a search for several eigenvalues makes sure that it has not missed a copy of one.
CHECKS = 5


class Pairs(NamedTuple):
    """Ritz pairs, best first: values and true residuals (k,), vectors (k, n) as rows; what rounding leaves in them."""

    values: Floats
    residuals: Floats
    vectors: Tensor
    resolution: float


class Lanczos:
    """The search for k eigenpairs of a symmetric operator.

    Basis V (rows) and products W = V H are both kept, so that a residual is computed from real products, and
    so that the symmetry of the operator can be seen: V H V' must be its own transpose.
    """

    def __init__(self, operator: SymmetricOperator, k: int, which: str, seed: int) -> None:
        self._operator, self._k, self._which = operator, k, which
        block = operator.block
        self._generator = torch.Generator().manual_seed(seed)
        width = torch.finfo(block.dtype).bits // 8 * block.dimension
        self._most = min(block.dimension, max(k + ROOM, min(2 * k + MOST_VECTORS, MOST_BYTES // (2 * width))))
        self._basis = torch.empty(self._most, block.dimension, dtype=block.dtype, device=block.device)
        self._products = torch.empty_like(self._basis)
        self._projected: Floats = np.zeros((self._most, self._most))
        self._size, self._left, self._krylov, self._random = 0, 0.0, True, False
        self._eps = torch.finfo(getattr(torch, operator.provenance.dtype, block.dtype)).eps

    def run(self, start: Sequence[Tensor], rtol: float, max_matvecs: int) -> Pairs:
        """Expand and restart until the residuals are met, the space is exhausted, or the products are.

        A Krylov space has one vector of each eigenspace. So a search for several that began with one vector goes on,
        once all are met, from a fresh random direction for a few products: a copy that is missing comes up there.

        Raises:
            RefusedError: the operator is not symmetric.
        """
        waiting, self._krylov = list(start), len(start) == 1
        following: Tensor | None = None
        checks = most_checks = CHECKS if self._krylov and self._k > 1 else 0
        while self._operator.matvecs < max_matvecs:
            if self._size == self._most:
                if self._size == self._operator.dimension:
                    break
                self._restart()
            if not self._krylov and not waiting and checks == most_checks:
                following = self._worst_residual()
            following = self._expand(self._direction([*waiting[:1], *([] if following is None else [following])]))
            waiting = waiting[1:]
            if waiting or self._size < self._k:
                continue
            if not self._met(rtol):
                checks = most_checks
            elif checks == 0 or self._resolution() > 0:  # then a random direction has shown that nothing is left
                break
            else:
                if checks == most_checks:
                    waiting, self._krylov = [self.random()], False
                checks -= 1
        self._check_symmetry()
        return self.pairs()

    def pairs(self) -> Pairs:
        """The best Ritz pairs of the space so far, with residuals from the products."""
        values, vectors = self._ritz()
        chosen = torch.as_tensor(vectors[:, : self._k].T, dtype=self._basis.dtype, device=self._basis.device)
        found = chosen @ self._basis[: self._size]
        gaps = chosen @ self._products[: self._size] - found * chosen.new_tensor(values[: self._k])[:, None]
        lengths = torch.linalg.vector_norm(found, dim=1).double()
        residuals = torch.linalg.vector_norm(gaps, dim=1).double() / lengths
        return Pairs(values[: self._k], residuals.cpu().numpy(), found / lengths[:, None].to(found), self._resolution())

    def _worst_residual(self) -> Tensor:
        """Where a space that began with several vectors grows: no Krylov space, so each pair has a way of its own."""
        pairs = self.pairs()
        worst = int(np.argmax(pairs.residuals / np.maximum(np.abs(pairs.values), 1e-3 * self._scale() + 1e-300)))
        inside, products = self._combined(worst)
        return products - float(pairs.values[worst]) * inside

    def _combined(self, index: int) -> tuple[Tensor, Tensor]:
        _, vectors = self._ritz()
        weights = torch.as_tensor(vectors[:, index].copy(), dtype=self._basis.dtype, device=self._basis.device)
        return weights @ self._basis[: self._size], weights @ self._products[: self._size]

    def _met(self, rtol: float) -> bool:
        """The residual that the recurrence predicts is free; where it promises enough, the true one decides."""
        values, vectors = self._ritz()
        values, vectors = values[: self._k], vectors[:, : self._k]
        predicted = self._left * np.abs(vectors[-1])
        if self._krylov and (predicted > 2 * np.maximum(rtol * np.abs(values), self._resolution())).any():
            return False
        return bool((self.pairs().residuals <= np.maximum(rtol * np.abs(values), self._resolution())).all())

    def _ritz(self) -> tuple[Floats, Floats]:
        matrix = self._projected[: self._size, : self._size]
        values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
        sign = {"largest": -values, "smallest": values, "magnitude": -np.abs(values)}[self._which]
        order = np.argsort(sign, kind="stable")
        return values[order], vectors[:, order]

    def _expand(self, direction: Tensor) -> Tensor:
        """One product; gives what of it lies outside the space."""
        product = self._operator.matvec(direction)
        row = self._size
        self._basis[row], self._products[row] = direction, product
        self._size += 1
        basis = self._basis[: self._size]
        self._projected[row, : self._size] = (basis @ product).double().cpu().numpy()
        self._projected[:row, row] = (self._products[:row] @ direction).double().cpu().numpy()
        outside = self._outside(product)
        self._left = float(torch.linalg.vector_norm(outside))
        return outside

    def _direction(self, candidates: Sequence[Tensor]) -> Tensor:
        """The first candidate that is not in the space already, of length 1; else a random one."""
        eps, self._random = torch.finfo(self._basis.dtype).eps, False
        for candidate in candidates:
            length = float(torch.linalg.vector_norm(candidate))
            outside = self._outside(candidate)
            left = float(torch.linalg.vector_norm(outside))
            if left > max(1e2 * eps * length, 10 * eps * self._scale()):
                return self._unit(outside)
        self._random = True
        while True:
            outside = self._outside(self.random())
            if float(torch.linalg.vector_norm(outside)) > 1e-3:
                return self._unit(outside)

    def random(self) -> Tensor:
        """A random direction of length 1, from the seed."""
        draw = torch.randn(self._operator.dimension, generator=self._generator, dtype=torch.float64)
        unit: Tensor = (draw / draw.norm()).to(self._basis)
        return unit

    def _scale(self) -> float:
        """The size of the operator as far as it was seen."""
        return float(np.abs(self._projected[: self._size, : self._size]).max()) if self._size else 0.0

    def _resolution(self) -> float:
        """The rounding of products, once nothing else is left to be found; 0 before.

        A random direction out of what the space leaves is no eigenvector there, unless the operator is a multiple of
        the identity on all of it.
        """
        rounding = ROUNDINGS * self._eps * self._scale()
        spent = self._size == self._operator.dimension or (self._random and self._left <= rounding)
        return float(rounding) if spent else 0.0

    def _unit(self, vector: Tensor) -> Tensor:
        unit = self._outside(vector / torch.linalg.vector_norm(vector))
        length: Tensor = torch.linalg.vector_norm(unit)
        found: Tensor = unit / length
        return found

    def _outside(self, vector: Tensor) -> Tensor:
        """What is orthogonal to the space; projected out twice, which is enough (Giraud et al. 2005)."""
        basis = self._basis[: self._size]
        vector = vector - (basis @ vector) @ basis
        return vector - (basis @ vector) @ basis

    def _restart(self) -> None:
        """Keep the best Ritz vectors and their neighbours in the spectrum, with their products."""
        _, vectors = self._ritz()
        kept = min(self._size - 1, self._k + max(ROOM // 2, (self._size - self._k) // 3))
        rotation = torch.as_tensor(vectors[:, :kept].T, dtype=self._basis.dtype, device=self._basis.device)
        for rows in (self._basis, self._products):
            rows[:kept] = rotation @ rows[: self._size]
        self._projected[:kept, :kept] = (self._basis[:kept] @ self._products[:kept].T).double().cpu().numpy()
        self._size = kept

    def _check_symmetry(self) -> None:
        """Free on the basis, which holds the products with all of its vectors."""
        matrix = self._projected[: self._size, : self._size]
        require_symmetric(self._operator, float(np.abs(matrix - matrix.T).max(initial=0.0)), self._scale())
