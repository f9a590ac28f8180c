"""What checkpoints cost a run at default settings, as a share of its time.

Reach: at most 2 %. Three runs of a study, trained here with all their probes: a VGG without and one with batch
normalization, and the same with tracked eigenvectors, whose state is larger. Counted is everything from the question
whether a checkpoint is due until it is on the disk; a comparison of whole runs would drown in the noise of the machine.

    OMP_NUM_THREADS=1 python benchmarks/checkpoint.py
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from side_by_side import write

from alidade.core.probes import PlannedRun
from alidade.experiments import EXPERIMENTS
from alidade.experiments.experiment import Settings
from alidade.sweeps import worker
from alidade.sweeps.checkpoints import RunCheckpoints

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class Timed(RunCheckpoints):
    """Notes what each checkpoint took."""

    taken: list[tuple[float, int]]

    def due(self) -> bool:
        self._began = time.perf_counter()
        return super().due()

    def keep(self, step: int, state: bytes) -> None:
        super().keep(step, state)
        Timed.taken.append((time.perf_counter() - self._began, len(state)))


def chosen() -> dict[str, PlannedRun]:
    """The runs, by name."""
    settings = Settings(scale="quick", data="digits", fingerprint="0123456789abcdef", seeds=1)
    plain, tracked = (EXPERIMENTS[name].runs(settings) for name in ("landscape", "curvature"))

    def of(runs: list[PlannedRun], norm: str) -> PlannedRun:
        return next(run for run in runs if run.spec.model.norm == norm)

    return {
        "VGG": of(plain, "none"), "VGG, batch norm": of(plain, "batch"),
        "VGG, batch norm, tracked eigenvectors": of(tracked, "batch"),
    }  # fmt: skip


def measured(run: PlannedRun, root: Path) -> dict[str, Any]:
    """Train the run as a worker would."""
    Timed.taken = []
    began = time.perf_counter()
    worker.perform(run, worker.Job(root, None, DEVICE), lambda progress: None)
    seconds, taken = time.perf_counter() - began, sum(cost for cost, _ in Timed.taken)
    sizes = [size for _, size in Timed.taken]
    return {
        "seconds": seconds, "checkpoints": len(sizes), "seconds_in_checkpoints": taken,
        "largest_state_bytes": max(sizes, default=0), "share": taken / (seconds - taken),
    }  # fmt: skip


if __name__ == "__main__":
    torch.set_num_threads(1)
    worker.RunCheckpoints = Timed  # type: ignore[misc]
    with tempfile.TemporaryDirectory() as folder:
        write(__file__, {name: measured(run, Path(folder)) for name, run in chosen().items()})
