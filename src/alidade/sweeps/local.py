"""A study on this machine: processes side by side, one run each, that can be stopped at any moment."""

from __future__ import annotations

import multiprocessing
import queue
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Protocol

from alidade.core.errors import WorkError
from alidade.core.probes import PlannedRun
from alidade.core.spec import RunSpec
from alidade.probes.environment import usable_cores
from alidade.probes.memory import reason_of
from alidade.store.failures import note_failure
from alidade.store.locks import HeldError
from alidade.sweeps import worker
from alidade.sweeps.checkpoints import StoppedError

_POLL_SECONDS = 0.1
#: How long a run may take to reach its next step and write its last checkpoint when the time allowed is over.
GRACE_SECONDS = 30.0


class Listener(Protocol):
    """Who is told how the study goes."""

    def advanced(self, run_id: str, step: int, loss: float, accuracy: float | None) -> None:
        """A run has taken ``step`` steps."""

    def noted(self, run_id: str, line: str) -> None:
        """Something about a run that its user should know."""

    def finished(self, run_id: str) -> None:
        """A run is written."""

    def failed(self, run_id: str, reason: str) -> None:
        """A run came to nothing; the others go on."""


class OutOfTimeError(WorkError):
    """The time allowed is over; what is finished is kept."""


def execute(runs: Sequence[PlannedRun], job: worker.Job, listener: Listener, max_seconds: float | None = None) -> None:
    """Train all runs, as many at once as there are cores (one on a GPU).

    Ctrl-C kills the workers at once: a finished run is on the disk whole, and the others go on from their last
    checkpoint. At the end of the time allowed they write one. A worker that dies takes its own run with it only.

    Raises:
        OutOfTimeError: ``max_seconds`` are over.
        WorkError: a run failed, or a worker process died; raised after the other runs have finished.
    """
    if not runs:
        return
    study = _Study(runs, job, listener)
    try:
        failures = study.follow(time.monotonic() + max_seconds if max_seconds is not None else None)
        study.close()
    except BaseException:
        with ctrl_c_held_back():  # a second one must not save the workers
            for process in multiprocessing.active_children():
                process.kill()
            study.close()
        raise
    if failures:
        raise WorkError(f"{len(failures)} of {len(runs)} runs failed; the first: {failures[0]}")


@contextmanager
def ctrl_c_held_back() -> Iterator[None]:
    """Ours comes afterwards; processes started in here never see one, not even while they import."""
    if sys.platform == "win32" or threading.current_thread() is not threading.main_thread():
        yield
        return
    pressed: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, frame: pressed.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # inherited by processes, unlike a handler
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, handler)
        if pressed:
            signal.raise_signal(signal.SIGINT)


class _Study:
    """The runs of a study and the processes that train them: a pool of one process for each that works at a time.

    A larger pool breaks as a whole when one of its processes dies.
    """

    def __init__(self, runs: Sequence[PlannedRun], job: worker.Job, listener: Listener) -> None:
        self._job, self._listener = job, listener
        self._context = multiprocessing.get_context("spawn")  # CUDA and threads do not survive a fork
        self._messages, self._stop = self._context.Queue(), self._context.Event()
        self._waiting = deque(runs)
        self._places = min(len(runs), 1 if job.device.startswith("cuda") else usable_cores())
        self._idle: list[ProcessPoolExecutor] = []
        self._working: dict[Future[str], tuple[ProcessPoolExecutor, RunSpec]] = {}
        self._advancing: set[str] = set()  # runs that have something to save

    def follow(self, deadline: float | None) -> list[str]:
        """Wait for all runs; returns why some failed."""
        failures: list[str] = []
        while self._waiting or self._working:
            if deadline is not None and time.monotonic() > deadline:
                self._end_in_time()
                raise OutOfTimeError("the time of --max-minutes is over; repeat the command to go on")
            self._hand_out()
            failures += filter(None, map(self._settle, self._done()))
        return failures

    def close(self) -> None:
        """End the processes that have nothing to do."""
        for pool in [*self._idle, *(pool for pool, _ in self._working.values())]:
            pool.shutdown(wait=not self._working, cancel_futures=True)

    def _hand_out(self) -> None:
        while self._waiting and len(self._working) < self._places:
            with ctrl_c_held_back():
                run = self._waiting.popleft()
                pool = self._idle.pop() if self._idle else self._new_pool()
                self._working[pool.submit(worker.execute, run)] = (pool, run.spec)

    def _new_pool(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(1, self._context, worker.start, (self._job, self._messages, self._stop))

    def _done(self) -> list[Future[str]]:
        done, _ = wait(self._working, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
        self._pass_on()  # what a run said comes before its end
        return list(done)

    def _settle(self, future: Future[str]) -> str | None:
        """Why a run failed, which is noted in its folder; None if it did not."""
        pool, spec = self._working.pop(future)
        run_id = spec.run_id
        error = future.exception()
        if isinstance(error, BrokenProcessPool):
            pool.shutdown(wait=False)
        else:
            self._idle.append(pool)
        if error is None or isinstance(error, StoppedError):
            if error is None:
                self._listener.finished(run_id)
            return None
        reason = _reason(error)
        if not isinstance(error, HeldError):  # then it is another process that knows how the run fares
            note_failure(self._job.root / run_id, spec.label, reason)
        self._listener.failed(run_id, reason)
        return reason

    def _end_in_time(self) -> None:
        """Let every run that has taken a step write its last checkpoint."""
        self._stop.set()
        deadline = time.monotonic() + GRACE_SECONDS
        while time.monotonic() < deadline and self._any_advancing():
            for future in self._done():
                self._settle(future)

    def _any_advancing(self) -> bool:
        return any(spec.run_id in self._advancing for _, spec in self._working.values())

    def _pass_on(self) -> None:
        while True:
            try:
                kind, run_id, *said = self._messages.get_nowait()
            except queue.Empty:
                return
            if kind == "advanced":
                self._advancing.add(run_id)
            getattr(self._listener, kind)(run_id, *said)


def _reason(error: BaseException) -> str:
    if isinstance(error, BrokenProcessPool):
        return "a worker process died (out of memory?); repeat the command to go on"
    return reason_of(error)
