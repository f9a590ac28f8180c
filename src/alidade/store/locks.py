"""One process at a time: briefly, while files of a run are written, and for as long as a run is trained."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from alidade.core.errors import WorkError
from alidade.store.files import PARTIAL, write_atomically
from alidade.store.places import cause_of, is_local

_WRITING, _HELD = ".lock", ".held"
_HOLDER = ".holder"  # who holds a run's folder, for the message: the lock itself is the system's


class HeldError(WorkError):
    """Another process works in the run's folder."""


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """One writer at a time, so that DONE of one command never lists the segments of another.

    What a writer left half-written when it was killed is removed. Object stores have neither locks nor halves.
    """
    if not is_local(folder):
        yield
        return
    with FileLock(folder / _WRITING):
        for partial in folder.glob(f".*{PARTIAL}"):
            partial.unlink()
        yield


def holding(folder: Path, patience: float = 0.0) -> AbstractContextManager[object]:
    """A run's folder held for as long as it is trained; where a file system has no locks, nothing is held.

    ``patience`` is how many seconds to wait for another process to leave it.

    Raises:
        HeldError: another process holds it; the message says which.
        WorkError: the disk is full or read-only.
    """
    return Holding(folder, patience) if is_local(folder) else nullcontext()


class Holding:
    """A run's folder held by this process, until ``release`` or the end of the process, however it ends.

    Within one process a folder may be held several times, as by a notebook that makes its survey again.

    Raises:
        HeldError: another process holds it; the message says which.
        WorkError: the disk is full or read-only.
    """

    def __init__(self, folder: Path, patience: float = 0.0) -> None:
        self._folder = folder
        self._lock = FileLock(folder / _HELD, is_singleton=True, thread_local=False)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=patience)
        except Timeout:
            raise HeldError(
                f"{folder}: expected a run that no other process works on, got one locked by {_holder(folder)}; "
                "wait for it or stop it"
            ) from None
        except OSError as error:
            why = cause_of(error)
            raise WorkError(f"{folder}: could not be written ({why}); free space or change --out") from error
        since = datetime.now(UTC).isoformat(timespec="seconds")
        who = {"pid": os.getpid(), "host": socket.gethostname(), "since": since}
        with suppress(OSError):  # a full disk: the lock holds all the same
            write_atomically(folder / _HOLDER, json.dumps(who).encode())

    def release(self) -> None:
        """Let others work here."""
        if self._lock.lock_counter == 1:
            with suppress(OSError):
                (self._folder / _HOLDER).unlink(missing_ok=True)
        self._lock.release()

    def __enter__(self) -> Holding:
        return self

    def __exit__(self, *raised: object) -> None:
        self.release()


def _holder(folder: Path) -> str:
    try:
        who = json.loads((folder / _HOLDER).read_bytes())
        return f"process {who['pid']} on {who['host']} since {who['since']}"
    except (OSError, ValueError, KeyError, TypeError):  # it has just begun, or has just gone
        return "another process"
