"""One file in a run's folder from which a killed run goes on: the rows recorded so far and the training's state.

The file is a line that says what it is, the SHA-256 of all that follows, one line of JSON, and then the pieces that
the JSON lists: a Parquet table per segment, and the state as the training gave it. Nothing in it is ever executed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alidade.core.errors import WorkError
from alidade.store.files import read_bytes, sha256, write_atomically
from alidade.store.parts import parquet, parse
from alidade.store.places import exists
from alidade.store.segments import Segments

CHECKPOINT = "checkpoint"
CHECKPOINT_FORMAT = 1
_MAGIC = b"alidade checkpoint\n"
_DIGEST_LENGTH = 64
_STATE = "state"


class DamagedCheckpointError(WorkError):
    """The file is a checkpoint of ours and not as it was written: the run has to start again."""


@dataclass(frozen=True)
class Checkpoint:
    """Where a run stood: what was recorded by then, the training's state, and under which conditions."""

    step: int
    segments: Segments
    state: bytes
    about: Mapping[str, Any]


def write_checkpoint(
    folder: Path, run: str, step: int, segments: Segments, state: bytes, about: Mapping[str, Any]
) -> None:
    """Replace the run's checkpoint, whole or not at all.

    Raises:
        OSError: the file cannot be written; the earlier checkpoint is still there.
    """
    pieces = {name: parquet(segments.frame(name)) for name in segments.names}
    listed = [*((name, len(data)) for name, data in pieces.items()), (_STATE, len(state))]
    head = {"format": CHECKPOINT_FORMAT, "run": run, "step": step, "about": dict(about), "pieces": listed}
    body = b"".join([json.dumps(head).encode(), b"\n", *pieces.values(), state])
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / CHECKPOINT, b"".join([_MAGIC, sha256(body).encode(), b"\n", body]))


def read_checkpoint(folder: Path, run: str) -> Checkpoint | None:
    """The run's checkpoint; None where there is none.

    Raises:
        DamagedCheckpointError: it is not as it was written.
        WorkError: it cannot be read, is no checkpoint at all (a pickle, say), of another run, or written by a newer
            Alidade.
    """
    path = folder / CHECKPOINT
    if not exists(path):
        return None
    body = _checked(path, read_bytes(path, f"make it readable, or delete it: {_AGAIN}"))
    line, _, rest = body.partition(b"\n")
    head = json.loads(line)
    if head["format"] > CHECKPOINT_FORMAT:
        newer = f"expected a checkpoint of format {CHECKPOINT_FORMAT} or older, got {head['format']}"
        raise WorkError(f"{path}: {newer}; upgrade Alidade to go on from it, or delete it: {_AGAIN}")
    if head["run"] != run:
        raise WorkError(f"{path}: expected the checkpoint of run {run}, got that of {head['run']}; delete it: {_AGAIN}")
    pieces, at = {}, 0
    for name, length in head["pieces"]:
        pieces[name], at = rest[at : at + length], at + length
    state = pieces.pop(_STATE)
    tables = {name: parse(path, data) for name, data in pieces.items()}
    return Checkpoint(head["step"], Segments(tables), state, head["about"])


def remove_checkpoint(folder: Path) -> None:
    """The run is finished, or starts again."""
    (folder / CHECKPOINT).unlink(missing_ok=True)


_AGAIN = "then the run starts again"


def _checked(path: Path, data: bytes) -> bytes:
    """What follows the digest, if the digest is right."""
    if not _is_ours(data):
        raise WorkError(
            f"{path}: expected a checkpoint of Alidade, got another kind of file, which is not opened; "
            f"delete it: {_AGAIN}"
        )
    start = len(_MAGIC) + _DIGEST_LENGTH + 1
    digest, body = data[len(_MAGIC) : start - 1], data[start:]
    if data[: len(_MAGIC)] != _MAGIC or sha256(body).encode() != digest or data[start - 1 : start] != b"\n":
        raise DamagedCheckpointError(f"{path}: expected the checkpoint as it was written, found it damaged")
    return body


def _is_ours(data: bytes) -> bool:
    """Whether these bytes once were a checkpoint: cut off, overwritten with zeros, or with most of the first line."""
    start = data[: len(_MAGIC)]
    alike = sum(a == b for a, b in zip(start, _MAGIC, strict=False))
    return not any(start) or 2 * alike > len(start)
