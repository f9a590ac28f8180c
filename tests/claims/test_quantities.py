from __future__ import annotations

import random

import polars as pl
import pytest
from tests.reference import statistics as naive

from alidade.claims.quantities import (
    PAPER_FACTORS,
    RELATIVE_STEPS,
    BandSeries,
    after_warm_up,
    paper_step_sizes,
    same_size,
)

STATUS = ["ok"] * 8 + ["below_resolution", "non_finite", "failed: it raised"]


def _rows(learning_rate: float) -> list[dict[str, object]]:
    """Line profiles at two lists of step sizes, with holes and numbers that are not ok."""
    how = random.Random(0)
    sizes = [0.0, learning_rate / 100, learning_rate / 10, *paper_step_sizes(learning_rate)]
    return [
        {
            "step": step,
            "quantity": quantity,
            "step_size": size,
            "value": how.uniform(0, 5),
            "status": how.choice(STATUS),
        }
        for step in range(0, 200, 2)
        for quantity in ("loss", "gradient_distance")
        for size in sizes
        if how.random() > 0.02
    ]


@pytest.mark.parametrize("reduce", ["width", "max"])
@pytest.mark.parametrize("quantity", ["loss", "gradient_distance"])
@pytest.mark.parametrize("learning_rate", [0.1, 0.5, 0.3, 1 / 3, 7e-5])
def test_a_band_is_its_definition(quantity: str, reduce: str, learning_rate: float) -> None:
    rows = _rows(learning_rate)
    sizes = paper_step_sizes(learning_rate)
    expected = naive.band(rows, quantity, reduce, sizes)
    found = BandSeries(quantity, reduce).of(pl.DataFrame(rows), sizes)  # type: ignore[arg-type]
    assert found == expected
    assert list(found) == sorted(found)
    assert 20 < len(found) < 90  # there were whole ones and broken ones


def test_the_bands_of_many_runs_are_those_of_each() -> None:
    """Also of a run that has none, of runs whose rows lie apart, and at other steps than its neighbour's."""
    sizes = paper_step_sizes(0.1)
    parts = {"b": _rows(0.1), "a": [row | {"step": 3 * row["step"], "value": 1.0} for row in _rows(0.1)], "c": []}  # type: ignore[operator]
    parts["d"] = [row | {"status": "non_finite"} for row in _rows(0.1)]
    rows = [row | {"run": run} for run, own in parts.items() for row in own]
    random.Random(1).shuffle(rows)
    found = BandSeries("loss", "width").by_run(pl.DataFrame(rows), sizes)
    expected = {run: naive.band(own, "loss", "width", sizes) for run, own in parts.items()}
    assert {run: found.get(run, {}) for run in parts} == expected
    assert len(expected["a"]) == len(expected["b"]) > 20


def test_a_point_that_two_probes_list_counts_once() -> None:
    rows = [row | {"status": "ok"} for row in _rows(0.1)]
    once = BandSeries("loss", "width").of(pl.DataFrame(rows), paper_step_sizes(0.1))
    assert BandSeries("loss", "width").of(pl.DataFrame(rows + rows), paper_step_sizes(0.1)) == once


def test_a_probe_that_failed_has_no_band() -> None:
    rows = [{"step": 0, "quantity": "line_profile", "step_size": None, "value": float("nan"), "status": "failed: x"}]
    schema = {"step": int, "quantity": str, "step_size": float, "value": float, "status": str}
    assert BandSeries("loss", "max").of(pl.DataFrame(rows, schema=schema), (0.1,)) == {}


def test_a_point_that_two_probes_write_differently_counts_once() -> None:
    """0.05 as half of 0.1 and as a rounded product: the same point to nine digits."""
    rows = [row | {"status": "ok"} for row in _rows(0.1)]
    nearly = [row | {"step_size": row["step_size"] * (1 + 1e-15)} for row in rows]  # type: ignore[operator]
    once = BandSeries("loss", "width").of(pl.DataFrame(rows), paper_step_sizes(0.1))
    assert BandSeries("loss", "width").of(pl.DataFrame(rows + nearly), paper_step_sizes(0.1)) == once


def test_the_lists_are_those_of_the_contract() -> None:
    assert PAPER_FACTORS["vgg"] == (0.5, 1.0, 2.0, 4.0)
    assert PAPER_FACTORS["deep_linear"] == pytest.approx((0.01, 0.1, 1.0, 10.0, 31.6227766), rel=1e-9)
    assert RELATIVE_STEPS == (0.01, 0.03, 0.1, 0.3)


def test_the_papers_step_sizes_are_those_of_figure_11() -> None:
    assert paper_step_sizes(0.1) == pytest.approx((0.05, 0.1, 0.2, 0.4), rel=1e-15)
    linear = paper_step_sizes(1e-6, "deep_linear")
    assert linear == pytest.approx((1e-8, 1e-7, 1e-6, 1e-5, 10**-4.5), rel=1e-15)
    with pytest.raises(KeyError):
        paper_step_sizes(0.1, "resnet")


@pytest.mark.parametrize("size", [0.05, 1e-8, 10**-4.5, 1 / 3])
def test_step_sizes_are_the_same_to_nine_digits(size: float) -> None:
    others = [size, size * (1 + 1e-12), size * (1 + 1e-7), 2 * size, 0.0, None]
    found = pl.DataFrame({"step_size": others}).select(same_size(size)).to_series().to_list()
    assert found == [True, True, False, False, False, None]


def test_the_first_tenth_is_left_out() -> None:
    assert after_warm_up(dict.fromkeys(range(0, 121, 4), 1.0), 120) == dict.fromkeys(range(12, 121, 4), 1.0)
