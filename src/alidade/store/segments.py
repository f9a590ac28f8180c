"""Rows by segment, in memory, until they are written."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import fields
from operator import attrgetter
from typing import Any

import polars as pl

from alidade.core.records import COLUMNS, Row

#: Types of the columns of the tidy table.
SCHEMA: dict[str, Any] = {
    "run": pl.String, "seed": pl.Int64, "step": pl.Int64, "quantity": pl.String, "layer": pl.String,
    "step_size": pl.Float64, "value": pl.Float64, "unit": pl.String, "statistics": pl.String, "dtype": pl.String,
    "status": pl.String,
}  # fmt: skip
#: In these columns no study comes near 65,000 different texts: two bytes a row.
_FEW = dict.fromkeys(
    ("layer", "unit", "statistics", "dtype"), pl.Categorical(pl.Categories("alidade", physical=pl.UInt16))
)
#: The same as they are kept in memory: a text that comes a thousand times is kept once.
COMPACT = pl.Schema(
    {name: _FEW.get(name, pl.Categorical()) if kind == pl.String else kind for name, kind in SCHEMA.items()}
)
ROW_SCHEMA = {name: SCHEMA[name] for name in COLUMNS if name not in ("run", "seed")}

_FIELDS = [field.name for field in fields(Row)]
_values = attrgetter(*_FIELDS)


class Segments:
    """A recorder (core.records.Recorder) that keeps rows in memory until the run is written.

    Rows that were asked for once are kept as a table: a run that is saved again and again converts each row once.
    """

    def __init__(self, tables: Mapping[str, pl.DataFrame] | None = None) -> None:
        self._tables = dict(tables or {})
        self._new: dict[str, list[Row]] = {name: [] for name in self._tables}

    def record(self, segment: str, rows: Sequence[Row]) -> None:
        """Append rows to a segment; an empty list still makes the segment exist."""
        self._new.setdefault(segment, []).extend(rows)

    def frame(self, segment: str) -> pl.DataFrame:
        """The segment's rows as a table without run and seed."""
        new = self._new[segment]
        if new or segment not in self._tables:
            schema = {name: ROW_SCHEMA[name] for name in _FIELDS}
            rows = pl.DataFrame(list(map(_values, new)), schema=schema, orient="row").select(list(ROW_SCHEMA))
            earlier = self._tables.get(segment)
            self._tables[segment] = rows if earlier is None else pl.concat([earlier, rows])
            self._new[segment] = []
        return self._tables[segment]

    def only(self, wanted: Container[str]) -> Segments:
        """Those of the segments that are wanted."""
        return Segments({name: self.frame(name) for name in self.names if name in wanted})

    @property
    def names(self) -> tuple[str, ...]:
        """Segments that hold rows or were declared."""
        return tuple(self._new)
