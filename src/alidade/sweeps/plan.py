"""From planned runs to what is still to do: one training serves all the probes that anybody wants along it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from alidade.core.probes import AnyProbe, PlannedRun
from alidade.core.spec import RunSpec
from alidade.store import finished_segments, set_aside
from alidade.store.checkpoints import remove_checkpoint
from alidade.store.files import DamagedFileError
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
        DamagedFileError: a file of the run is damaged.
        WorkError: a newer Alidade wrote the run.
    """
    present = finished_segments(root, run.spec.run_id)
    probes = tuple(probe for probe in run.probes if probe.probe_id not in present)
    return None if TRAINING in present and not probes else PlannedRun(spec=run.spec, probes=probes)


def remaining(
    root: Path, runs: Iterable[PlannedRun], say: Callable[[str], None] = lambda line: None
) -> list[PlannedRun]:
    """What is missing of these runs. A damaged one is set aside, of which ``say`` is told, and missing as a whole.

    Raises:
        HeldError: another process works on a damaged run.
        WorkError: a newer Alidade wrote one of the runs, or a damaged one cannot be moved.
    """
    found = []
    for run in runs:
        try:
            part = missing(root, run)
        except DamagedFileError as error:
            place = set_aside(root, run.spec.run_id)
            say(f"{error.path}: damaged; the run is now in {place} and is measured again")
            part = run
        if part is None:
            remove_checkpoint(root / run.spec.run_id)  # a kill came between the run's last file and this
        else:
            found.append(part)
    return found
