"""One worker process: trains the runs it is handed, one thread each, and writes them to the store."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from alidade.core.probes import PlannedRun
from alidade.core.spec import DataSpec, ImagesName
from alidade.data import Dataset, fingerprint, load
from alidade.probes.environment import environment
from alidade.store import Segments, write_run
from alidade.train.loop import Progress, train

#: Seconds between two progress messages of one run.
MESSAGE_SECONDS = 0.2


@dataclass(frozen=True)
class Job:
    """What every worker of a study shares."""

    root: Path
    data_dir: Path | None
    device: str


_job: Job
_messages: Any


def start(job: Job, messages: Any) -> None:
    """Prepare this process: leave Ctrl-C to the parent, die with it, use one thread."""
    global _job, _messages
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    _job, _messages = job, messages


def execute(run: PlannedRun) -> str:
    """Train one run with its probes and write it; returns its id."""
    last = 0.0

    def report(progress: Progress) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last > MESSAGE_SECONDS or progress.step == run.spec.steps:
            last = now
            _messages.put((run.spec.run_id, *progress))

    segments = Segments()
    train(run.spec, _images(run.spec.data), run.probes, segments, _job.device, report)
    write_run(_job.root, run.spec, segments, environment(_job.device))
    return run.spec.run_id


def _images(data: DataSpec) -> Dataset | None:
    return None if data.name == "gaussian" else _read(data.name, data.train_examples)


@cache
def _read(name: ImagesName, train_examples: int | None) -> Dataset:
    """Read once per process, and by the first run, so that what goes wrong reaches the parent as its error."""
    return load(name, _job.data_dir, train_examples)


def fingerprint_of(name: ImagesName, data_dir: Path | None, train_examples: int | None) -> str:
    """The fingerprint of the images that are really there."""
    return fingerprint(load(name, data_dir, train_examples))


def _die_with_parent() -> None:
    """Exit when the parent is gone, also by a kill that it could not answer, or while this process was starting."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
