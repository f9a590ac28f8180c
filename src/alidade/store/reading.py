"""A study as a whole: what is sound is served, and what is damaged is named."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import polars as pl

from alidade.core.errors import CallError, WorkError
from alidade.core.records import COLUMNS
from alidade.core.spec import AnyRunSpec, RunSpec
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

    @property
    def table(self) -> pl.DataFrame:
        """The tidy table as it is handed out: columns and types as in ``SCHEMA``."""
        return self.frame.cast(pl.Schema(SCHEMA))

    @property
    def troubles(self) -> list[str]:
        """What a reader must know before the numbers: damaged files, and runs that failed, a line each."""
        failed = [f"run {run} ({failure.label}) failed: {failure.reason}" for run, failure in self.failures.items()]
        return [*self.damage, *failed]


def open_study(root: str | os.PathLike[str]) -> Study:
    """Read every finished run below ``root`` that the last command's experiments name (all, without a manifest).

    A damaged file costs what is in it: a segment its numbers, DONE or the spec their run. The rest is served.

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
    found = {run.name: run for run in reader.read_runs(finished)}
    if not found:
        nothing = f"{root}: expected a finished run, found none; run 'alidade demo --out {root}' first"
        raise WorkError(reader.damage[0] if reader.damage else nothing)
    unfinished = tuple(sorted(named - {folder.name for folder in finished}))
    return Study(
        root=root,
        frame=pl.concat([run.frame for run in found.values()]),
        specs={name: run.spec for name, run in found.items()},
        manifest=manifest,
        environments={name: run.environment for name, run in found.items() if run.environment is not None},
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
    study = open_study(place(root, "load"))
    for line in study.damage:
        warnings.warn(line, stacklevel=2)
    return study.table


@dataclass(frozen=True)
class _Run:
    """What one run's folder holds."""

    name: str
    spec: AnyRunSpec
    frame: pl.DataFrame
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

    def read_runs(self, folders: Sequence[Path]) -> Iterator[_Run]:
        """Those of the runs that can be read, in the order given; files are waited for and decoded side by side."""
        readers = [_Reader() for _ in folders]
        with ThreadPoolExecutor() as pool:
            for reader, run in zip(readers, pool.map(_Reader.read_run, readers, folders), strict=True):
                self.damage += reader.damage
                if run is not None:
                    yield run

    def read_run(self, folder: Path) -> _Run | None:
        """A run without its damaged segments; None where it is not known which run it is, or what it holds."""
        spec = self.attempt(lambda: read_spec(folder))
        frames = self._segments(folder) if exists(folder / DONE) else self._parts(folder)
        if spec is None or frames is None:
            return None
        frame = pl.concat([f for f in frames if f.height] or frames[:1] or [pl.DataFrame(schema=ROW_SCHEMA)])
        environment = None
        if exists(folder / ENVIRONMENT):
            environment = self.attempt(lambda: read_json(folder / ENVIRONMENT))
        return _Run(folder.name, spec, _of_run(frame, folder.name, spec.seed), environment)

    def _segments(self, folder: Path) -> list[pl.DataFrame] | None:
        listed = self.attempt(lambda: listed_segments(folder))
        return None if listed is None else list(self._sound(folder, listed))

    def _sound(self, folder: Path, listed: Mapping[str, str]) -> Iterator[pl.DataFrame]:
        for name in sorted(listed):
            frame = self.attempt(lambda name=name: self._segment(folder, name, listed[name]))  # type: ignore[misc]
            if frame is not None:
                yield frame

    def _segment(self, folder: Path, name: str, digest: str) -> pl.DataFrame:
        return parse(folder / f"{name}.parquet", read_segment(folder, name, digest))

    def _parts(self, folder: Path) -> list[pl.DataFrame]:
        return [frame for _, frame in read_parts(folder / PARTS, lambda error: self.damage.append(str(error)))]


def _of_run(rows: pl.DataFrame, run: str, seed: int | None) -> pl.DataFrame:
    """The tidy table of one run from the rows of its segments."""
    whose = {"run": pl.lit(run, dtype=pl.String), "seed": pl.lit(seed, dtype=pl.Int64)}
    return rows.select(whose.get(name, pl.col(name)).cast(COMPACT[name]).alias(name) for name in COLUMNS)
