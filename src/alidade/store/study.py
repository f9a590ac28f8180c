"""One folder per run: spec.json, tidy Parquet segments, DONE. Written atomically, checked when read.

A run's folder is named by its run id. DONE is written last and lists each segment with its SHA-256: a folder
without it is an unfinished run, which is trained on from its checkpoint; a segment that does not match it is damage,
which is named and never read as numbers. The JSON files carry a digest of themselves (spec.json has the run id for it).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from alidade.core.errors import CallError, WorkError
from alidade.core.spec import AnyRunSpec
from alidade.store.files import FORMAT, DamagedFileError, sha256, write_atomically, write_json
from alidade.store.locks import holding, only_writer
from alidade.store.parts import parquet, parse
from alidade.store.places import cause_of, exists, move
from alidade.store.run_files import (
    DONE,
    ENVIRONMENT,
    MANIFEST,
    SPEC,
    THEORY,
    checked_segments,
    read_manifest,
    read_theory,
)
from alidade.store.segments import Segments

#: Folder, below a study's, of the runs that were found damaged and are measured again.
DAMAGED = "damaged"


def finished_segments(root: Path, run_id: str) -> frozenset[str]:
    """Names of the segments that a finished run holds; empty for a run that is not finished.

    Raises:
        WorkError: the run's DONE cannot be read, or a segment does not match it.
    """
    return frozenset(finished_rows(root, run_id))


def finished_rows(root: Path, run_id: str) -> dict[str, pl.DataFrame]:
    """The segments of a finished run, each without run and seed; empty for a run that is not finished.

    Raises:
        WorkError: the run's DONE cannot be read, or a segment does not match it.
    """
    folder = root / run_id
    if not exists(folder / DONE):
        return {}
    return {name: parse(folder / f"{name}.parquet", data) for name, data in checked_segments(folder).items()}


def reopen(root: Path, run_id: str) -> None:
    """Make a finished run one that is still written: from now on its pieces count, and its segments do not."""
    (root / run_id / DONE).unlink(missing_ok=True)


def write_run(root: Path, spec: AnyRunSpec, segments: Segments, environment: Mapping[str, Any]) -> None:
    """Write a finished run, or add segments to one; what is there already must come out the same.

    Raises:
        WorkError: the disk is full or read-only, or the training repeated here differs from the stored one
            (another machine or torch version), so that a new segment would belong to another trajectory.
    """
    folder = root / spec.run_id
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with only_writer(folder):
            present = checked_segments(folder) if exists(folder / DONE) else {}
            _require_same_training(folder, present, segments)
            listed = {name: sha256(data) for name, data in present.items()}
            for name in segments.names:
                if name not in present:
                    data = parquet(segments.frame(name))
                    write_atomically(folder / f"{name}.parquet", data)
                    listed[name] = sha256(data)
            write_atomically(folder / SPEC, spec.model_dump_json(indent=1).encode())
            write_json(folder / ENVIRONMENT, environment)
            write_json(folder / DONE, {"format": FORMAT, "segments": listed})
    except OSError as error:
        raise WorkError(f"{folder}: could not be written ({cause_of(error)}); free space or change --out") from error


def _require_same_training(folder: Path, present: Mapping[str, bytes], segments: Segments) -> None:
    if "training" in present and "training" in segments.names:
        stored = parse(folder / "training.parquet", present["training"])
        if not stored.equals(segments.frame("training"), null_equal=True):
            raise WorkError(
                f"{folder}: expected the training to repeat bit for bit, but it came out differently here "
                "(another machine or torch version?); use another --out"
            )


def set_aside(root: Path, run_id: str) -> Path:
    """Move a damaged run out of the way, where nothing reads it and nothing is lost; returns where it is now.

    Raises:
        HeldError: another process works on it.
        WorkError: it cannot be moved.
    """
    place = root / DAMAGED
    try:
        with holding(root / run_id):
            place.mkdir(exist_ok=True)
            free = next(path for k in range(10_000) if not exists(path := place / f"{run_id}.{k}"))
            return move(root / run_id, free)
    except OSError as error:
        raise WorkError(f"{root / run_id}: could not be moved to {place} ({cause_of(error)}); move it away") from error


def write_manifest(root: Path, manifest: Mapping[str, Any], say: Callable[[str], None] = lambda line: None) -> None:
    """Note the command, its settings and the runs it planned for each experiment.

    Experiments of earlier commands stay listed as long as the settings are the same. A damaged manifest is replaced,
    and ``say`` is told: it lists runs and holds no number.
    """
    try:
        earlier = read_manifest(root)
    except DamagedFileError as error:
        say(f"{error.path}: damaged, written anew; no run is lost")
        earlier = {}
    experiments = dict(manifest["experiments"])
    if earlier.get("settings") == manifest["settings"]:
        experiments = {**earlier.get("experiments", {}), **experiments}
    try:
        root.mkdir(parents=True, exist_ok=True)
        write_json(root / MANIFEST, {"format": FORMAT, **manifest, "experiments": experiments})
    except OSError as error:
        raise WorkError(f"--out {root}: expected a folder that can be written, got: {cause_of(error)}") from error


def write_theory(root: Path, checks: Mapping[str, Any]) -> None:
    """Keep a table of checked statements beside the runs, for the report."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        write_json(root / THEORY, {"format": FORMAT, **checks})
    except OSError as error:
        raise WorkError(f"--out {root}: expected a folder that can be written, got: {cause_of(error)}") from error


def has_theory(root: Path, instances: int, seed: int) -> bool:
    """Whether that very table is kept already."""
    try:
        kept = read_theory(root) or {}
    except DamagedFileError:  # then it is checked again, and written anew
        return False
    return (kept.get("instances"), kept.get("seed")) == (instances, seed)


def export(frame: pl.DataFrame, to: str, out: Path | None) -> str | None:
    """Write the table as "csv" or "parquet"; without ``out`` the CSV is returned as text.

    Raises:
        CallError: another format.
        WorkError: ``out`` cannot be written.
    """
    if to not in ("csv", "parquet"):
        raise CallError(f"--to: expected 'csv' or 'parquet', got {to!r}")
    if out is None:
        return frame.write_csv()
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out, frame.write_csv().encode() if to == "csv" else parquet(frame))
    except OSError as error:
        raise WorkError(f"--out {out}: expected a file that can be written, got: {cause_of(error)}") from error
    return None
