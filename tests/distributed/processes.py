"""Real processes of torch.distributed for the tests, started once and used again.

A deadlock fails the test that caused it: what has not returned in time is killed, with its whole world.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist
from torch import multiprocessing

#: Seconds until the processes must be up, until a test counts as stuck, and until gloo gives up, which must be later.
STARTED, STUCK, GIVE_UP = 240.0, 90.0, 180


class World:
    """Some processes, each with one end of a pipe, in a default process group of their own."""

    def __init__(self, size: int, folder: Path) -> None:
        self.size, self._file = size, folder / f"rendezvous-{size}"
        self._processes: list[Any] = []
        self._pipes: list[Connection] = []

    def run(self, work: Callable[..., Any], *arguments: Any) -> list[Any]:
        """``work(rank, size, *arguments)`` in every process; what each returned, by rank."""
        if not self._processes:
            self._start()
        for pipe in self._pipes:
            pipe.send((work, arguments))
        found = self._answers(STUCK)
        failures = [f"process {rank}: {text}" for rank, (fine, text) in enumerate(found) if not fine]
        assert not failures, "\n".join(failures)
        return [value for _, value in found]

    def _answers(self, seconds: float) -> list[Any]:
        answers = []
        for rank, pipe in enumerate(self._pipes):
            if not pipe.poll(seconds):
                self.stop()
                raise AssertionError(f"process {rank} of {self.size} has not returned in {seconds:.0f} s: a deadlock")
            answers.append(pipe.recv())
        return answers

    def stop(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.kill()
            process.join()
        self._processes, self._pipes = [], []

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._file.unlink(missing_ok=True)
        for rank in range(self.size):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(rank, self.size, str(self._file), theirs), daemon=True)
            process.start()
            self._processes.append(process)
            self._pipes.append(ours)
        self._answers(STARTED)


def _serve(rank: int, size: int, file: str, pipe: Connection) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{file}", rank=rank, world_size=size, timeout=timedelta(seconds=GIVE_UP)
    )
    pipe.send("ready")
    while True:
        work, arguments = pipe.recv()
        try:
            pipe.send((True, work(rank, size, *arguments)))
        except BaseException:
            pipe.send((False, traceback.format_exc()))
