"""A study on this machine: a pool of processes, one run each, that can be stopped at any moment."""

from __future__ import annotations

import multiprocessing
import queue
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, Protocol

from alidade.core.errors import WorkError
from alidade.core.probes import PlannedRun
from alidade.probes.environment import usable_cores
from alidade.sweeps import worker

_POLL_SECONDS = 0.1


class Listener(Protocol):
    """Who is told how the study goes."""

    def advanced(self, run_id: str, step: int, loss: float, accuracy: float | None) -> None:
        """A run has taken ``step`` steps."""

    def finished(self, run_id: str) -> None:
        """A run is written."""

    def failed(self, run_id: str, reason: str) -> None:
        """A run came to nothing; the others go on."""


class OutOfTimeError(WorkError):
    """The time allowed is over; what is finished is kept."""


def execute(runs: Sequence[PlannedRun], job: worker.Job, listener: Listener, max_seconds: float | None = None) -> None:
    """Train all runs, as many at once as there are cores (one on a GPU).

    Ctrl-C, and the end of the time allowed, kill the workers at once: a run is on the disk whole or not at all.

    Raises:
        OutOfTimeError: ``max_seconds`` are over.
        WorkError: a run failed, or a worker process died; raised after the other runs have finished.
    """
    if not runs:
        return
    context = multiprocessing.get_context("spawn")  # CUDA and threads do not survive a fork
    messages = context.Queue()
    workers = min(len(runs), 1 if job.device.startswith("cuda") else usable_cores())
    deadline = time.monotonic() + max_seconds if max_seconds is not None else None
    pool = ProcessPoolExecutor(workers, context, worker.start, (job, messages))
    try:
        with _ctrl_c_held_back():
            pending = {pool.submit(worker.execute, run): run.spec.run_id for run in runs}
        failures = _follow(pending, messages, listener, deadline)
        pool.shutdown()
    except BaseException:
        with _ctrl_c_held_back():  # a second one must not save the workers
            for process in multiprocessing.active_children():
                process.kill()
            pool.shutdown(wait=False, cancel_futures=True)
        raise
    if failures:
        raise WorkError(f"{len(failures)} of {len(runs)} runs failed; the first: {failures[0]}")


@contextmanager
def _ctrl_c_held_back() -> Iterator[None]:
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


def _follow(pending: dict[Future[str], str], messages: Any, listener: Listener, deadline: float | None) -> list[str]:
    failures: list[str] = []
    while pending:
        if deadline is not None and time.monotonic() > deadline:
            raise OutOfTimeError("the time of --max-minutes is over; repeat the command to go on")
        done, _ = wait(pending, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
        _pass_on(messages, listener)  # what a run said comes before its end
        for future in done:
            run_id = pending.pop(future)
            reason = _failure(future)
            if reason is None:
                listener.finished(run_id)
            else:
                failures.append(reason)
                listener.failed(run_id, reason)
    return failures


def _pass_on(messages: Any, listener: Listener) -> None:
    while True:
        try:
            listener.advanced(*messages.get_nowait())
        except queue.Empty:
            return


def _failure(future: Future[str]) -> str | None:
    error = future.exception()
    if isinstance(error, BrokenProcessPool):
        return "a worker process died (out of memory?); repeat the command to go on"
    return None if error is None else " ".join(str(error).split()) or type(error).__name__
