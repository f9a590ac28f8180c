"""The pieces of a run that is still being written: files of rows, and marks that say which rows are void.

A piece's name carries its number, its digest and its segment. A mark "number.step.cut" makes void, in all pieces of
a lower number, the rows from that step on: a training that went back to a checkpoint measures them again.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import polars as pl

from alidade.store.files import DamagedFileError, damaged, read_bytes, sha256, write_atomically

PARTS = "parts"  # folder of a survey's run that is still written, or was killed


def parquet(frame: pl.DataFrame) -> bytes:
    """The table as the bytes of a Parquet file."""
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    return buffer.getvalue()


def parse(path: Path, data: bytes) -> pl.DataFrame:
    """The table in a Parquet file.

    Raises:
        WorkError: it is damaged.
    """
    try:
        return pl.read_parquet(data)
    except pl.exceptions.PolarsError as error:
        raise damaged(path) from error


def write_part(folder: Path, number: int, segment: str, frame: pl.DataFrame) -> None:
    """Write one piece."""
    data = parquet(frame)
    write_atomically(folder / f"{number:06d}.{sha256(data)[:16]}.{segment}.parquet", data)


def write_cut(folder: Path, step: int) -> int:
    """Make void all rows that are there from ``step`` on; the number for the pieces that follow."""
    number = 1 + max((_number(path) for path in folder.iterdir() if path.suffix in (".parquet", ".cut")), default=-1)
    write_atomically(folder / f"{number:06d}.{step}.cut", b"")
    return number


def read_parts(
    folder: Path, tolerate: Callable[[DamagedFileError], None] | None = None
) -> list[tuple[str, pl.DataFrame]]:
    """Segment and rows of each piece, in order, without the void rows.

    ``tolerate`` is handed the error for each damaged piece, which is then left out.

    Raises:
        DamagedFileError: a piece is damaged, and nobody tolerates it.
    """
    cuts = [(_number(path), int(path.name.split(".")[1])) for path in folder.glob("*.cut")]
    found = []
    for path in sorted(folder.glob("*.parquet")):
        try:
            segment, frame = _read_part(path)
        except DamagedFileError as error:
            if tolerate is None:
                raise
            tolerate(error)
            continue
        end = min((step for number, step in cuts if number > _number(path)), default=None)
        found.append((segment, frame if end is None else frame.filter(pl.col("step") < end)))
    return found


def _read_part(path: Path) -> tuple[str, pl.DataFrame]:
    remedy = "move that file away: the rest of the run is kept"
    data = read_bytes(path, remedy)
    _, digest, segment = path.name.removesuffix(".parquet").split(".", 2)
    if sha256(data)[:16] != digest:
        raise damaged(path, remedy=remedy)
    return segment, parse(path, data)


def _number(path: Path) -> int:
    return int(path.name.split(".")[0])
