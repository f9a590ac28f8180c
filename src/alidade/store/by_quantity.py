"""A tidy table cut up by quantity, and within a quantity by run."""

from __future__ import annotations

from collections.abc import Container, Mapping
from functools import cached_property

import polars as pl


class ByQuantity:
    """The rows of a table by quantity and run, in their order; a study is opened in one that need not be copied.

    >>> rows = pl.DataFrame({"run": ["a", "a", "b"], "quantity": ["loss", "norm", "loss"], "value": [1.0, 2.0, 3.0]})
    >>> cut = ByQuantity(rows)
    >>> cut.of("loss")["value"].to_list(), cut.of("loss", "b")["value"].to_list(), cut.of("loss", "c").height
    ([1.0, 3.0], [3.0], 0)
    """

    def __init__(self, table: pl.DataFrame) -> None:
        self._table = table
        self._by_run: dict[str, Mapping[str, pl.DataFrame]] = {}

    def of(self, quantity: str, run: str | None = None) -> pl.DataFrame:
        """The rows of a quantity, of one run where it is named."""
        rows = self._by_quantity.get(quantity, self._nothing)
        return rows if run is None else self._runs_of(quantity).get(run, self._nothing)

    def only(self, runs: Container[str]) -> pl.DataFrame:
        """The table of some of the runs."""
        kept = [rows for name in self.names for run, rows in self._runs_of(name).items() if run in runs]
        return pl.concat(kept) if kept else self._nothing

    def _runs_of(self, quantity: str) -> Mapping[str, pl.DataFrame]:
        if quantity not in self._by_run:
            self._by_run[quantity] = _cut(self.of(quantity), "run")
        return self._by_run[quantity]

    @property
    def names(self) -> tuple[str, ...]:
        """The quantities that there are."""
        return tuple(self._by_quantity)

    @cached_property
    def _by_quantity(self) -> Mapping[str, pl.DataFrame]:
        return _cut(self._table, "quantity")

    @cached_property
    def _nothing(self) -> pl.DataFrame:
        return self._table.clear()


def _cut(table: pl.DataFrame, column: str) -> dict[str, pl.DataFrame]:
    """The rows by what stands in a column: views of the table where equal rows lie together."""
    if table.is_empty():
        return {}
    stretches = table[column].rle().struct.unnest()
    names, lengths = stretches["value"].to_list(), stretches["len"].to_list()
    if len(set(names)) < len(names):
        return {str(name): rows for (name,), rows in table.partition_by(column, as_dict=True).items()}
    ends = stretches["len"].cum_sum().to_list()
    return {name: table[end - n : end] for name, n, end in zip(names, lengths, ends, strict=True)}
