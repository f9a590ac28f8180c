"""A file to which numbers are added one by one, so that a measurement that was killed goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import FileIO
from os import PathLike
from pathlib import Path
from typing import Any

from alidade.core.errors import CallError, WorkError, brief


class Journal:
    """One JSON line that says what is measured, then one line ``[index, value, digest]`` per number.

    Lines go straight to the system: what was recorded outlives the process. A line that is torn or damaged does not
    have its digest and is measured again. Numbers come back bit by bit.

    Args:
        path: a file that does not exist yet, or one of this measurement.
        about: what is measured, as JSON; a file about something else is refused and not touched.

    Raises:
        CallError: no path.
    """

    def __init__(self, path: str | PathLike[str], about: Mapping[str, Any]) -> None:
        if not isinstance(path, str | PathLike):
            raise CallError(f"out: expected the path of a file, got {brief(path)}")
        self._path = Path(path)
        self._head = json.dumps(about, sort_keys=True).encode()
        self._file: FileIO | None = None

    def read(self) -> dict[int, float]:
        """What is there already, by index.

        Raises:
            CallError: the file is about something else.
            WorkError: it cannot be read.
        """
        if not self._path.exists():
            return {}
        with self._failing("read"):
            head, newline, body = self._path.read_bytes().partition(b"\n")
        if newline == b"" and self._head.startswith(head):  # killed before the first line was complete
            return {}
        if head != self._head:
            raise CallError(
                f"{self._path}: expected the file of this measurement, got another; "
                "parameters, directions, grid or batch differ: name a new file"
            )
        return dict(self._entries(body))

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Inside, ``record`` may be called.

        Raises:
            WorkError: the file cannot be written.
        """
        with self._failing("written"):
            complete = self._path.exists() and self._path.read_bytes().startswith(self._head + b"\n")
            file = self._path.open("ab" if complete else "wb", buffering=0)
        with file:
            self._file = file
            self._put(b"\n" if complete else self._head + b"\n")  # ends a torn line
            yield

    def record(self, index: int, value: float) -> None:
        """Add one number."""
        self._put(json.dumps([index, value, self._digest(index, value)]).encode() + b"\n")

    def _digest(self, index: int, value: float) -> str:
        return hashlib.sha256(self._head + json.dumps([index, value]).encode()).hexdigest()[:16]

    def _entries(self, body: bytes) -> Iterator[tuple[int, float]]:
        for line in body.splitlines():
            try:
                index, value, digest = json.loads(line)
            except (ValueError, TypeError):
                continue
            if isinstance(index, int) and isinstance(value, float) and digest == self._digest(index, value):
                yield index, value

    def _put(self, line: bytes) -> None:
        assert self._file is not None
        with self._failing("written"):
            self._file.write(line)

    @contextmanager
    def _failing(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise WorkError(
                f"{self._path}: expected a file that can be {what}, got: {error.strerror}; free it or name another"
            ) from error
