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
from alidade.landscape.arguments import check_seed, is_whole
from alidade.landscape.curvature.krylov import Krylov
from alidade.landscape.curvature.operator import Matrix, SymmetricOperator, as_operator, require_symmetric
from alidade.landscape.objective import Objective

#: Every dimension is taken by itself up to this many.
PILOT = 10
#: Steps of the first Krylov space, how much it grows where that seems worth it, and how often; samples of what is left.
STEPS, GROWTH, TIMES, FRESH = 6, 12, 2, 8


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
    (Chen & Hallman 2023, SIAM J. Matrix Anal. 44), first of six steps: of the same effect for one product per column,
    since Lanczos has :math:`Q^\top H Q` already. Where samples show that many more would be needed, it grows. Where
    every dimension by itself would be cheaper, that is done.

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

    Cost: two forward and backward passes, then about two per product (kept graph). Memory: some 30 vectors.

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


class _Estimator:
    def __init__(self, operator: SymmetricOperator, rtol: float, atol: float, most: int, seed: int) -> None:
        self._operator, self._rtol, self._atol, self._most = operator, rtol, atol, most
        self._generator = torch.Generator().manual_seed(seed)
        self._samples: list[float] = []

    @property
    def _left(self) -> int:
        return self._most - self._operator.matvecs

    def run(self) -> _Estimate:
        if self._operator.dimension <= min(PILOT, self._left):
            return self._exact()
        space = Krylov(self._operator, self._signs())
        space.extend(max(0, min(STEPS, self._left - FRESH)))
        for _ in range(TIMES):
            estimate = self._sampled(space, [], FRESH)
            more = math.inf if self._left == 0 else self._more(estimate, FRESH)
            if estimate.met or self._left == 0:
                return estimate
            if more > self._operator.dimension <= self._left:
                return self._exact()
            if more <= 2 * GROWTH or space.complete or self._left < GROWTH + FRESH:
                return self._sampled(space, self._samples, None)
            space.extend(GROWTH)
        return self._sampled(space, [], None)

    def _more(self, estimate: _Estimate, n: int) -> float:
        """Products that plain sampling would still take to the tolerance, as far as n samples can tell."""
        target = self._target(estimate.value)
        return n * ((estimate.error / target) ** 2 - 1) if target > 0 else math.inf

    def _target(self, value: float) -> float:
        return max(self._rtol * abs(value), self._atol)

    def _of_samples(self, samples: Sequence[float], space: Krylov) -> _Estimate:
        n = len(samples)
        value = space.inner + float(np.mean(samples))
        error = _widening(n) * float(np.std(samples, ddof=1)) / math.sqrt(n) if n > 1 else math.inf
        method = "krylov" if len(space.basis) else "hutchinson"
        return _Estimate(value, error, method, error <= self._target(value) and n >= FRESH)

    def _sampled(self, space: Krylov, samples: list[float], most: int | None) -> _Estimate:
        """Samples of what the space leaves, until the tolerance is met or the products are spent, or ``most``."""
        self._samples = samples
        while self._left > 0 and (most is None or len(samples) < most):
            outside = space.outside(self._signs())
            samples.append(_dot(outside, self._operator.matvec(outside)))
            if self._of_samples(samples, space).met:
                break
        return self._of_samples(samples, space)

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

    def _signs(self) -> Tensor:
        draw = torch.randint(0, 2, (self._operator.dimension,), generator=self._generator)
        return (2 * draw - 1).to(self._operator.block.device, self._operator.block.dtype)


def _dot(left: Tensor, right: Tensor) -> float:
    return float(torch.dot(left.double(), right.double()))
