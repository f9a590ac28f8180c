"""Why a run came to nothing: a file FAILED in its folder, until it is trained again."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from alidade.core.errors import WorkError
from alidade.store.files import FORMAT, read_json, write_json
from alidade.store.places import exists

_FAILED = "FAILED"


@dataclass(frozen=True)
class Failure:
    """A run that came to nothing: what it was, and why."""

    label: str
    reason: str


def note_failure(folder: Path, label: str, reason: str) -> None:
    """Note the reason; a disk that takes no file has said so already."""
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / _FAILED, {"format": FORMAT, "label": label, "reason": reason})


def failure_of(folder: Path) -> Failure | None:
    """What was noted; None where nothing was."""
    if not exists(folder / _FAILED):
        return None
    try:
        noted = read_json(folder / _FAILED)
    except WorkError as error:  # that it failed is known from the file itself
        return Failure("unknown", str(error))
    return Failure(str(noted["label"]), str(noted["reason"]))


def clear_failure(folder: Path) -> None:
    """The run is trained again."""
    (folder / _FAILED).unlink(missing_ok=True)
