"""A session: the probes of one run, their schedules, their budget, and where their measurements go."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from alidade.core.activations import ActivationStatistics
from alidade.core.errors import CallError, brief
from alidade.core.probes import (
    ActivationsProbe,
    AnyProbe,
    CovariateShiftProbe,
    CurvatureProbe,
    EvaluationProbe,
    LayerScalarsProbe,
    LineProfileProbe,
    RescalingProbe,
    TheoremProbe,
)
from alidade.core.records import FAILED, NON_FINITE, OK, LineProfile, Recorder, Row, Statistics
from alidade.landscape.differentiation import Tensors
from alidade.landscape.isolation import unwrap
from alidade.landscape.objective import Objective
from alidade.landscape.ranks import ALONE, Ranks
from alidade.landscape.statistics import describe_statistics
from alidade.probes.activations import activations_of
from alidade.probes.agreement import SharedPlan
from alidade.probes.budget import Budget
from alidade.probes.covariate_shift import shift_of_parts
from alidade.probes.evaluation import evaluate
from alidade.probes.layer_scalars import layer_scalars
from alidade.probes.line import line_profile
from alidade.probes.memory import is_out_of_memory, reason_of, release_memory
from alidade.probes.moment import Moment
from alidade.probes.rescaling import rescaled
from alidade.probes.saved import plain_statistics, statistics_of
from alidade.probes.spectrum import SpectrumTracker
from alidade.probes.theorem import lipschitz_reduction

T = TypeVar("T")

TIMING = "timing"  # the segment of what is not reproducible


class Session:
    """Runs the probes that are due and records what they say; a probe that fails never stops the training."""

    def __init__(
        self, probes: Sequence[AnyProbe], recorder: Recorder, budget: Budget | None = None, ranks: Ranks = ALONE
    ) -> None:
        self.probes, self._recorder = {probe.probe_id: probe for probe in probes}, recorder
        self.budget = budget or Budget(None)
        self._ranks = ranks
        self._plan = SharedPlan(ranks) if ranks.size > 1 and self.budget.limited else None
        self._warned: set[str] = set()
        self._activations: dict[str, tuple[ActivationStatistics, ActivationStatistics]] = {}  # first and latest
        curvature = {name: probe for name, probe in self.probes.items() if isinstance(probe, CurvatureProbe)}
        self._trackers = {name: SpectrumTracker(probe) for name, probe in curvature.items()}
        for probe_id in self.probes:
            recorder.record(probe_id, [])

    def due(self, step: int) -> list[str]:
        """Ids of the probes that are due at this step and that the budget covers."""
        return self.budget.affordable(self._wanted(step)) if self._plan is None else self._plan.chosen(step)

    def look_ahead(self, step: int) -> None:
        """Where several processes share a budget: have the first decide what the coming step is to have."""
        if self._plan is not None:
            self._plan.decide(step, self._wanted(step), self.budget.affordable)

    def due_around(self, step: int) -> tuple[list[str], list[str]]:
        """Ids of the due probes that look ahead before the step, and of those that need the step itself."""
        due = self.due(step)
        across = [probe_id for probe_id in due if _needs_the_step(self.probes[probe_id])]
        return [probe_id for probe_id in due if probe_id not in across], across

    def _wanted(self, step: int) -> list[str]:
        return [name for name, probe in self.probes.items() if probe.schedule.due(step)]

    def measure(self, moment: Moment, chosen: Sequence[str]) -> None:
        """Run the chosen probes at this moment, in their order."""
        for probe_id in chosen:
            _synchronize()
            began = time.perf_counter()
            self._recorder.record(probe_id, self._rows(self.probes[probe_id], moment))
            _synchronize()
            seconds = time.perf_counter() - began
            self.budget.charge(probe_id, seconds)
            name = probe_id.rsplit("-", 1)[0]
            self._recorder.record(TIMING, [Row(moment.step, f"{name}_seconds", seconds, "s", dtype="float64")])

    def attempt(self, step: int, probes: Sequence[str], work: Callable[[], T]) -> T | None:
        """What ``work`` gives to these probes; if it raises, None, and they have failed."""
        try:
            return work()
        except Exception as error:
            reason, exhausted = reason_of(error), is_out_of_memory(error)
        if exhausted:
            release_memory()
        self.fail(step, probes, reason)
        return None

    def fail(self, step: int, probes: Sequence[str], reason: str) -> None:
        """Record that these probes came to nothing, and say so once per reason."""
        for probe_id in probes:
            self._recorder.record(probe_id, [self._failure(step, self.probes[probe_id], reason)])

    def state(self) -> dict[str, Any]:
        """What a training that goes on from a checkpoint needs, in plain numbers, text and tensors."""
        statistics = {name: [plain_statistics(s) for s in both] for name, both in self._activations.items()}
        curvature = {name: tracker.state() for name, tracker in self._trackers.items()}
        return {"budget": self.budget.state(), "activations": statistics, "curvature": curvature}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from such a state; what it holds of probes that are not asked for any more is left out.

        Raises:
            CallError: it is no such state, or a damaged one.
        """
        try:
            self.budget.load(state["budget"])
            self._activations = {
                name: (statistics_of(first), statistics_of(latest))
                for name, (first, latest) in state["activations"].items()
                if name in self.probes
            }
            for name, vectors in state.get("curvature", {}).items():  # a state of before there was this probe has none
                if name in self._trackers:
                    self._trackers[name].load(vectors)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CallError(f"state: expected that of a session, got a damaged one ({brief(error)})") from error
        if self._plan is not None:
            self._plan.forget()

    def _rows(self, probe: AnyProbe, moment: Moment) -> list[Row]:
        try:
            return self._ranks.phase(lambda: list(self._measured(probe, moment)))
        except Exception as error:  # the training must go on, whatever a probe runs into
            reason, exhausted = reason_of(error), is_out_of_memory(error)
        if exhausted:
            release_memory()  # out here nothing holds the probe's tensors any more
        return [self._failure(moment.step, probe, reason)]

    def _measured(self, probe: AnyProbe, moment: Moment) -> Iterable[Row]:
        if isinstance(probe, ActivationsProbe):
            return self._measure_activations(probe, moment)
        if isinstance(probe, CurvatureProbe):
            tracker = self._trackers[probe.probe_id]
            return tracker.rows(moment.step, moment.objective, moment.update, moment.optimizer)
        return MEASURES[probe.kind](probe, moment)

    def _measure_activations(self, probe: ActivationsProbe, moment: Moment) -> Iterable[Row]:
        """The statistics, their change since the last probe and their drift since the first (paper, Fig. 8)."""
        now = activations_of(moment.objective, probe.layers)
        yield from now.rows(moment.step)
        if probe.probe_id in self._activations:
            first, latest = self._activations[probe.probe_id]
            yield from (row for row in latest.change(now).rows(moment.step) if row.quantity.endswith("_change"))
            yield from (row for row in first.change(now).rows(moment.step) if row.quantity.endswith("_drift"))
        self._activations[probe.probe_id] = (self._activations.get(probe.probe_id, (now, now))[0], now)

    def _failure(self, step: int, probe: AnyProbe, reason: str) -> Row:
        if self._ranks.index == 0 and (known := f"{probe.probe_id} {reason}") not in self._warned:
            self._warned.add(known)
            warnings.warn(f"probe {probe.probe_id} failed at step {step}: {reason}", stacklevel=2)
        return Row(step, probe.kind, float("nan"), "1", status=f"{FAILED}: {reason}")


