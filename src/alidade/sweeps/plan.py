"""From planned runs to what is still to do: one training serves all the probes that anybody wants along it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from alidade.core.probes import AnyProbe, PlannedRun
from alidade.core.spec import RunSpec
from alidade.store import finished_segments
from alidade.train.loop import TRAINING


def union(runs: Iterable[PlannedRun]) -> list[PlannedRun]:
    """Each training once, with all its probes, in the order of first mention."""
    specs: dict[str, RunSpec] = {}
    probes: dict[str, dict[str, AnyProbe]] = {}
    for run in runs:
        specs.setdefault(run.spec.run_id, run.spec)
        probes.setdefault(run.spec.run_id, {}).update({probe.probe_id: probe for probe in run.probes})
    return [PlannedRun(spec=spec, probes=tuple(probes[run].values())) for run, spec in specs.items()]


def missing(root: Path, run: PlannedRun) -> PlannedRun | None:
    """The part of a planned run that the folder does not hold yet; None when it is finished.

    Raises:
        WorkError: the run's folder is damaged.
    """
    present = finished_segments(root, run.spec.run_id)
    probes = tuple(probe for probe in run.probes if probe.probe_id not in present)
    return None if TRAINING in present and not probes else PlannedRun(spec=run.spec, probes=probes)
