"""A run that is written while it goes on: each flush adds files, closing makes it a finished run."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alidade.core.errors import CallError, WorkError
from alidade.core.records import Row
from alidade.core.spec import SurveySpec
from alidade.store.files import write_atomically
from alidade.store.locks import Holding
from alidade.store.parts import PARTS, read_parts, write_cut, write_part
from alidade.store.places import is_local, place
from alidade.store.run_files import SPEC
from alidade.store.segments import Segments
from alidade.store.study import finished_rows, reopen, write_run

#: Seconds between two flushes of one run: what a kill can cost.
FLUSH_SECONDS = 5.0


class LiveRun:
    """A recorder (core.records.Recorder) that writes one survey's run below ``root`` as it comes.

    A folder that holds an earlier leg of this very run is left alone until ``resume``.

    Raises:
        CallError: ``root`` holds anything else.
        HeldError: another process writes this run.
        WorkError: ``root`` cannot be written.
    """

    def __init__(self, root: Path, spec: SurveySpec, environment: Mapping[str, Any]) -> None:
        self._root, self._spec, self._environment = root, spec, environment
        self._all, self._new = Segments(), Segments()
        self._flushed, self._count = time.monotonic(), 0
        self._folder = root / spec.run_id
        self._warned = self._written = False
        try:
            self.ready = not (root.exists() and any(root.iterdir()))  # False: there is an earlier leg
            if self.ready:
                self._holding = Holding(self._folder)
                self._create()
            elif not (self._folder / SPEC).exists():
                raise CallError(f"out: expected an empty or new folder, got {root} with files in it; choose another")
        except OSError as error:
            raise _unwritable(root, error) from error

    def require_ready(self) -> None:
        """Refuse to write beside an earlier leg that was not resumed.

        Raises:
            CallError: there is one.
        """
        if not self.ready:
            raise _unfinished(self._root)

    def resume(self, step: int) -> None:
        """Go on after ``step`` steps: earlier rows stay, those from that step on are void."""
        if self.ready:
            return
        self._holding = Holding(self._folder)
        try:
            finished = finished_rows(self._root, self._spec.run_id)
            pieces = list(finished.items()) if finished else read_parts(self._folder / PARTS)
            for name, frame in pieces:
                self._all.record(name, [Row(**row) for row in frame.iter_rows(named=True) if row["step"] < step])
            self._reopen(step, bool(finished))
        except OSError as error:
            raise _unwritable(self._root, error) from error
        self.ready = True

    def record(self, segment: str, rows: Sequence[Row]) -> None:
        """Append rows to a segment."""
        self._all.record(segment, rows)
        if rows:
            self._new.record(segment, rows)

    def flush(self, at_once: bool = False) -> None:
        """Write what is new, unless the last flush was a moment ago.

        Where it cannot be written, on a full disk for example, it is warned about once and kept for the next time.

        Raises:
            WorkError: ``at_once``, and it cannot be written.
        """
        if not self._new.names or not (at_once or time.monotonic() - self._flushed > FLUSH_SECONDS):
            return
        try:
            self._write()
            self._warned = False
        except OSError as error:
            problem = _unwritable(self._root, error)
            if at_once:
                raise problem from error
            if not self._warned:
                self._warned = True
                warnings.warn(f"{problem}; free space: what is measured meanwhile is kept in memory", stacklevel=2)

    def _write(self) -> None:
        waiting, number = self._new, self._count
        todo = list(waiting.names)
        self._new, self._flushed, self._count = Segments(), time.monotonic(), self._count + 1
        try:
            while todo:
                write_part(self._folder / PARTS, number, todo[0], waiting.frame(todo[0]))
                todo.pop(0)
        finally:  # what is not on the disk is written the next time, and nothing twice
            self._new = waiting.only(todo)

    def close(self) -> None:
        """Write the finished run; the files of the flushes are not needed any more.

        Raises:
            WorkError: it cannot be written. What was flushed before is still there, and a second call tries again.
        """
        if self._written:
            return
        try:
            write_run(self._root, self._spec, self._all, self._environment)
            self._clear()
            (self._folder / PARTS).rmdir()
        except OSError as error:
            raise _unwritable(self._root, error) from error
        self._written = True
        self._holding.release()

    def _create(self) -> None:
        (self._folder / PARTS).mkdir(parents=True, exist_ok=True)
        write_atomically(self._folder / SPEC, self._spec.model_dump_json(indent=1).encode())

    def _reopen(self, step: int, finished: bool) -> None:
        """At every instant the folder reads as the earlier leg, or as what is kept of it."""
        self._create()
        if not finished:
            self._count = write_cut(self._folder / PARTS, step)
            return
        self._clear()  # what a kill during close() may have left
        for name in self._all.names:
            write_part(self._folder / PARTS, 0, name, self._all.frame(name))
        self._count = 1
        reopen(self._root, self._spec.run_id)

    def _clear(self) -> None:
        for path in (self._folder / PARTS).iterdir():
            path.unlink()


class SilentRun:
    """Stands in for a LiveRun in a process that writes nothing; ``ready`` is the writer's."""

    def __init__(self, root: Path, ready: bool) -> None:
        self._root, self.ready = root, ready

    def require_ready(self) -> None:
        """As the writer does.

        Raises:
            CallError: the writer's folder holds an earlier leg that was not resumed.
        """
        if not self.ready:
            raise _unfinished(self._root)

    def resume(self, step: int) -> None:
        """The writer goes on."""
        self.ready = True

    def record(self, segment: str, rows: Sequence[Row]) -> None:
        """Nothing is kept."""

    def flush(self, at_once: bool = False) -> None:
        """There is nothing to write."""

    def close(self) -> None:
        """There is nothing to finish."""


def folder_of(out: Any) -> Path:
    """The folder that a caller names.

    Raises:
        CallError: no path, or no folder of this machine: a survey is written piece by piece while the training goes on.
    """
    folder = place(out)
    if not is_local(folder):
        raise CallError(f"out: expected a folder of this machine, got {folder}; copy it there when it is closed")
    return folder


def _unfinished(root: Path) -> CallError:
    return CallError(
        f"out: expected an empty or new folder, got {root} with an earlier part of this run; "
        "choose another, or load its state with survey.load_state_dict(state) first"
    )


def _unwritable(root: Path, error: OSError) -> WorkError:
    return WorkError(f"out: expected a folder that can be written, got {root}: {error.strerror}")
