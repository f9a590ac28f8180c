"""A study as a whole: what is sound is served, and what is damaged is named."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import polars as pl

from alidade.core.errors import CallError, WorkError
from alidade.core.records import COLUMNS
from alidade.core.spec import AnyRunSpec, RunSpec
from alidade.store.by_quantity import ByQuantity
from alidade.store.failures import Failure, failure_of
from alidade.store.files import DamagedFileError, read_json
from alidade.store.parts import PARTS, parse, read_parts
from alidade.store.places import exists, look_again, place
from alidade.store.run_files import (
    DONE,
    ENVIRONMENT,
    SPEC,
    listed_segments,
    read_manifest,
    read_segment,
    read_spec,
    read_theory,
)
from alidade.store.segments import COMPACT, ROW_SCHEMA, SCHEMA

T = TypeVar("T")

#: Rows of some runs by quantity, or all of them under one key.
_Tables = dict[tuple[Any, ...], pl.DataFrame]

#: Runs that are made one table at a time.
BUNDLE = 8


@dataclass(frozen=True)
class Study:
    """What a folder holds: the tidy table of all its runs, their specs, and the command that made them."""

    root: Path
    frame: pl.DataFrame  # of many runs, so text is categorical; ``table`` has it as text
    specs: Mapping[str, AnyRunSpec]
    manifest: Mapping[str, Any] = field(default_factory=dict)
    environments: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    unfinished: tuple[str, ...] = ()
    theory: Mapping[str, Any] | None = None  # what `alidade theory --out` found
    damage: tuple[str, ...] = ()  # a line for each file that could not be read; nothing of it is in the table
    failures: Mapping[str, Failure] = field(default_factory=dict)  # of planned runs that came to nothing

    def runs_of(self, experiment: str) -> dict[str, RunSpec]:
        """The finished runs that the last command planned for an experiment; all runs where none was noted."""
        planned = self.manifest.get("experiments", {}).get(experiment)
        return {
            run: spec
            for run, spec in self.specs.items()
            if isinstance(spec, RunSpec) and (planned is None or run in planned)
        }

    @cached_property
    def by_quantity(self) -> ByQuantity:
        """The rows by quantity, cut up once."""
        return ByQuantity(self.frame)

    @property
    def table(self) -> pl.DataFrame:
        """The tidy table as it is handed out: columns and types as in ``SCHEMA``."""
        return self.frame.cast(pl.Schema(SCHEMA))

    @property
    def troubles(self) -> list[str]:
        """What a reader must know before the numbers: damaged files, and runs that failed, a line each."""
        failed = [f"run {run} ({failure.label}) failed: {failure.reason}" for run, failure in self.failures.items()]
        return [*self.damage, *failed]


def open_study(root: str | os.PathLike[str], as_recorded: bool = False) -> Study:
    """Read every finished run below ``root`` that the last command's experiments name (all, without a manifest).

    A damaged file costs what is in it: a segment its numbers, DONE or the spec their run. The rest is served.
    Rows of one quantity lie together, as claims and figures read them, or run by run where they are wanted
    ``as_recorded``.

    Raises:
        CallError: no such folder.
        WorkError: nothing finished there that can be read, or a newer Alidade wrote it.
    """
    root = place(root)
    look_again(root)
    if not root.is_dir():
        raise CallError(f"{root}: expected a folder with runs, found none; make one with 'alidade demo --out {root}'")
    reader = _Reader()
    manifest = reader.attempt(lambda: read_manifest(root)) or {}
    named = {run for runs in manifest.get("experiments", {}).values() for run in runs}
    folders = sorted(root.iterdir(), key=lambda folder: folder.name)
    folders = [f for f in folders if exists(f / SPEC) or exists(f / DONE)]
    readable = [f for f in folders if exists(f / DONE) or exists(f / PARTS)]
    finished = [f for f in readable if not named or f.name in named]
    found, tables = reader.read_runs(finished, as_recorded)
    if not found:
        nothing = f"{root}: expected a finished run, found none; run 'alidade demo --out {root}' first"
        raise WorkError(reader.damage[0] if reader.damage else nothing)
    unfinished = tuple(sorted(named - {folder.name for folder in finished}))
    return Study(
        root=root,
        frame=_joined(tables),
        specs={run.name: run.spec for run in found},
        manifest=manifest,
        environments={run.name: run.environment for run in found if run.environment is not None},
        unfinished=unfinished,
        theory=reader.attempt(lambda: read_theory(root)),
        damage=tuple(reader.damage),
        failures={run: failure for run in unfinished if (failure := failure_of(root / run))},
    )


def load(root: str | os.PathLike[str]) -> pl.DataFrame:
    """The tidy table of all measurements below ``root``: one row per number, columns as in core.records.COLUMNS.

    ``root`` is a folder, or a URL of any file system that fsspec knows (``s3://bucket/study``). A damaged file is
    warned about; nothing of it is in the table.
    """
    study = open_study(place(root, "load"), as_recorded=True)
    for line in study.damage:
        warnings.warn(line, stacklevel=2)
    return study.table


@dataclass(frozen=True)
class _Run:
    """What one run's folder holds; its rows as they lie in its files."""

    name: str
    spec: AnyRunSpec
    rows: Sequence[pl.DataFrame]
    environment: Mapping[str, Any] | None


class _Reader:
    """Reads file by file and keeps a line for each that is damaged."""

    def __init__(self) -> None:
        self.damage: list[str] = []

    def attempt(self, read: Callable[[], T]) -> T | None:
        """What is read; None where the file is damaged."""
        try:
            return read()
        except DamagedFileError as error:
            self.damage.append(str(error))
            return None

    def read_runs(self, folders: Sequence[Path], as_recorded: bool) -> tuple[list[_Run], list[_Tables]]:
        """Those of the runs that can be read, in the order given, and their rows, some runs at a time.

        Files are waited for and decoded side by side. What comes out of Parquet takes three times the memory of
        what is kept, so it is let go of as soon as a few runs are through.
        """
        bundles = [folders[start : start + BUNDLE] for start in range(0, len(folders), BUNDLE)]
        readers, runs, tables = [_Reader() for _ in bundles], list[_Run](), list[_Tables]()
        with ThreadPoolExecutor() as pool:
            read = pool.map(lambda reader, bundle: reader.read_bundle(bundle, as_recorded), readers, bundles)
            for reader, (some, table) in zip(readers, read, strict=True):
                self.damage += reader.damage
                runs += some
                tables.append(table)
        return runs, tables

    def read_bundle(self, folders: Sequence[Path], as_recorded: bool) -> tuple[list[_Run], _Tables]:
        """Some runs without their rows, and these as one table per quantity, or as one of all where ``as_recorded``."""
        runs = [run for folder in folders if (run := self.read_run(folder)) is not None]
        table = _table(runs)
        parts = {(): table} if as_recorded else table.partition_by("quantity", as_dict=True)
        return [replace(run, rows=()) for run in runs], parts

    def read_run(self, folder: Path) -> _Run | None:
        """A run without its damaged segments; None where it is not known which run it is, or what it holds."""
        spec = self.attempt(lambda: read_spec(folder))
        rows = self._segments(folder) if exists(folder / DONE) else self._parts(folder)
        if spec is None or rows is None:
            return None
        environment = None
        if exists(folder / ENVIRONMENT):
            environment = self.attempt(lambda: read_json(folder / ENVIRONMENT))
        return _Run(folder.name, spec, rows, environment)

    def _segments(self, folder: Path) -> list[pl.DataFrame] | None:
        listed = self.attempt(lambda: listed_segments(folder))
        return None if listed is None else self._sound(folder, listed)

    def _sound(self, folder: Path, listed: Mapping[str, str]) -> list[pl.DataFrame]:
        sound: dict[Path, bytes] = {}
        for name in sorted(listed):
            data = self.attempt(lambda name=name: read_segment(folder, name, listed[name]))  # type: ignore[misc]
            if data is not None:
                sound[folder / f"{name}.parquet"] = data
        try:
            return [pl.read_parquet(list(sound.values()))] if sound else []  # one by one takes twice as long
        except pl.exceptions.PolarsError:
            frames = [self.attempt(lambda path=path: parse(path, sound[path])) for path in sound]  # type: ignore[misc]
            return [frame for frame in frames if frame is not None]

    def _parts(self, folder: Path) -> list[pl.DataFrame]:
        return [frame for _, frame in read_parts(folder / PARTS, lambda error: self.damage.append(str(error)))]


def _table(runs: Sequence[_Run]) -> pl.DataFrame:
    """The tidy table of some runs, with text as categories."""
    rows = pl.concat([pl.DataFrame(schema=ROW_SCHEMA), *(frame for run in runs for frame in run.rows)])
    whose = pl.DataFrame(
        [(run.name, run.spec.seed) for run in runs],
        schema={name: SCHEMA[name] for name in ("run", "seed")},
        orient="row",
    ).cast({"run": COMPACT["run"]})
    which = np.repeat(np.arange(len(runs)), [sum(frame.height for frame in run.rows) for run in runs])
    known = {"run": whose["run"], "seed": whose["seed"]}
    return rows.select(
        known[name].gather(which) if name in known else pl.col(name).cast(COMPACT[name]) for name in COLUMNS
    )


def _joined(tables: Sequence[_Tables]) -> pl.DataFrame:
    """One table of all, key by key, which copies nothing."""
    keys = dict.fromkeys(key for parts in tables for key in parts)
    return pl.concat([parts[key] for key in keys for parts in tables if key in parts])
