"""Why a run came to nothing: a file FAILED in its folder, until it is trained again."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from alidade.core.errors import WorkError
from alidade.store.files import FORMAT, read_json, write_json
from alidade.store.places import exists

_FAILED = "FAILED"


def note_failure(folder: Path, reason: str) -> None:
    """Note the reason; a disk that takes no file has said so already."""
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / _FAILED, {"format": FORMAT, "reason": reason})


def failure_of(folder: Path) -> str | None:
    """The reason that was noted; None where there is none."""
    if not exists(folder / _FAILED):
        return None
    try:
        return str(read_json(folder / _FAILED).get("reason", ""))
    except WorkError as error:  # that it failed is known from the file itself
        return str(error)


def clear_failure(folder: Path) -> None:
    """The run is trained again."""
    (folder / _FAILED).unlink(missing_ok=True)
