"""Supported, refuted or undecided: by the interval, and undecided whenever there is none."""

from __future__ import annotations

import json
import math

import polars as pl
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from scipy import stats

from alidade.claims.claim import Claim, Runs, Seeds, Verdict, judge
from alidade.claims.statistics import student_interval

NOTHING = Runs(pl.DataFrame(), {})
#: What the command line promises; more may come after.
PROMISED = ["claim", "experiment", "paper", "verdict", "statistic", "estimate", "interval", "threshold", "n", "runs"]


def _claim(
    values: list[float], threshold: float = 1.0, scale: str = "log", reason: str = "", relation: str = ">"
) -> Claim:
    seeds = Seeds(dict(enumerate(values)), tuple(f"run{k}" for k in range(len(values))), reason)
    return Claim(
        id="a_claim", experiment="landscape", paper="Fig. 4", hypothesis="it is so", statistic="ratio",
        threshold=threshold, per_seed=lambda runs: seeds, scale=scale, relation=relation,  # type: ignore[arg-type]
    )  # fmt: skip


def _verdict(*arguments: object, **options: object) -> Verdict:
    return judge([(_claim(*arguments, **options), NOTHING)])[0]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ([0.9, 1.0, 1.1], "supported"),  # 1 +- 4.303 * 0.1 / sqrt 3 = 1 +- 0.25
        ([-0.9, -1.0, -1.1], "refuted"),
        ([0.1, -0.1, 0.05], "undecided"),
        ([0.2, 1.0, 0.6], "undecided"),  # 0.6 +- 4.303 * 0.4 / sqrt 3 = 0.6 +- 0.99
        ([0.5, 0.5], "supported"),
    ],
)
def test_the_interval_decides(values: list[float], verdict: str) -> None:
    assert _verdict(values).verdict == verdict
    shifted = [value + 0.3 for value in values]
    assert _verdict(shifted, threshold=math.exp(0.3)).verdict == verdict
    assert _verdict(shifted, threshold=0.3, scale="linear").verdict == verdict


@pytest.mark.parametrize(
    ("values", "verdict"),
    [([0.9, 1.0, 1.1], "refuted"), ([-0.9, -1.0, -1.1], "supported"), ([0.1, -0.1, 0.05], "undecided")],
)
def test_where_less_is_claimed_the_other_side_supports(values: list[float], verdict: str) -> None:
    found = _verdict(values, relation="<")
    assert (found.verdict, found.relation) == (verdict, "<")
    other = _verdict(values)
    assert (found.estimate, found.interval, found.p_adjusted) == (other.estimate, other.interval, other.p_adjusted)
    assert _verdict([0.0, 0.0], relation="<").verdict == "undecided"  # at the threshold


def test_at_the_threshold_is_not_above_it() -> None:
    assert _verdict([0.0, 0.0], threshold=1.0).verdict == "undecided"
    assert _verdict([0.5, 0.5], threshold=0.5, scale="linear").verdict == "undecided"


@pytest.mark.parametrize(
    ("values", "n"), [([], 0), ([2.0], 1), ([math.nan, 2.0], 1), ([math.inf, -math.inf, math.nan], 0)]
)
def test_fewer_than_two_values_leave_it_undecided_with_the_reason(values: list[float], n: int) -> None:
    verdict = _verdict(values, reason="3 of 5 seeds left out: no value")
    assert (verdict.verdict, verdict.n, verdict.interval, verdict.p_adjusted) == ("undecided", n, None, None)
    assert verdict.reason == f"an interval needs at least 2 seeds, {n} have a value; 3 of 5 seeds left out: no value"
    assert (verdict.estimate is None) == (n == 0)


def test_values_that_are_no_numbers_do_not_count() -> None:
    assert _verdict([0.9, math.nan, 1.0, math.inf, 1.1]) == _verdict_with_all_runs([0.9, 1.0, 1.1], runs=5)


