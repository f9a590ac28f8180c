"""Curvature along a run: eigenvalues that start from the last eigenvectors, and what stands beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from alidade.core.curvature import NOT_CONVERGED, TopEigenvalues
from alidade.core.errors import AlidadeError, CallError
from alidade.core.probes import CurvatureProbe
from alidade.core.records import FAILED, Row, Statistics
from alidade.landscape.curvature.density import spectral_density
from alidade.landscape.curvature.directional import batch_sharpness, gradient_overlap, step_sharpness
from alidade.landscape.curvature.eigenvalues import top_eigenvalues
from alidade.landscape.curvature.operator import CurvatureOperator
from alidade.landscape.curvature.scaled import preconditioned_sharpness
from alidade.landscape.curvature.trace import hessian_trace
from alidade.landscape.differentiation import Tensors
from alidade.landscape.objective import Objective

T = TypeVar("T")

_PRECONDITIONED = "preconditioned"

#: A mixture has some of both guesses, whatever the last probe said: either may be the better one this time.
LEAST_SCOUT, MOST_SCOUT = 0.1, 10.0


class SpectrumTracker:
    """A curvature probe along one run, with the eigenvectors that it found last.

    A search begins at the last eigenvector and the gradient, mixed as near as each came to the eigenvector the last
    time. On one batch the eigenvector stays; from one mini-batch to the next it may well be another one, and the
    gradient of that very batch is then the better guess. Where the eigenvectors have turned away, or other parameters
    are trained than before, the row ``top_eigenvalue_lost`` is 1.

    >>> model = torch.nn.Linear(3, 1, bias=False).double()
    >>> objective = Objective(model, lambda model, x: (model(x) ** 4).sum(), torch.eye(3).double())
    >>> tracker = SpectrumTracker(CurvatureProbe(looks=("eigenvalues",)))
    >>> [row.quantity for row in tracker.rows(0, objective)]
    ['top_eigenvalue', 'top_eigenvalue_residual', 'top_eigenvalue_matvecs']
    >>> tracker.rows(10, objective)[-1].quantity, tracker.rows(10, objective)[-1].value
    ('top_eigenvalue_lost', 0.0)
    """

    def __init__(self, probe: CurvatureProbe) -> None:
        self._probe = probe
        self._latest: dict[str, Sequence[Mapping[str, Tensor]]] = {}  # eigenvectors, by what they are of
        self._scouts: dict[str, float] = {}  # how much better a guess the gradient was than the vector before

    def rows(
        self,
        step: int,
        objective: Objective,
        update: Tensors | None = None,
        optimizer: torch.optim.Optimizer | None = None,
    ) -> list[Row]:
        """What the probe sees now, under each of its statistics modes that makes a difference.

        A mode that is refused (running statistics that no batch has moved) has one row with the reason.

        Raises:
            AlidadeError: every mode was refused.
        """
        found: list[Row] = []
        refusals: list[AlidadeError] = []
        seen: set[Statistics] = set()
        for mode in self._probe.statistics:
            try:
                under = objective if mode == "own" else objective.under(mode)
                if under.statistics not in seen:
                    found += list(self._looks(step, under, update, optimizer))
                    seen.add(under.statistics)
            except AlidadeError as refusal:
                refusals.append(refusal)
                found.append(_refused(step, objective, mode, refusal))
        if len(refusals) == len(self._probe.statistics):
            raise refusals[0]
        return found

    def state(self) -> dict[str, Any]:
        """The eigenvectors, in plain dictionaries, tensors and numbers."""
        vectors = {name: [dict(vector) for vector in vectors] for name, vectors in self._latest.items()}
        return {"vectors": vectors, "scouts": dict(self._scouts)}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from such a state."""
        self._latest, self._scouts = dict(state["vectors"]), dict(state["scouts"])

    def _looks(
        self, step: int, objective: Objective, update: Tensors | None, optimizer: torch.optim.Optimizer | None
    ) -> Iterator[Row]:
        probe = self._probe
        operator = CurvatureOperator(objective, matrix=probe.matrix)  # one graph for all looks
        prefix = "" if probe.matrix == "hessian" else f"{probe.matrix}_"
        if "eigenvalues" in probe.looks:
            yield from self._eigenvalues(step, operator, prefix)
        if "batch_sharpness" in probe.looks:
            yield from batch_sharpness(operator).rows(step, prefix)
        if "step_sharpness" in probe.looks:
            yield from step_sharpness(operator, _known(update, "step_sharpness")).rows(step, prefix)
        if "trace" in probe.looks:
            trace = hessian_trace(operator, probe.trace_rtol, max_matvecs=probe.max_matvecs, seed=step)
            yield from trace.rows(step, prefix)
        if "density" in probe.looks:
            vectors, steps, points = probe.density_vectors, probe.density_steps, probe.density_points
            yield from spectral_density(operator, vectors, steps, points, seed=step).rows(step, prefix)
        if _PRECONDITIONED in probe.looks:
            yield from self._preconditioned(step, objective, _known(optimizer, _PRECONDITIONED))

    def _eigenvalues(self, step: int, operator: CurvatureOperator, prefix: str) -> Iterator[Row]:
        probe, name = self._probe, f"{operator.provenance.statistics}"
        start = self._start(name, operator.block.parameters)
        top = top_eigenvalues(
            operator, min(probe.k, operator.dimension), probe.which, probe.rtol, probe.max_matvecs, start,
            seed=step, scout=self._scouts.get(name, 1.0),
        )  # fmt: skip
        if start:
            self._scouts[name] = _scout(operator, top, start[0])
        top = self._kept(name, top, start)
        end = "" if probe.which == "largest" else f"{probe.which}_"
        yield from top.rows(step, prefix + end)
        if "gradient_overlap" in probe.looks:
            yield from _overlap(step, operator, top, prefix + end)

    def _preconditioned(self, step: int, objective: Objective, optimizer: torch.optim.Optimizer) -> Iterator[Row]:
        probe, name = self._probe, f"{_PRECONDITIONED} {objective.statistics}"
        k, start = min(probe.k, CurvatureOperator(objective).dimension), self._start(name, objective.parameters)
        top = preconditioned_sharpness(objective, optimizer, k, probe.rtol, probe.max_matvecs, start)
        yield from self._kept(name, top, start).rows(step)

    def _start(self, name: str, parameters: Tensors) -> Sequence[Mapping[str, Tensor]] | None:
        """The last eigenvectors, unless a layer was frozen, unfrozen or exchanged: they are those of another matrix."""
        shapes = {name: p.shape for name, p in parameters.items()}
        latest = self._latest.get(name)
        fitting = latest and all({n: t.shape for n, t in vector.items()} == shapes for vector in latest)
        return latest if fitting else None

    def _kept(self, name: str, top: TopEigenvalues, start: Sequence[Mapping[str, Tensor]] | None) -> TopEigenvalues:
        """The eigenvectors for the next time, also where not converged yet; lost where those before did not fit."""
        outdated = name in self._latest and start is None
        self._latest[name] = top.eigenvectors
        return replace(top, lost=True) if outdated else top


