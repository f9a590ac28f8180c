"""One folder per run: spec.json, tidy Parquet segments, DONE. Written atomically, checked when read.

A run's folder is named by its run id. DONE is written last and lists each segment with its SHA-256: a folder
without it is an unfinished run, which is measured again; a segment that does not match it is damage, which is
reported and never read as numbers. The JSON files carry a digest of themselves (spec.json has the run id for it).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from alidade.core.errors import CallError, WorkError
from alidade.core.records import COLUMNS
from alidade.core.spec import AnyRunSpec, RunSpec, parse_run_spec
from alidade.store.files import (
    FORMAT,
    damaged,
    read_bytes,
    read_json,
    sha256,
    write_atomically,
    write_json,
)
from alidade.store.locks import only_writer
from alidade.store.parts import PARTS, parquet, parse, read_parts
from alidade.store.places import cause_of, exists, look_again, place
from alidade.store.segments import ROW_SCHEMA, Segments

_MANIFEST, SPEC, _DONE, _ENVIRONMENT = "study.json", "spec.json", "DONE", "environment.json"
_THEORY = "theory.json"


@dataclass(frozen=True)
class Study:
    """What a folder holds: the tidy table of all its runs, their specs, and the command that made them."""

    root: Path
    frame: pl.DataFrame
    specs: Mapping[str, AnyRunSpec]
    manifest: Mapping[str, Any] = field(default_factory=dict)
    environments: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    unfinished: tuple[str, ...] = ()
    theory: Mapping[str, Any] | None = None  # what `alidade theory --out` found

    def runs_of(self, experiment: str) -> dict[str, RunSpec]:
        """The finished runs that the last command planned for an experiment; all runs where none was noted."""
        planned = self.manifest.get("experiments", {}).get(experiment)
        return {
            run: spec
            for run, spec in self.specs.items()
            if isinstance(spec, RunSpec) and (planned is None or run in planned)
        }


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
    if not exists(folder / _DONE):
        return {}
    return {name: parse(folder / f"{name}.parquet", data) for name, data in _checked_segments(folder).items()}


def reopen(root: Path, run_id: str) -> None:
    """Make a finished run one that is still written: from now on its pieces count, and its segments do not."""
    (root / run_id / _DONE).unlink(missing_ok=True)


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
            present = _checked_segments(folder) if exists(folder / _DONE) else {}
            _require_same_training(folder, present, segments)
            listed = {name: sha256(data) for name, data in present.items()}
            for name in segments.names:
                if name not in present:
                    data = parquet(segments.frame(name))
                    write_atomically(folder / f"{name}.parquet", data)
                    listed[name] = sha256(data)
            write_atomically(folder / SPEC, spec.model_dump_json(indent=1).encode())
            write_json(folder / _ENVIRONMENT, environment)
            write_json(folder / _DONE, {"format": FORMAT, "segments": listed})
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


def write_manifest(root: Path, manifest: Mapping[str, Any]) -> None:
    """Note the command, its settings and the runs it planned for each experiment.

    Experiments of earlier commands stay listed as long as the settings are the same.
    """
    earlier = _read_manifest(root)
    experiments = dict(manifest["experiments"])
    if earlier.get("settings") == manifest["settings"]:
        experiments = {**earlier.get("experiments", {}), **experiments}
    try:
        root.mkdir(parents=True, exist_ok=True)
        write_json(root / _MANIFEST, {"format": FORMAT, **manifest, "experiments": experiments})
    except OSError as error:
        raise WorkError(f"--out {root}: expected a folder that can be written, got: {cause_of(error)}") from error


def write_theory(root: Path, checks: Mapping[str, Any]) -> None:
    """Keep a table of checked statements beside the runs, for the report."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        write_json(root / _THEORY, {"format": FORMAT, **checks})
    except OSError as error:
        raise WorkError(f"--out {root}: expected a folder that can be written, got: {cause_of(error)}") from error


def has_theory(root: Path, instances: int, seed: int) -> bool:
    """Whether that very table is kept already."""
    kept = _read_theory(root) or {}
    return (kept.get("instances"), kept.get("seed")) == (instances, seed)


def open_study(root: str | os.PathLike[str]) -> Study:
    """Read every finished run below ``root`` that the last command's experiments name (all, without a manifest).

    Raises:
        CallError: no such folder.
        WorkError: nothing finished there, or a damaged file, which is named.
    """
    root = place(root)
    look_again(root)
    if not root.is_dir():
        raise CallError(f"{root}: expected a folder with runs, found none; make one with 'alidade demo --out {root}'")
    manifest = _read_manifest(root)
    named = {run for runs in manifest.get("experiments", {}).values() for run in runs}
    folders = sorted(root.iterdir(), key=lambda folder: folder.name)
    folders = [f for f in folders if exists(f / SPEC) or exists(f / _DONE)]
    readable = [f for f in folders if exists(f / _DONE) or exists(f / PARTS)]
    finished = [f for f in readable if not named or f.name in named]
    if not finished:
        raise WorkError(f"{root}: expected a finished run, found none; run 'alidade demo --out {root}' first")
    specs = {folder.name: _read_spec(folder) for folder in finished}
    frames = [_read_run(folder, specs[folder.name]) for folder in finished]
    return Study(
        root=root,
        frame=pl.concat(frames),
        specs=specs,
        manifest=manifest,
        environments={f.name: read_json(f / _ENVIRONMENT) for f in finished if exists(f / _ENVIRONMENT)},
        unfinished=tuple(sorted(named - set(specs))),
        theory=_read_theory(root),
    )


def load(root: str | os.PathLike[str]) -> pl.DataFrame:
    """The tidy table of all measurements below ``root``: one row per number, columns as in core.records.COLUMNS.

    ``root`` is a folder, or a URL of any file system that fsspec knows (``s3://bucket/study``).
    """
    return open_study(place(root, "load")).frame


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


def _read_theory(root: Path) -> dict[str, Any] | None:
    path = root / _THEORY
    return read_json(path, "delete it and repeat the command: no run is lost") if exists(path) else None


def _read_manifest(root: Path) -> dict[str, Any]:
    path = root / _MANIFEST
    return read_json(path, "delete it and repeat the command: no run is lost") if exists(path) else {}


def _read_run(folder: Path, spec: AnyRunSpec) -> pl.DataFrame:
    if exists(folder / _DONE):
        segments = _checked_segments(folder)
        frames = [parse(folder / f"{name}.parquet", segments[name]) for name in sorted(segments)]
    else:
        frames = [frame for _, frame in read_parts(folder / PARTS)]
    frame = pl.concat([frame for frame in frames if frame.height] or frames[:1] or [pl.DataFrame(schema=ROW_SCHEMA)])
    run = pl.lit(folder.name, dtype=pl.String).alias("run")
    return frame.with_columns(run, pl.lit(spec.seed, dtype=pl.Int64).alias("seed")).select(COLUMNS)


def _checked_segments(folder: Path) -> dict[str, bytes]:
    """The content of every segment that DONE lists, as it was written."""
    listed = read_json(folder / _DONE)["segments"]
    contents = {name: read_bytes(folder / f"{name}.parquet") for name in listed}
    for name, data in contents.items():
        if sha256(data) != listed[name]:
            raise damaged(folder / f"{name}.parquet")
    return contents


def _read_spec(folder: Path) -> AnyRunSpec:
    try:
        spec = parse_run_spec(read_bytes(folder / SPEC))
    except ValueError as error:
        raise damaged(folder / SPEC) from error
    if spec.run_id != folder.name:
        raise damaged(folder / SPEC)
    return spec