def _verdict_with_all_runs(values: list[float], runs: int) -> Verdict:
    from dataclasses import replace

    return replace(_verdict(values), runs=tuple(f"run{k}" for k in range(runs)))


def test_ratios_are_reported_as_ratios() -> None:
    values = [math.log(2.0), math.log(3.0), math.log(4.5)]
    verdict, interval = _verdict(values, threshold=1.5), student_interval(values, math.log(1.5))
    assert verdict.estimate == pytest.approx(3.0, rel=1e-14)  # the geometric mean; a few roundings
    assert verdict.interval == (math.exp(interval.low), math.exp(interval.high))
    assert verdict.threshold == 1.5
    assert verdict.p_adjusted == pytest.approx(stats.ttest_1samp(values, math.log(1.5)).pvalue, rel=1e-12)


def test_p_values_are_adjusted_over_the_claims_that_have_one() -> None:
    claims = [_claim([0.9, 1.0, 1.1]), _claim([]), _claim([0.1, 0.5, 0.6]), _claim([2.0])]
    verdicts = judge([(claim, NOTHING) for claim in claims])
    alone = [student_interval([0.9, 1.0, 1.1]).p, student_interval([0.1, 0.5, 0.6]).p]
    assert [verdict.p_adjusted for verdict in verdicts] == [2 * alone[0], None, alone[1], None]


# A value is the logarithm of a ratio of float64 numbers, or a difference of accuracies: far below 1e100.
VALUES = st.floats(-1e100, 1e100) | st.sampled_from([math.nan, math.inf, -math.inf])


@settings(suppress_health_check=[HealthCheck.too_slow])  # six numbers are quick to draw, but for a crowded machine
@given(st.lists(VALUES, max_size=6), st.sampled_from(["log", "linear"]), st.floats(0.1, 10))
@example([700.0, 720.0], "log", 1.0)
@example([0.0, 1e100], "log", 1.0)
def test_a_verdict_is_json_whatever_the_values_are(values: list[float], scale: str, threshold: float) -> None:
    verdict = _verdict(values, threshold=threshold, scale=scale)
    written = json.loads(json.dumps(verdict.to_json(), allow_nan=False))
    assert [key for key in written if key in PROMISED] == PROMISED
    assert written["estimate"] is not None or written["verdict"] == "undecided"
    assert written["n"] == sum(map(math.isfinite, values))
    if written["interval"] is not None:
        low, high = written["interval"]
        assert low <= written["estimate"] <= high


def test_the_json_form_is_stable() -> None:
    assert list(_verdict([1.0, 1.0]).to_json().items()) == [
        ("claim", "a_claim"),
        ("experiment", "landscape"),
        ("paper", "Fig. 4"),
        ("hypothesis", "it is so"),
        ("verdict", "supported"),
        ("statistic", "ratio"),
        ("estimate", math.e),
        ("interval", [math.e, math.e]),
        ("threshold", 1.0),
        ("relation", ">"),
        ("n", 2),
        ("p_adjusted", 0.0),
        ("runs", ["run0", "run1"]),
        ("reason", ""),
    ]


@pytest.mark.parametrize(
    ("values", "scale", "tie"),
    [
        ([1e-4, -1e-4, 2e-4], "log", True),
        ([1e-2, -1e-2, 2e-2], "log", False),  # 0.007 +- 4.303 * 0.0153 / sqrt 3 reaches 4 %
        ([1e-4, -1e-4, 2e-4], "linear", False),  # a difference has no natural size
    ],
)
def test_a_ratio_that_stays_within_one_percent_of_the_threshold_is_a_tie(
    values: list[float], scale: str, tie: bool
) -> None:
    found = _verdict(values, threshold=1.0 if scale == "log" else 0.0, scale=scale)
    assert (found.verdict, found.reason.endswith("within 1 % of it: a tie")) == ("undecided", tie)
