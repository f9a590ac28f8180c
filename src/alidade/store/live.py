"""A run that is written while it goes on: each flush adds files, closing makes it a finished run."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alidade.core.errors import CallError, WorkError
from alidade.core.records import Row
from alidade.core.spec import SurveySpec
from alidade.store.files import sha256, write_atomically
from alidade.store.study import PARTS, SPEC, Segments, parquet, write_run

#: Seconds between two flushes of one run: what a kill can cost.
FLUSH_SECONDS = 5.0


class LiveRun:
    """A recorder (core.records.Recorder) that writes one survey's run below ``root`` as it comes.

    Raises:
        CallError: ``root`` is not empty.
        WorkError: ``root`` cannot be written.
    """

    def __init__(self, root: Path, spec: SurveySpec, environment: Mapping[str, Any]) -> None:
        self._root, self._spec, self._environment = root, spec, environment
        self._all, self._new = Segments(), Segments()
        self._flushed, self._count = time.monotonic(), 0
        self._folder = root / spec.run_id
        try:
            if root.exists() and any(root.iterdir()):
                raise CallError(f"out: expected an empty or new folder, got {root} with files in it; choose another")
            (self._folder / PARTS).mkdir(parents=True)
            write_atomically(self._folder / SPEC, spec.model_dump_json(indent=1).encode())
        except OSError as error:
            raise WorkError(f"out: expected a folder that can be written, got {root}: {error.strerror}") from error

    def record(self, segment: str, rows: Sequence[Row]) -> None:
        """Append rows to a segment."""
        self._all.record(segment, rows)
        if rows:
            self._new.record(segment, rows)

    def flush(self, at_once: bool = False) -> None:
        """Write what is new, unless the last flush was a moment ago."""
        if not self._new.names or not (at_once or time.monotonic() - self._flushed > FLUSH_SECONDS):
            return
        for name in self._new.names:
            data = parquet(self._new.frame(name))
            write_atomically(self._folder / PARTS / f"{self._count:06d}.{sha256(data)[:16]}.{name}.parquet", data)
        self._new, self._flushed, self._count = Segments(), time.monotonic(), self._count + 1

    def close(self) -> None:
        """Write the finished run; the files of the flushes are not needed any more."""
        write_run(self._root, self._spec, self._all, self._environment)
        for path in (self._folder / PARTS).iterdir():
            path.unlink()
        (self._folder / PARTS).rmdir()
