"""A session: the probes of one run, their schedules, and where their measurements go."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from alidade.core.records import FAILED, NON_FINITE, OK, Recorder, Row
from alidade.core.spec import AnyProbe, EvaluationProbe, LineProfileProbe
from alidade.landscape.loss import LossFunction
from alidade.landscape.objective import Objective
from alidade.probes.evaluation import evaluate
from alidade.probes.line import line_profile

TIMING = "timing"  # the segment of what is not reproducible


@dataclass
class Moment:
    """The training run as it stands before an optimizer step."""

    step: int
    model: nn.Module
    loss_fn: LossFunction
    batch: Any  # that the next step is taken on
    test: tuple[Tensor, Tensor] | None = None
    check_deterministic: bool = True

    @cached_property
    def objective(self) -> Objective:
        """Loss of the next step's batch with the random numbers that its forward pass is going to draw."""
        return Objective(self.model, self.loss_fn, self.batch, check_deterministic=self.check_deterministic)


class Session:
    """Runs the probes that are due and records what they say; a probe that fails never stops the training."""

    def __init__(self, probes: Sequence[AnyProbe], recorder: Recorder) -> None:
        self.probes, self._recorder = tuple(probes), recorder
        self._warned: set[str] = set()
        for probe in self.probes:
            recorder.record(probe.probe_id, [])

    def due(self, step: int) -> bool:
        """Whether any probe is due at this step."""
        return any(probe.schedule.due(step) for probe in self.probes)

    def measure(self, moment: Moment) -> None:
        """Run the probes that are due at this moment, in the order given."""
        for probe in self.probes:
            if probe.schedule.due(moment.step):
                began = time.perf_counter()
                self._recorder.record(probe.probe_id, self._rows(probe, moment))
                name = probe.probe_id.rsplit("-", 1)[0]
                self._recorder.record(
                    TIMING, [Row(moment.step, f"{name}_seconds", time.perf_counter() - began, "s", dtype="float64")]
                )

    def _rows(self, probe: AnyProbe, moment: Moment) -> list[Row]:
        try:
            return list(MEASURES[probe.kind](probe, moment))
        except Exception as error:  # the training must go on, whatever a probe runs into
            reason = " ".join(str(error).split()) or type(error).__name__
            if reason not in self._warned:
                self._warned.add(reason)
                warnings.warn(f"probe {probe.probe_id} failed at step {moment.step}: {reason}", stacklevel=2)
            return [Row(moment.step, probe.kind, float("nan"), "1", status=f"{FAILED}: {reason}")]


def _measure_line(probe: LineProfileProbe, moment: Moment) -> Iterable[Row]:
    profile = line_profile(moment.objective, probe.step_sizes, coordinates=probe.coordinates)
    return profile.rows(moment.step)


def _measure_evaluation(probe: EvaluationProbe, moment: Moment) -> Iterable[Row]:
    if moment.test is None:
        raise ValueError("evaluation: expected test data, got none")
    images, labels = moment.test
    result = evaluate(moment.model, images[: probe.examples], labels[: probe.examples])
    for name, value, unit in (("test_loss", result.loss, "nat"), ("test_accuracy", result.accuracy, "1")):
        status = OK if abs(value) < float("inf") else NON_FINITE
        yield Row(moment.step, name, value, unit, statistics=_eval_statistics(moment.model), status=status)


def _eval_statistics(model: nn.Module) -> Any:
    return "running" if any("running_mean" in name for name, _ in model.named_buffers()) else "none"


#: How each kind of probe is measured.
MEASURES: dict[str, Callable[..., Iterable[Row]]] = {
    "line_profile": _measure_line,
    "evaluation": _measure_evaluation,
}
