"""What the experiments plan, sorted by what a test asks for."""

from __future__ import annotations

from collections import Counter
from typing import Any

from alidade.core.probes import AnyProbe, PlannedRun
from alidade.core.spec import RunSpec
from alidade.experiments import experiments_named
from alidade.experiments.experiment import Settings
from alidade.sweeps.plan import union

DIGITS = Settings(data="digits")
PAPER = Settings(scale="paper")


def planned(experiments: tuple[object, ...], settings: Settings) -> list[PlannedRun]:
    return union(run for experiment in experiments for run in experiment.runs(settings))  # type: ignore[attr-defined]


def specs_of(name: str, settings: Settings, kind: str) -> list[RunSpec]:
    return [run.spec for run in planned(experiments_named(name), settings) if run.spec.model.kind == kind]


def networks_of(name: str, settings: Settings, kind: str) -> Counter[tuple[str, float]]:
    """How many runs there are of each norm and learning rate."""
    return Counter((spec.model.norm, spec.optimizer.learning_rate) for spec in specs_of(name, settings, kind))


def probes_of(name: str, kind: str, probe: type[AnyProbe], settings: Settings = PAPER) -> list[tuple[PlannedRun, Any]]:
    runs = [run for run in planned(experiments_named(name), settings) if run.spec.model.kind == kind]
    return [(run, found) for run in runs for found in run.probes if isinstance(found, probe)]


def due_steps(run: PlannedRun, probe: Any) -> list[int]:
    return [step for step in range(run.spec.steps + 1) if probe.schedule.due(step)]
