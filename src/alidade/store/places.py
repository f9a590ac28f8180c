"""Where studies lie: a folder on this machine, or a URL of any file system that fsspec knows (s3, gs, az, sftp, ...).

A URL becomes a ``UPath`` (universal_pathlib), which does for the store all that a ``pathlib.Path`` does, and is
annotated as one. What only the system's own files have is asked for with ``is_local``: a rename in place, locks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from alidade.core.errors import CallError, WorkError, brief

if TYPE_CHECKING:
    from upath import UPath

_URL = re.compile(r"[a-z][a-z0-9+.-]*(://|::)", re.IGNORECASE)
_LOCAL = ("file", "local")  # fsspec's names for the machine's own files


def place(where: Any, name: str = "out") -> Path:
    """The path that a caller names: text, a path, or a URL that fsspec understands.

    Args:
        where: "runs/mine", ``Path("runs/mine")``, "s3://bucket/mine", a ``UPath`` with its own storage options.
        name: of the argument, for the message.

    Raises:
        CallError: no path, an unknown file system, or one whose package is not installed.
        WorkError: the file system cannot be reached; a URL is tried once, here.

    >>> place("runs/mine").as_posix(), str(place("memory://runs/mine")), str(place("file:///tmp/mine"))
    ('runs/mine', 'memory://runs/mine', '/tmp/mine')
    """
    if isinstance(where, Path):
        return where
    if hasattr(where, "storage_options") and hasattr(where, "fs"):  # a UPath: imported by whoever made it
        return _reached(where)
    if not isinstance(where, str | PathLike) or not str(where):
        raise CallError(f"{name}: expected the path of a folder, got {brief(where)}")
    return _reached(_opened(str(where), name)) if _URL.match(str(where)) else Path(where)


def is_local(path: Path) -> bool:
    """Whether the system itself knows this path, so that it can rename and lock files there."""
    return isinstance(path, Path)


def is_in_memory(path: Path) -> bool:
    """Whether only this process sees what is written there."""
    return not is_local(path) and cast("UPath", path).protocol == "memory"


def put(path: Path, data: bytes) -> None:
    """Write a file where there is no rename in place: an object store makes an object visible whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    remote = cast("UPath", path)
    with _system_errors():
        remote.fs.pipe_file(remote.path, data)


def get(path: Path) -> bytes:
    """Read a file.

    Raises:
        OSError: it cannot be read.
    """
    if is_local(path):
        return path.read_bytes()
    with _system_errors():
        return path.read_bytes()


def exists(path: Path) -> bool:
    """Whether there is a file or a folder; a file system that does not answer is an error, and no "no".

    Raises:
        WorkError: it does not answer.
    """
    if is_local(path):
        return path.exists()
    remote = cast("UPath", path)
    try:
        with _system_errors():
            remote.fs.info(remote.path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        found = f"{cause_of(error)}; check the address, the network and the credentials"
        raise WorkError(f"{path}: expected a file system that can be reached, got: {found}") from error
    return True


def move(folder: Path, to: Path) -> Path:
    """Move a folder of files within its file system; returns where it is now. Object stores copy, and then delete.

    Raises:
        OSError: it cannot be moved.
    """
    if is_local(folder):
        return folder.rename(to)
    to.mkdir(parents=True, exist_ok=True)
    remote = cast("UPath", folder)
    with _system_errors():  # file by file: where folders are only names, a recursive move looks for them as files
        for path in remote.iterdir():
            remote.fs.cp_file(path.path, cast("UPath", to / path.name).path)
        remote.fs.rm(remote.path, recursive=True)
    return to


def look_again(path: Path) -> None:
    """Forget listings that fsspec keeps: other machines write there too."""
    if not is_local(path):
        cast("UPath", path).fs.invalidate_cache()


def cause_of(error: BaseException) -> str:
    """Why a file could not be read or written; only errors of the system itself carry its words."""
    return getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__


@contextmanager
def _system_errors() -> Iterator[None]:
    """Each file system has errors of its own kind; here they become the kind that the system's own files raise."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise OSError(cause_of(error)) from error


def _opened(url: str, name: str) -> UPath:
    from upath import UPath

    try:
        path = UPath(url)
        _ = path.fs
    except ImportError as error:
        raise CallError(f"{name}: expected the package for {url}, found none: {cause_of(error)}") from error
    except ValueError as error:
        known = "a path, or a URL such as s3://bucket/folder"
        raise CallError(f"{name}: expected {known}, got {url!r}: {cause_of(error)}") from error
    return path


def _reached(path: UPath) -> Path:
    if path.protocol in _LOCAL:
        return Path(path.path)
    there = cast(Path, path)
    exists(there)
    return there
