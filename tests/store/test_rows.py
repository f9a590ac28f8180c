"""What goes in comes out: every row, bit for bit."""

from __future__ import annotations

import math
import struct
import tempfile
from dataclasses import astuple, fields
from pathlib import Path

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.studies import ENVIRONMENT, run_spec, segments

from alidade.core.records import COLUMNS, Row
from alidade.store import SCHEMA, load, write_run

INT64 = st.integers(min_value=-(2**63), max_value=2**63 - 1)
ROWS = st.builds(
    Row,
    step=INT64,
    quantity=st.text(),
    value=st.floats(),
    unit=st.text(),
    layer=st.none() | st.text(),
    step_size=st.none() | st.floats(),
    statistics=st.sampled_from(["batch", "running", "mixed", "none"]),
    dtype=st.text(),
    status=st.text(),
)


def _bits(value: object) -> object:
    """Floats by their bits, so that -0.0 differs from 0.0; all NaN are one."""
    return ("nan" if math.isnan(value) else struct.pack("d", value)) if isinstance(value, float) else value


def _as_tuples(rows: list[Row]) -> list[tuple[object, ...]]:
    return [tuple(map(_bits, astuple(row))) for row in rows]


@settings(max_examples=60, deadline=None)
@given(training=st.lists(ROWS, max_size=8), probe=st.lists(ROWS, max_size=8))
def test_every_row_comes_back(training: list[Row], probe: list[Row]) -> None:
    spec = run_spec(seed=123)
    with tempfile.TemporaryDirectory() as folder:
        write_run(Path(folder), spec, segments(probe=probe, training=training), ENVIRONMENT)
        frame = load(folder)
    assert frame.columns == list(COLUMNS)
    assert dict(frame.schema) == SCHEMA
    assert set(frame["run"]) <= {spec.run_id}
    assert set(frame["seed"]) <= {123}
    back = [Row(**row) for row in frame.select([field.name for field in fields(Row)]).to_dicts()]
    assert _as_tuples(back) == _as_tuples(probe + training)  # segments in the order of their names


def test_csv_and_parquet_hold_the_same_numbers(tmp_path: Path) -> None:
    from alidade.store import export

    values = [0.1, 1 / 3, 5e-324, 1.7976931348623157e308, -0.0, float("nan"), float("inf"), 123456789.123456789]
    rows = [Row(k, 'a "quoted", name\nwith a line', value, "nat", step_size=value) for k, value in enumerate(values)]
    write_run(tmp_path, run_spec(), segments(training=rows), ENVIRONMENT)
    frame = load(tmp_path)
    text = export(frame, "csv", None)
    export(frame, "csv", tmp_path / "deep" / "table.csv")
    export(frame, "parquet", tmp_path / "table.parquet")
    from_csv = pl.read_csv(tmp_path / "deep" / "table.csv", schema=SCHEMA)
    assert (tmp_path / "deep" / "table.csv").read_text() == text
    assert pl.read_parquet(tmp_path / "table.parquet").equals(frame)
    assert from_csv.equals(frame)
