from itertools import pairwise

import polars as pl
import pytest

from alidade.report.scales import linear_axis, linear_ticks, log_axis, log_ticks
from alidade.report.theme import COLOURS


@pytest.mark.parametrize(
    "domain", [(0.9, 1.1), (1e-5, 1e12), (3.0, 7.0), (0.02, 0.021), (1e-9, 1e-8), (2.0, 2000.0), (11.0, 12.5)]
)
def test_log_ticks_are_few_and_inside(domain):
    ticks = log_ticks(*domain)
    assert 2 <= len(ticks) <= 8
    assert all(domain[0] <= tick <= domain[1] for tick in ticks)
    assert all(a < b for a, b in pairwise(ticks))


@pytest.mark.parametrize("domain", [(0.0, 120.0), (-1.0, 1.0), (0.0, 15_000.0), (3.2, 3.3), (0.0, 1e-7)])
def test_linear_ticks_are_few_and_inside(domain):
    ticks = linear_ticks(*domain)
    assert 2 <= len(ticks) <= 7
    assert domain[0] - 1e-12 <= ticks[0]
    assert ticks[-1] <= domain[1] * (1 + 1e-9)


@pytest.mark.parametrize("values", [[], [0.0], [float("nan"), float("inf")], [-1.0], [5.0], [5.0, 5.0], [None, 2.0]])
def test_an_axis_survives_values_that_cannot_be_drawn(values):
    low, high = log_axis(values).domain
    assert 0 < low < high < float("inf")


def test_long_numbers_become_powers_and_steps_stay_numbers():
    assert "10⁶" in log_axis([1.0, 1e8]).axis().labelExpr
    assert "15\u202f000" in linear_axis(0, 15_000).axis().labelExpr


def _luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


@pytest.mark.parametrize("mode", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("name", [name for name in COLOURS if name not in ("paper", "card", "rule", "grid")])
def test_text_reads_at_four_and_a_half_to_one(name, mode):
    for ground in ("paper", "card"):
        bright, dark = sorted((_luminance(COLOURS[name][mode]), _luminance(COLOURS[ground][mode])), reverse=True)
        assert (bright + 0.05) / (dark + 0.05) >= 4.5


def test_an_axis_is_made_of_what_a_logarithm_has():
    numbers = [None, float("nan"), 2.0, -1.0, 0.0, float("inf"), 8.0]
    assert log_axis(numbers) == log_axis(pl.Series(numbers)) == log_axis(pl.Series([8.0, 2.0]))
    assert log_axis([]) == log_axis(pl.Series([None], dtype=pl.Float64)) == log_axis([0.1, 1.0])
