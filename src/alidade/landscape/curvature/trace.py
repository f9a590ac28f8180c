"""The trace of the Hessian from products with random vectors, with a standard error and a stop on it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from alidade.core.curvature import Trace
from alidade.core.errors import CallError
from alidade.core.records import Floats
from alidade.landscape.arguments import check_seed, is_whole
from alidade.landscape.curvature.krylov import Krylov
from alidade.landscape.curvature.operator import Matrix, SymmetricOperator, as_operator, require_symmetric
from alidade.landscape.objective import Objective

#: Every dimension is taken by itself up to this many.
PILOT = 10
#: Steps of the first Krylov space, and by how many it grows; samples of what is left, at least.
STEPS, GROWTH, FRESH = 6, 3, 8
#: What growing brings is judged by the last steps: at least so many, and this share of all.
WINDOW, SHARE = 6, 0.25
#: Memory that basis and samples may take together; then the space no longer grows.
MOST_BYTES = 1 << 30


@torch.inference_mode(mode=False)
def hessian_trace(
    objective: Objective | SymmetricOperator,
    rtol: float = 5e-2,
    atol: float = 0.0,
    max_matvecs: int = 500,
    *,
    names: Sequence[str] | None = None,
    matrix: Matrix = "hessian",
    seed: int = 0,
) -> Trace:
    r"""An unbiased estimate of tr(H), until its standard error is at most max(rtol \|estimate\|, atol).

    With Q an orthonormal basis, :math:`\mathrm{tr}(H) = \mathrm{tr}(Q^\top H Q) + \mathrm{tr}(R)` with
    :math:`R = (I - QQ^\top) H (I - QQ^\top)`, and tr(R) is the mean of :math:`\omega^\top R\, \omega` over random signs
    :math:`\omega` (Hutchinson 1990). Outlying eigenvalues make its variance; Hutch++ (Meyer et al. 2021, SOSA) takes
    them out with a Q of one step of power iteration, which costs two products per column. Here Q is a Krylov basis
    (Chen & Hallman 2023, SIAM J. Matrix Anal. 44), of the same effect for one product per column, since Lanczos has
    :math:`Q^\top H Q` already. With :math:`c = Q^\top\omega` and :math:`d = Q^\top H\omega`

    .. math:: \omega^\top R\, \omega = \omega^\top H \omega - 2 c^\top d + c^\top (Q^\top H Q)\, c,

    so that a sample, once taken, holds for every size of Q: from six steps on Q grows as long as each of its last steps
    saved more than one sample of those still needed, and then samples are taken. Where every dimension by itself would
    be cheaper, that is done.

    The standard error is widened by t / 1.96, the quantile of Student's t over the normal one, so that two of them
    cover 95 % with few samples, too. (XTrace uses each product twice, but its own error estimate covered the truth in
    78 % instead of 95 % on a decaying spectrum; so it is not used.)

    Args:
        objective: the loss, or an operator.
        rtol: of the standard error, relative to the estimate.
        atol: absolute; where positive and negative eigenvalues cancel, a relative tolerance cannot be met.
        max_matvecs: products at most. When they run out, ``converged`` is False.
        names: parameters or modules whose diagonal block it is; None is the whole Hessian.
        matrix: "hessian" or "gauss_newton".
        seed: of the signs; the global random state is not used.

    Raises:
        CallError: tolerances that are not numbers from 0 on, or both 0; fewer than 2 products.
        RefusedError: a loss or product that is not finite; an operator that is not symmetric; an objective that is not
            deterministic.

    Cost: two forward and backward passes, then about two per product (kept graph). Memory: one vector per step, two
    per sample, 1 GiB at most beside some 30 of them.

    >>> from torch import nn
    >>> model = nn.Linear(3, 1, bias=False).double()
    >>> stretch = torch.diag(torch.tensor([3.0, 2.0, 1.0])).double()
    >>> objective = Objective(model, lambda model, x: model(x).square().sum() / 2, stretch)
    >>> trace = hessian_trace(objective)  # of diag(9, 4, 1); in few dimensions every one is taken
    >>> trace.value, trace.standard_error, trace.matvecs, trace.method
    (14.0, 0.0, 3, 'exact')
    """
    operator = as_operator(objective, names, matrix)
    _check(rtol, atol, max_matvecs)
    check_seed(seed)
    before = operator.matvecs
    with operator.repeated():
        estimate = _Estimator(operator, rtol, atol, before + max_matvecs, seed).run()
    return Trace(
        value=estimate.value,
        standard_error=estimate.error,
        converged=estimate.met and operator.problem is None,
        matvecs=operator.matvecs - before,
        method=estimate.method,
        route=operator.route,
        provenance=operator.provenance,
        problem=operator.problem,
    )


class _Estimate(NamedTuple):
    value: float
    error: float
    method: str
    met: bool


def _widening(n: int) -> float:
    from scipy.special import stdtrit  # takes long to import, and little else here needs it

    return float(stdtrit(n - 1, 0.975)) / 1.96


def _check(rtol: float, atol: float, max_matvecs: int) -> None:
    if not (0 <= rtol < math.inf and 0 <= atol < math.inf and rtol + atol > 0):
        raise CallError(
            f"rtol, atol: expected finite numbers from 0 on, one of them above 0, got {rtol!r} and {atol!r}"
        )
    if not is_whole(max_matvecs) or max_matvecs < 2:
        raise CallError(f"max_matvecs: expected at least 2, for a standard error, got {max_matvecs!r}")


class _Samples:
    """Quadratic forms of random signs with what a Krylov space leaves of the operator; each holds for all its sizes."""

    def __init__(self, operator: SymmetricOperator, seed: int) -> None:
        self._operator, self._generator = operator, torch.Generator().manual_seed(seed)
        self.space = Krylov(operator, self._signs())
        self._pairs: list[tuple[Tensor, Tensor]] = []
        self._whole: list[float] = []
        self._inside: list[tuple[Tensor, Tensor]] = []  # c and d of each

    def __len__(self) -> int:
        return len(self._whole)

    @property
    def can_grow(self) -> bool:
        """Whether there is a further direction, and room for it; and every sample is there to be projected on it."""
        vectors = len(self.space.basis) + GROWTH + 2 * len(self) + 2
        width = self.space.basis.element_size() * self._operator.dimension
        room = vectors <= STEPS + 3 * FRESH or vectors * width <= MOST_BYTES
        return room and len(self._pairs) == len(self) and not self.space.complete

    def take(self) -> None:
        """One product."""
        kept, signs = self.can_grow, self._signs()
        product = self._operator.matvec(signs)
        self._whole.append(_dot(signs, product))
        self._inside.append(_inside(self.space.basis, signs, product))
        self._pairs = [*self._pairs, (signs, product)] if kept else []

    def grow(self, steps: int) -> None:
        """One product per step."""
        before = len(self.space.basis)
        self.space.extend(steps)
        new = self.space.basis[before:]
        more = [_inside(new, *pair) for pair in self._pairs]
        self._inside = [
            (torch.cat([c, c2]), torch.cat([d, d2])) for (c, d), (c2, d2) in zip(self._inside, more, strict=True)
        ]

    def outside(self, size: int) -> tuple[float, Floats]:
        """The trace on the first ``size`` vectors of the space, and what each sample finds beside them."""
        diagonal = torch.tensor(self.space.diagonal[:size], dtype=torch.float64)
        beside = torch.tensor(self.space.beside[: max(size - 1, 0)], dtype=torch.float64)
        found = []
        for whole, (c, d) in zip(self._whole, self._inside, strict=True):
            c, d = c[:size], d[:size]
            inner = torch.dot(diagonal, c * c) + 2 * torch.dot(beside, c[: len(beside)] * c[1:])
            found.append(whole - 2 * float(torch.dot(c, d)) + float(inner))
        return math.fsum(diagonal.tolist()), np.array(found)

    def _signs(self) -> Tensor:
        draw = torch.randint(0, 2, (self._operator.dimension,), generator=self._generator)
        return (2 * draw - 1).to(self._operator.block.device, self._operator.block.dtype)


class _Estimator:
    def __init__(self, operator: SymmetricOperator, rtol: float, atol: float, most: int, seed: int) -> None:
        self._operator, self._rtol, self._atol, self._most = operator, rtol, atol, most
        self._samples = _Samples(operator, seed)

    @property
    def _left(self) -> int:
        return self._most - self._operator.matvecs

    @property
    def _size(self) -> int:
        return len(self._samples.space.basis)

    def run(self) -> _Estimate:
        """Grow or sample, whichever brings more, until the tolerance is met or the products are spent."""
        samples = self._samples
        if self._operator.dimension <= min(PILOT, self._left):
            return self._exact()
        samples.grow(max(0, min(STEPS, self._left - FRESH)))
        for _ in range(min(FRESH, self._left)):
            samples.take()
        while True:
            estimate = self._estimate()
            if estimate.met or self._left == 0:
                return estimate
            more = self._needed(self._size) - len(samples)
            if min(more, self._left) > GROWTH and samples.can_grow and self._growing():
                samples.grow(GROWTH)
            elif self._hopeless(estimate) and self._operator.dimension <= self._left:
                return self._exact()
            else:
                samples.take()

    def _growing(self) -> bool:
        """Whether each of the last steps has saved more than one sample."""
        window = min(self._size, max(WINDOW, round(SHARE * self._size)))
        return self._needed(self._size - window) - self._needed(self._size) > window

    def _hopeless(self, estimate: _Estimate) -> bool:
        """Whether samples for every dimension would not do, even if the trace were as large as it may well be."""
        largest = abs(estimate.value) + 2 * estimate.error
        return self._needed(self._size, largest) - len(self._samples) > self._operator.dimension

    def _needed(self, size: int, value: float | None = None) -> float:
        """Samples that the tolerance takes beside the first ``size`` vectors, as far as those at hand can tell."""
        target = self._target(self._estimate().value if value is None else value)
        spread = float(np.std(self._samples.outside(size)[1], ddof=1))
        return (spread / target) ** 2 if target > 0 else math.inf

    def _target(self, value: float) -> float:
        return max(self._rtol * abs(value), self._atol)

    def _estimate(self) -> _Estimate:
        n = len(self._samples)
        inner, values = self._samples.outside(self._size)
        value = inner + (float(np.mean(values)) if n else 0.0)
        error = _widening(n) * float(np.std(values, ddof=1)) / math.sqrt(n) if n > 1 else math.inf
        method = "krylov" if self._size else "hutchinson"
        return _Estimate(value, error, method, error <= self._target(value) and n >= FRESH)

    def _exact(self) -> _Estimate:
        unit = torch.zeros(
            self._operator.dimension, dtype=self._operator.block.dtype, device=self._operator.block.device
        )
        diagonal, corner = [], []
        for index in range(len(unit)):
            unit.zero_()[index] = 1.0
            column = self._operator.matvec(unit)
            diagonal.append(float(column[index]))
            corner.append(column[:PILOT].double().clone())
        matrix = torch.stack(corner[:PILOT])
        require_symmetric(self._operator, float((matrix - matrix.T).abs().max()), float(matrix.abs().max()))
        return _Estimate(math.fsum(diagonal), 0.0, "exact", True)


def _inside(basis: Tensor, signs: Tensor, product: Tensor) -> tuple[Tensor, Tensor]:
    """Both in the basis; in float64, and there where the numbers are used."""
    return (basis @ signs).double().cpu(), (basis @ product).double().cpu()


def _dot(left: Tensor, right: Tensor) -> float:
    return float(torch.dot(left.double(), right.double()))
