"""Files that are there whole or not at all, and JSON that carries a digest of itself."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alidade.core.errors import WorkError
from alidade.store.places import cause_of, get, is_local, put

FORMAT = 1
_DIGEST = "digest"  # key of a JSON file's own checksum
PARTIAL = ".partial"  # end of the name of a file being written


class DamagedFileError(WorkError):
    """A file is not as it was written, or cannot be read."""

    path: Path


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write ``content`` with a digest of itself, whole or not at all."""
    write_atomically(path, json.dumps({**content, _DIGEST: _digest(content)}, indent=1).encode())


def read_json(path: Path, remedy: str | None = None) -> dict[str, Any]:
    """What ``write_json`` wrote.

    Raises:
        DamagedFileError: missing or damaged.
        WorkError: written in a newer format.
    """
    try:
        content = json.loads(read_bytes(path, remedy))
    except (ValueError, RecursionError) as error:
        raise damaged(path, "damaged", remedy) from error
    written_in = content.get("format", FORMAT) if isinstance(content, dict) else None
    if isinstance(written_in, int) and written_in > FORMAT:
        raise WorkError(f"{path}: expected format {FORMAT} or older, got {written_in}; upgrade Alidade to read it")
    if not isinstance(content, dict) or content.pop(_DIGEST, None) != _digest(content):
        raise damaged(path, "damaged", remedy)
    return content


def read_bytes(path: Path, remedy: str | None = None) -> bytes:
    """The content of a file.

    Raises:
        DamagedFileError: it cannot be read; the message says why.
    """
    try:
        return get(path)
    except OSError as error:
        raise damaged(path, cause_of(error), remedy) from error


def damaged(path: Path, found: str = "damaged", remedy: str | None = None) -> DamagedFileError:
    """The error for a file that is not as it was written."""
    again = "repeat the command that made it, which sets the run aside and measures it again: the other runs are kept"
    error = DamagedFileError(f"{path}: expected the file as it was written, found: {found}; {remedy or again}")
    error.path = path
    return error


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file that is there whole or not at all, also when the machine stops."""
    if not is_local(path):
        return put(path, data)
    temporary = path.with_name(f".{uuid.uuid4().hex}{PARTIAL}")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sha256(data: bytes) -> str:
    """The SHA-256 of ``data`` in hex."""
    return hashlib.sha256(data).hexdigest()


def _digest(content: Mapping[str, Any]) -> str:
    return sha256(json.dumps(content, sort_keys=True).encode())
