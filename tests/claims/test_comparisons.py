"""One value per seed, from two runs of that seed."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
from tests.reference import statistics as naive
from tests.studies import run_spec

from alidade.claims.claim import Runs
from alidade.claims.comparisons import band_log_ratio, log_ratio, mean_over_training, paired
from alidade.claims.quantities import RELATIVE_STEPS, BandSeries, paper_step_sizes

STEPS = 40
WIDTH = BandSeries("loss", "width")
TWIN = BandSeries("relative_loss", "width")


def _rows(seed: int, scale: float, broken: tuple[int, ...] = ()) -> list[dict[str, object]]:
    """A run's training loss, and line profiles at every second step whose losses spread in proportion to ``scale``."""
    random = np.random.default_rng(seed)
    rows: list[dict[str, object]] = [
        {"step": step, "quantity": "train_loss", "step_size": None, "value": 2.5 * 0.95**step, "status": "ok"}
        for step in range(STEPS)
    ]
    for step in range(0, STEPS + 1, 2):
        for quantity, sizes in (("loss", paper_step_sizes(0.1)), ("relative_loss", RELATIVE_STEPS)):
            for size in sizes:
                value, status = scale * random.random(), "non_finite" if step in broken else "ok"
                rows.append({"step": step, "quantity": quantity, "step_size": size, "value": value, "status": status})
    return rows


def _runs(*parts: tuple[str, int, list[dict[str, object]]]) -> Runs:
    """Runs by norm and seed."""
    specs = {(norm, seed): run_spec(seed, norm, steps=STEPS) for norm, seed, _ in parts}  # type: ignore[arg-type]
    rows = [{"run": specs[norm, seed].run_id, **row} for norm, seed, found in parts for row in found]
    schema = {"run": str, "step": int, "quantity": str, "step_size": float, "value": float, "status": str}
    return Runs(pl.DataFrame(rows, schema=schema), {spec.run_id: spec for spec in specs.values()})


def _value(runs: Runs, series: BandSeries, equal_loss: bool) -> float | None:
    found = paired(runs, "none", "batch", 0.1, band_log_ratio(series, equal_loss), "why")
    return next(iter(found.values.values()), None)


@pytest.mark.parametrize(("series", "sizes"), [(WIDTH, paper_step_sizes(0.1)), (TWIN, RELATIVE_STEPS)])
def test_at_equal_step_it_is_the_ratio_of_means_over_steps_that_both_have(
    series: BandSeries, sizes: tuple[float, ...]
) -> None:
    plain, batch = _rows(1, 3.0, broken=(10, 20)), _rows(2, 1.0, broken=(20, 30))
    bands = [naive.band(rows, series.quantity, "width", sizes) for rows in (plain, batch)]
    steps = [step for step in range(4, STEPS + 1, 2) if step not in (10, 20, 30)]
    expected = math.log(sum(bands[0][step] for step in steps) / sum(bands[1][step] for step in steps))
    found = _value(_runs(("none", 100, plain), ("batch", 100, batch)), series, equal_loss=False)
    assert found == pytest.approx(expected, rel=1e-13)  # sums of 20 numbers of one sign: 20 roundings


def test_at_equal_loss_it_is_the_ratio_over_bins_of_the_smoothed_loss() -> None:
    plain, batch = _rows(1, 3.0), _rows(2, 1.0)
    smooth = naive.smoothed([2.5 * 0.95**step for step in range(STEPS)], 10)
    smooth.append(smooth[-1])  # the last probe comes after the last step
    sizes = paper_step_sizes(0.1)
    pairs = [[(smooth[s], v) for s, v in naive.band(rows, "loss", "width", sizes).items()] for rows in (plain, batch)]
    expected = naive.log_ratio_at_equal_loss(pairs[0], pairs[1])
    found = _value(_runs(("none", 100, plain), ("batch", 100, batch)), WIDTH, equal_loss=True)
    assert expected is not None
    assert found == pytest.approx(expected, rel=1e-12)  # as above, of logs


def test_a_run_that_broke_down_early_is_not_compared() -> None:
    most = tuple(range(0, STEPS, 2))[6:]
    runs = _runs(("none", 100, _rows(1, 3.0, broken=most)), ("batch", 100, _rows(2, 1.0)))
    assert _value(runs, WIDTH, equal_loss=False) is None


@pytest.mark.parametrize("equal_loss", [False, True])
def test_a_run_without_any_band_is_left_out_with_the_reason(equal_loss: bool) -> None:
    everything = tuple(range(STEPS + 1))
    runs = _runs(
        ("none", 100, _rows(1, 3.0, broken=everything)), ("batch", 100, _rows(2, 1.0)),
        ("none", 101, _rows(3, 3.0)), ("batch", 101, _rows(4, 1.0)),
    )  # fmt: skip
    found = paired(runs, "none", "batch", 0.1, band_log_ratio(WIDTH, equal_loss), "no band")
    assert set(found.values) == {101}
    assert found.reason == "1 of 2 seeds left out: no band"
    assert len(found.runs) == 4


def test_only_seeds_that_both_have_make_pairs() -> None:
    content = {seed: _rows(seed, 1.0) for seed in (100, 101, 102)}
    runs = _runs(*(("none", seed, content[seed]) for seed in (100, 102)), ("batch", 102, content[102]))
    found = paired(runs, "none", "batch", 0.1, lambda runs, a, b: 0.0 if a != b else 1.0, "why")
    assert (found.values, found.reason) == ({102: 0.0}, "")
    assert set(found.runs) == {run_spec(102, "none", steps=STEPS).run_id, run_spec(102, "batch", steps=STEPS).run_id}
    assert paired(runs, "none", "batch", 0.5, lambda runs, a, b: 0.0, "why").runs == ()


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (8.0, 2.0, math.log(4)), (None, 1.0, None), (1.0, None, None), (0.0, 1.0, None), (1.0, -1.0, None),
        (5e-324, 1.7e308, math.log(5e-324) - math.log(1.7e308)),  # the quotient itself would be 0
    ],
)  # fmt: skip
def test_the_log_ratio_is_missing_where_it_is_not_defined(
    first: float | None, second: float | None, expected: float | None
) -> None:
    assert log_ratio(first, second) == (None if expected is None else pytest.approx(expected, rel=1e-15))


def test_a_mean_over_training_counts_the_steps_asked_for_and_refuses_holes() -> None:
    rows = _rows(1, 1.0)
    runs = _runs(("none", 100, rows))
    (run,) = runs.specs
    losses = [2.5 * 0.95**step for step in range(STEPS)]
    assert mean_over_training(runs, run, "train_loss") == pytest.approx(np.mean(losses), rel=1e-14)
    assert mean_over_training(runs, run, "train_loss", 0.8) == pytest.approx(np.mean(losses[32:]), rel=1e-14)
    assert mean_over_training(runs, run, "not measured") is None
    broken = [row | {"value": math.nan} if row["step"] == 35 else row for row in rows]
    assert mean_over_training(_runs(("none", 100, broken)), run, "train_loss") is None