def _needs_the_step(probe: AnyProbe) -> bool:
    if isinstance(probe, CurvatureProbe):
        return probe.needs_the_step
    along_the_update = isinstance(probe, LineProfileProbe) and probe.direction == "update"
    return along_the_update or isinstance(probe, CovariateShiftProbe)


def _synchronize() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def _measure_line(probe: LineProfileProbe, moment: Moment) -> Iterable[Row]:
    direction: str | Mapping[str, Tensor] | None = None if probe.direction == "gradient" else probe.direction
    if probe.direction == "update":
        if moment.update is None:
            raise CallError("direction='update': expected a probe of a Survey, where the optimizer's step is known")
        direction = moment.update
    if moment.update is not None and direction is moment.update and not _finite(moment.update):
        profile = _profile_of_nothing(moment.objective, probe)
    else:
        profile = line_profile(
            moment.objective, probe.step_sizes, direction, probe.coordinates, seed=moment.step
        )  # another random direction at every step
    prefix = "update_" if probe.direction == "update" else "random_" if probe.direction == "random" else ""
    return profile.rows(moment.step, prefix)


def _finite(tensors: Tensors) -> bool:
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values())


def _profile_of_nothing(objective: Objective, probe: LineProfileProbe) -> LineProfile:
    """Along an update that is not finite there is nothing but the loss before the step."""
    nothing = np.full(len(probe.step_sizes), np.nan)
    provenance = objective.provenance(coordinates=probe.coordinates, direction="given")
    return LineProfile(
        np.array(probe.step_sizes), *(nothing,) * 6, status=(NON_FINITE,) * len(nothing), loss=float(objective.value()),
        gradient_norm=np.nan, direction_norm=np.nan, provenance=provenance,
    )  # fmt: skip


