"""Intervals, Holm's correction and the comparison at equal loss, each against a naive twin or another library."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats
from tests.reference import statistics as naive

from alidade.claims.statistics import (
    LOSS_BINS,
    PROBES_PER_BIN,
    SMOOTHING_STEPS,
    holm,
    log_ratio_at_equal_loss,
    smoothed_losses,
    student_interval,
)

EPS = np.finfo(float).eps
P_VALUES = st.lists(st.floats(0, 1), max_size=12)


@pytest.mark.parametrize("n", [2, 3, 5, 10, 30])
@pytest.mark.parametrize("threshold", [0.0, 0.7])
def test_the_interval_is_that_of_scipys_t_test(n: int, threshold: float) -> None:
    x = np.random.default_rng(n).normal(0.3, 1.0, n)
    found, test = student_interval(list(x), threshold), stats.ttest_1samp(x, threshold)
    expected = test.confidence_interval(0.95)
    # Mean and deviation are sums of n numbers of size 1: n roundings each. The quantile and the tail probability are
    # scipy's in both, at arguments that differ by as much; the tail's relative slope in t is below n.
    rounding = 8 * n * EPS
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=0, abs=10 * rounding)
    assert found.p == pytest.approx(test.pvalue, rel=10 * n * rounding)
    assert (found.mean, found.n) == (pytest.approx(x.mean(), abs=rounding), n)


def test_the_interval_covers_the_mean_95_times_in_100() -> None:
    repeats, n = 3000, 5
    draws = np.random.default_rng(0).normal(1.0, 2.0, (repeats, n))
    covered = sum((i := student_interval(list(x))).low <= 1.0 <= i.high for x in draws) / repeats
    # Four standard deviations of a share of 3000: 4 sqrt(0.95 * 0.05 / 3000) = 0.016; normal quantiles instead of
    # Student's would cover 0.88.
    assert covered == pytest.approx(0.95, abs=0.016)


def test_values_that_agree_leave_no_doubt() -> None:
    sure = student_interval([0.5, 0.5, 0.5], threshold=0.25)
    assert (sure.low, sure.high, sure.p) == (0.5, 0.5, 0.0)
    assert student_interval([0.5, 0.5], threshold=0.5).p == 1.0


@pytest.mark.parametrize("values", [[], [1.0]])
def test_fewer_than_two_values_have_no_interval(values: list[float]) -> None:
    with pytest.raises(ValueError, match=f"expected at least two, got {len(values)}"):
        student_interval(values)


@given(P_VALUES)
@example([0.5, 0.5, 0.01, 0.01])
def test_holm_is_its_definition(p_values: list[float]) -> None:
    assert holm(p_values) == naive.holm(p_values)


@given(P_VALUES, st.floats(0.001, 0.2))
def test_holm_rejects_what_the_step_down_procedure_rejects(p_values: list[float], level: float) -> None:
    rejected, m = set(), len(p_values)
    for rank, index in enumerate(sorted(range(m), key=lambda k: p_values[k])):
        if (m - rank) * p_values[index] > level:
            break
        rejected.add(index)
    assert {index for index, p in enumerate(holm(p_values)) if p <= level} == rejected


def _random_run(random: np.random.Generator) -> list[tuple[float, float]]:
    """A falling loss with a positive value at each probe, and now and then something that is no number."""
    probes = int(random.integers(0, 40))
    start, end = random.uniform(0.5, 3.0), random.uniform(0.05, 2.0)
    losses = np.linspace(start, end, probes) * random.uniform(0.9, 1.1, probes)
    values = random.lognormal(0, 1, probes)
    for series in (losses, values):
        series[random.random(probes) < 0.05] = random.choice([0.0, -1.0, np.nan, np.inf])
    return list(zip(losses.tolist(), values.tolist(), strict=True))


def test_the_ratio_at_equal_loss_is_its_definition() -> None:
    random, undecided, repeats = np.random.default_rng(4), 0, 400
    for _ in range(repeats):
        first, second = _random_run(random), _random_run(random)
        found, expected = log_ratio_at_equal_loss(first, second), naive.log_ratio_at_equal_loss(first, second)
        assert (found is None) == (expected is None)
        if found is None or expected is None:
            undecided += 1
        else:
            # Means of up to 40 logs of size up to 5: rounding of 40 * 5 * eps each, four of them.
            assert found == pytest.approx(expected, rel=0, abs=4 * 40 * 5 * EPS)
    assert 0.1 * repeats < undecided < 0.9 * repeats  # both sides were tried


@pytest.mark.parametrize("wrong", [[], [(1.0, 2.0)], [(0.0, 1.0), (math.nan, 1.0)], [(5.0, 1.0), (6.0, 1.0)]])
def test_runs_that_share_no_losses_have_no_ratio(wrong: list[tuple[float, float]]) -> None:
    usual = [(0.1 * k, 2.0) for k in range(1, 31)]
    assert log_ratio_at_equal_loss(wrong, usual) is None
    assert log_ratio_at_equal_loss(usual, wrong) is None


def test_a_bin_needs_five_probes_of_both_runs() -> None:
    assert (LOSS_BINS, PROBES_PER_BIN) == (2, 5)
    many = [(float(loss), 1.0) for loss in np.geomspace(1, 4, 50)]
    few = [(1.0, 3.0), (4.0, 7.0), *[(1.5, 3.0)] * 3]  # 4 probes below the middle, 2, and 1 above
    assert log_ratio_at_equal_loss(few, many) is None
    assert log_ratio_at_equal_loss([*few, (1.2, 3.0)], many) == pytest.approx(math.log(3), rel=8 * EPS)


@given(st.lists(st.floats(-10, 10), max_size=40))
def test_the_smoothed_loss_is_a_trailing_mean(losses: list[float]) -> None:
    schema = {"run": str, "step": int, "value": float}
    own = {"run": ["a"] * len(losses), "step": range(len(losses)), "value": losses}
    other = pl.DataFrame({"run": "b", "step": range(40), "value": 1e9}, schema=schema)
    found = smoothed_losses(pl.concat([other, pl.DataFrame(own, schema=schema)]).reverse()).get("a", {})
    # A rolling sum adds and takes away up to 40 numbers of size 10, rounding each time.
    expected = naive.smoothed(losses, SMOOTHING_STEPS)
    assert list(found) == list(range(len(losses)))
    assert list(found.values()) == pytest.approx(expected, rel=0, abs=2 * 40 * 100 * EPS)


def test_a_loss_that_is_no_number_spoils_its_window_and_no_more() -> None:
    losses = [1.0] * 30
    losses[5] = math.nan
    found = smoothed_losses(pl.DataFrame({"run": "a", "step": range(30), "value": losses}))["a"]
    assert [step for step, value in found.items() if math.isnan(value)] == list(range(5, 5 + SMOOTHING_STEPS))