def _scout(operator: CurvatureOperator, top: TopEigenvalues, before: Mapping[str, Tensor]) -> float:
    """The gradient's cosine with the eigenvector over that of the vector from before, within reason."""
    found, gradient = operator.block.flat(top.eigenvectors[0]), operator.gradient()
    if gradient is None:
        return 1.0
    guesses = [gradient, operator.block.checked(before)]
    near = [float(torch.nn.functional.cosine_similarity(guess, found, dim=0).abs()) for guess in guesses]
    return float(min(max(near[0] / max(near[1], 1e-3), LEAST_SCOUT), MOST_SCOUT))


def _overlap(step: int, operator: CurvatureOperator, top: TopEigenvalues, prefix: str) -> Iterator[Row]:
    if top.converged:
        yield from gradient_overlap(operator, top).rows(step, prefix)
        return
    at = operator.provenance
    status = top.problem or NOT_CONVERGED
    yield Row(step, f"{prefix}gradient_overlap", float("nan"), "1", None, None, at.statistics, at.dtype, status)


def _refused(step: int, objective: Objective, mode: str, refusal: AlidadeError) -> Row:
    statistics = objective.statistics if mode == "own" else mode
    status = f"{FAILED}: {' '.join(str(refusal).split())}"
    return Row(step, "curvature", float("nan"), "1", None, None, statistics, objective.dtype, status)  # type: ignore[arg-type]


def _known(thing: T | None, look: str) -> T:
    if thing is None:
        raise CallError(f"{look}: expected a probe of a Survey, where the optimizer's step is known")
    return thing