def _measure_evaluation(probe: EvaluationProbe, moment: Moment) -> Iterable[Row]:
    if moment.test is None:
        raise CallError("evaluation: expected test data, got none")
    images, labels = (tensor[: probe.examples] for tensor in moment.test)
    result = evaluate(moment.model, images, labels)
    statistics: Statistics = "none" if describe_statistics(moment.model) == "none" else "running"
    for name, value, unit in (("test_loss", result.loss, "nat"), ("test_accuracy", result.accuracy, "1")):
        status = OK if abs(value) < float("inf") else NON_FINITE
        yield Row(moment.step, name, value, unit, statistics=statistics, status=status)


def _measure_scalars(probe: LayerScalarsProbe, moment: Moment) -> Iterable[Row]:
    return layer_scalars(moment.objective, lr=moment.learning_rates, update=moment.update).rows(moment.step)


def _measure_shift(probe: CovariateShiftProbe, moment: Moment) -> Iterable[Row]:
    if moment.start is None:
        raise CallError("covariate_shift: expected a probe of a Survey, where the optimizer's step is known")
    after = unwrap(moment.model).state_dict()
    before = {**after, **(moment.parts[0].conditions.buffers or {}), **moment.start}
    layers = probe.groups or probe.layers
    shift = shift_of_parts(moment.model, moment.loss_fn, moment.parts, before, after, layers, None)
    return shift.rows(moment.step)


def _measure_theorem(probe: TheoremProbe, moment: Moment) -> Iterable[Row]:
    return lipschitz_reduction(moment.objective, probe.layers).rows(moment.step)


def _measure_rescaling(probe: RescalingProbe, moment: Moment) -> Iterable[Row]:
    for factor in probe.factors:
        scaled = rescaled(moment.objective, factor)
        for coordinates, sizes in (("raw", probe.step_sizes), ("relative", probe.relative_step_sizes)):
            profile = line_profile(scaled, sizes, coordinates=coordinates)
            yield from profile.rows(moment.step, f"rescaled_{factor:g}_")


#: How each kind of probe is measured.
MEASURES: dict[str, Callable[..., Iterable[Row]]] = {
    "line_profile": _measure_line,
    "evaluation": _measure_evaluation,
    "layer_scalars": _measure_scalars,
    "covariate_shift": _measure_shift,
    "theorem_4_1": _measure_theorem,
    "rescaling": _measure_rescaling,
}
