"""One worker process: trains the runs it is handed, one thread each, and writes them to the store."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from alidade.core.errors import WorkError
from alidade.core.probes import PlannedRun
from alidade.core.spec import DataSpec, ImagesName
from alidade.data import Dataset, fingerprint, load
from alidade.probes.environment import environment
from alidade.probes.memory import is_out_of_memory, reason_of, release_memory
from alidade.store import write_run
from alidade.store.checkpoints import remove_checkpoint
from alidade.store.failures import clear_failure
from alidade.store.locks import holding
from alidade.sweeps.checkpoints import RunCheckpoints
from alidade.train.loop import Progress, train

#: Seconds between two progress messages of one run.
MESSAGE_SECONDS = 0.2


@dataclass(frozen=True)
class Job:
    """What every worker of a study shares."""

    root: Path
    data_dir: Path | None
    device: str
    checkpoint_seconds: float | None = None  # None: as sweeps.checkpoints chooses


_job: Job
_messages: Any
_stop: Any


def start(job: Job, messages: Any, stop: Any) -> None:
    """Prepare this process: leave Ctrl-C to the parent, die with it, use one thread."""
    global _job, _messages, _stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    _job, _messages, _stop = job, messages, stop


def execute(run: PlannedRun) -> str:
    """Train one run with its probes and write it; returns its id. The parent hears how it goes."""

    def tell(*message: Any) -> None:
        _messages.put(message)

    return perform(run, _job, reporter(run, tell), _stop.is_set, lambda line: tell("noted", run.spec.run_id, line))


def reporter(run: PlannedRun, tell: Callable[..., None]) -> Callable[[Progress], None]:
    """What tells how a run advances: its last step, and before that now and then."""
    last = 0.0

    def report(progress: Progress) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last > MESSAGE_SECONDS or progress.step == run.spec.steps:
            last = now
            tell("advanced", run.spec.run_id, *progress)

    return report


def images(data: DataSpec, job: Job) -> Dataset | None:
    """The images that a run learns from; None where it draws its own data."""
    return None if data.name == "gaussian" else _read(data.name, job.data_dir, data.train_examples)


def perform(
    run: PlannedRun,
    job: Job,
    report: Callable[[Progress], None],
    stop: Callable[[], bool] = lambda: False,
    say: Callable[[str], None] = lambda line: None,
    read: Callable[[DataSpec, Job], Dataset | None] = images,
    patience: float = 0.0,
) -> str:
    """Train one run from its last checkpoint on, in this process, and write it; returns its id.

    Args:
        run: what to train, and the probes along it.
        job: where to write, and where the data are.
        report: told after every step.
        stop: asked before every step; the training then ends with a last checkpoint.
        say: takes a line for the user, such as that a checkpoint is damaged.
        read: gives the images.
        patience: seconds to wait for another process to leave the run.

    Raises:
        StoppedError: ``stop`` said so.
        HeldError: another process works on this run.
        WorkError: a checkpoint of another run or version, a full or read-only disk, not enough memory.
    """
    folder = job.root / run.spec.run_id
    try:
        with holding(folder, patience):
            clear_failure(folder)
            checkpoints = RunCheckpoints(folder, run, job.device, job.checkpoint_seconds, stop, say)
            data = read(run.spec.data, job)
            train(run.spec, data, run.probes, checkpoints.segments, job.device, report, checkpoints)
            write_run(job.root, run.spec, checkpoints.segments, environment(job.device))
            remove_checkpoint(folder)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        reason = reason_of(error)
    else:
        return run.spec.run_id
    release_memory()  # outside of the handler, which still held the network
    raise WorkError(f"{reason}; it is tried again when the command is repeated")


@cache
def _read(name: ImagesName, data_dir: Path | None, train_examples: int | None) -> Dataset:
    """Read once per process, and by the first run, so that what goes wrong reaches the parent as its error."""
    return load(name, data_dir, train_examples)


def fingerprint_of(name: ImagesName, data_dir: Path | None, train_examples: int | None) -> str:
    """The fingerprint of the images that are really there."""
    return fingerprint(load(name, data_dir, train_examples))


def _die_with_parent() -> None:
    """Exit when the parent is gone, also by a kill that it could not answer, or while this process was starting."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
