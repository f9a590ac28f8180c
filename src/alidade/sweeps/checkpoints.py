"""When the checkpoints of a run are written, and which of them it goes on from: the state joined with the rows."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from alidade.core.errors import AlidadeError
from alidade.core.probes import PlannedRun
from alidade.probes.session import TIMING
from alidade.store import Segments
from alidade.store.checkpoints import Checkpoint, DamagedCheckpointError, read_checkpoint, write_checkpoint
from alidade.store.places import cause_of
from alidade.train.loop import TRAINING

#: Seconds of training between two checkpoints, at least: what a kill can cost.
LEAST_SECONDS = 10.0
#: Share of the time that checkpoints may take: a large network is saved less often.
SHARE = 0.01


class StoppedError(AlidadeError):
    """The time allowed is over; the last checkpoint is written."""


class RunCheckpoints:
    """Keeps the checkpoints of one run (train.checkpoint.Checkpoints) beside the rows that it has recorded.

    Args:
        folder: the run's folder.
        run: the run and what is wanted along it. A checkpoint that lacks one of these probes, or was written on
            another device or by another torch, is none to go on from: the numbers would not be those of one run.
        device: where the run computes.
        seconds: between two checkpoints, whatever they cost; None: at least ``LEAST_SECONDS``, and as many more as keep
            their share of the time below ``SHARE``.
        stop: whether the training is to end at the next step, with a last checkpoint.
        say: takes a line for the user.

    Raises:
        WorkError: a checkpoint that is another run's, from a newer version, or none at all.
    """

    def __init__(
        self,
        folder: Path,
        run: PlannedRun,
        device: str,
        seconds: float | None = None,
        stop: Callable[[], bool] = lambda: False,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._folder, self._run, self._stop, self._say = folder, run.spec.run_id, stop, say
        self._about = {"probes": [p.probe_id for p in run.probes], "device": device, "torch": str(torch.__version__)}
        self._fixed = seconds
        self._interval = LEAST_SECONDS if seconds is None else seconds
        self._last = self._asked = time.monotonic()
        self._told = False  # that a checkpoint could not be written
        found = self._found()
        self._state = found.state if found else None
        wanted = {TRAINING, TIMING, *self._about["probes"]}
        self.segments = found.segments.only(wanted) if found else Segments()

    def latest(self) -> bytes | None:
        """The state to go on from, which is handed out once."""
        state, self._state = self._state, None
        return state

    def due(self) -> bool:
        """Whether it is time, or the training is to stop."""
        self._asked = time.monotonic()
        return self._asked - self._last >= self._interval or self._stop()

    def keep(self, step: int, state: bytes) -> None:
        """Write the checkpoint; where the disk does not take it, training goes on and the next one may succeed.

        Raises:
            StoppedError: the training is to end here.
        """
        try:
            write_checkpoint(self._folder, self._run, step, self.segments, state, self._about)
        except OSError as error:
            if not self._told:
                self._told = True
                why = cause_of(error)
                self._say(f"{self._folder}: no checkpoint could be written ({why}); training goes on: free space")
        self._last = time.monotonic()
        if self._fixed is None:
            self._interval = max(LEAST_SECONDS, (self._last - self._asked) / SHARE)
        if self._stop():
            raise StoppedError(f"stopped after {step} steps")

    def _found(self) -> Checkpoint | None:
        try:
            found = read_checkpoint(self._folder, self._run)
        except DamagedCheckpointError as error:
            self._say(f"{error}; the run starts again")
            return None
        if found is None:
            return None
        if why := self._misfit(found.about):
            self._say(f"{self._folder}: the checkpoint {why}; the run starts again")
            return None
        self._say(f"{self._run}: goes on after {found.step} steps")
        return found

    def _misfit(self, about: Any) -> str | None:
        if not set(self._about["probes"]) <= set(about["probes"]):
            return "was written before other probes were wanted"
        for name in ("device", "torch"):
            if about[name] != self._about[name]:
                return f"is from {name} {about[name]}, and this is {self._about[name]}"
        return None
