from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from alidade.core.schedule import Every, First, Logarithmic, Schedule

STEPS = range(400)


@given(st.integers(1, 500))
def test_every(interval: int) -> None:
    assert [step for step in STEPS if Every(interval=interval).due(step)] == list(range(0, 400, interval))


@given(st.floats(1.05, 20.0))
def test_logarithmic(base: float) -> None:
    powers = {0, *(round(base**exponent) for exponent in range(math.ceil(math.log(400, base)) + 1))}
    assert {step for step in STEPS if Logarithmic(base=base).due(step)} == powers & set(STEPS)


@given(st.integers(0, 500))
def test_first(count: int) -> None:
    assert [step for step in STEPS if First(count=count).due(step)] == list(range(min(count, 400)))


@pytest.mark.parametrize("schedule", [Every(interval=3), Logarithmic(base=3), First(count=2)])
def test_a_schedule_survives_json(schedule: Schedule) -> None:
    assert TypeAdapter(Schedule).validate_json(schedule.model_dump_json()) == schedule


@pytest.mark.parametrize(
    "content",
    [
        {"kind": "every", "interval": 0}, {"kind": "logarithmic", "base": 1.0}, {"kind": "first", "count": -1},
        {"kind": "logarithmic", "base": float("inf")}, {"kind": "now and then"}, {"kind": "every", "often": 3},
    ],
)  # fmt: skip
def test_a_schedule_that_makes_no_sense_is_refused(content: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Schedule).validate_python(content)
