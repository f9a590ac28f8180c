"""How a run ended: what counts as a divergence, and what stands still."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from alidade.core.records import Row
from alidade.train.outcome import DIVERGED_ABOVE, LAST_PART, STATIONARY_BELOW, Outcome


def rows(losses: Sequence[float], full_batch: bool = True) -> list[Row]:
    outcome = Outcome(len(losses), full_batch)
    for step, loss in enumerate(losses):
        outcome.note(step, loss)
    return list(outcome.rows())


def test_the_thresholds_are_those_that_the_documents_name() -> None:
    assert (DIVERGED_ABOVE, STATIONARY_BELOW, LAST_PART) == (1e3, 1e-3, 0.9)


@pytest.mark.parametrize("full_batch", [True, False])
@pytest.mark.parametrize(("late", "diverged"), [(2001.0, True), (2000.0, False), (-2001.0, True), (1999.0, False)])
def test_a_thousand_times_the_first_loss_is_a_divergence(late: float, diverged: bool, full_batch: bool) -> None:
    found = [row for row in rows([2.0, 1.0, late, 5.0, 2.0], full_batch) if row.quantity == "diverged"]
    assert len(found) == diverged
    for row in found:
        assert (row.step, row.value, row.unit, row.status) == (2, late / 2.0, "1", "ok")


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_is_a_divergence(loss: float) -> None:
    (row,) = rows([2.0, 1.0, 1.5, loss, loss])
    assert (row.step, row.quantity, row.status) == (3, "diverged", "non_finite")
    (at_once,) = rows([loss, 1.0])
    assert (at_once.step, at_once.status) == (0, "non_finite")


def test_the_first_divergence_counts() -> None:
    assert [row.step for row in rows([1.0, 1e4, 1.0, 1e9, math.nan])] == [1]


@pytest.mark.parametrize("first", [0.0, -0.0])
def test_a_run_that_starts_at_the_minimum_and_leaves_it(first: float) -> None:
    (row,) = rows([first, 0.5, 0.5])
    assert (row.step, row.quantity, row.status) == (1, "diverged", "non_finite")
    assert [row.quantity for row in rows([first, 0.0, 0.0])] == ["stationary"]


@pytest.mark.parametrize(
    ("change", "stationary"), [(0.0, True), (0.99e-3, True), (1.01e-3, False), (-0.99e-3, True), (0.5, False)]
)
def test_a_loss_that_hardly_changes_over_the_last_tenth_stands_still(change: float, stationary: bool) -> None:
    losses = [100.0 / (1 + step) for step in range(90)] + [7.0] + [7.0 * (1 - change)] * 9
    found = rows(losses)
    assert [row.quantity for row in found] == ["stationary"] * stationary
    for row in found:
        assert (row.step, row.status) == (100, "ok")
        assert row.value == pytest.approx(abs(change), abs=1e-15)  # differences of numbers about 7
    assert rows(losses, full_batch=False) == []


def test_what_diverged_does_not_stand_still() -> None:
    assert [row.quantity for row in rows([1.0] + [1e5] * 50)] == ["diverged"]
