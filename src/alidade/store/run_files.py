"""The files of a study, and how each is checked when it is read: never a number from one that is not as written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alidade.core.spec import AnyRunSpec, parse_run_spec
from alidade.store.files import damaged, read_bytes, read_json, sha256
from alidade.store.places import exists

MANIFEST, THEORY = "study.json", "theory.json"  # of a study
SPEC, DONE, ENVIRONMENT = "spec.json", "DONE", "environment.json"  # of a run

_NOTHING_LOST = "delete it and repeat the command: no run is lost"


def read_manifest(root: Path) -> dict[str, Any]:
    """The command that made a study; empty where there is none.

    Raises:
        DamagedFileError: it is damaged.
        WorkError: a newer Alidade wrote it.
    """
    path = root / MANIFEST
    return read_json(path, _NOTHING_LOST) if exists(path) else {}


def read_theory(root: Path) -> dict[str, Any] | None:
    """The table of checked statements; None where there is none. Raises as ``read_manifest`` does."""
    path = root / THEORY
    return read_json(path, _NOTHING_LOST) if exists(path) else None


def read_spec(folder: Path) -> AnyRunSpec:
    """What a run is; its id, which names the folder, is its digest.

    Raises:
        DamagedFileError: it is damaged.
    """
    try:
        spec = parse_run_spec(read_bytes(folder / SPEC))
    except ValueError as error:
        raise damaged(folder / SPEC) from error
    if spec.run_id != folder.name:
        raise damaged(folder / SPEC)
    return spec


def listed_segments(folder: Path) -> dict[str, str]:
    """Name and digest of every segment of a finished run. Raises as ``read_manifest`` does."""
    return dict(read_json(folder / DONE)["segments"])


def read_segment(folder: Path, name: str, digest: str) -> bytes:
    """The content of a segment as it was written.

    Raises:
        DamagedFileError: it is not.
    """
    path = folder / f"{name}.parquet"
    data = read_bytes(path)
    if sha256(data) != digest:
        raise damaged(path)
    return data


def checked_segments(folder: Path) -> dict[str, bytes]:
    """The content of every segment that DONE lists. Raises as ``read_manifest`` does."""
    return {name: read_segment(folder, name, digest) for name, digest in listed_segments(folder).items()}
