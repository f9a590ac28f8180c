"""Schedules: which steps of a run are probed. Pure functions of the step index, so a resumed run agrees."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from alidade.core.errors import CallError, brief
from alidade.core.value import Value


class Every(Value):
    """Every ``interval`` steps, from step 0.

    >>> [step for step in range(10) if Every(interval=4).due(step)]
    [0, 4, 8]
    """

    kind: Literal["every"] = "every"
    interval: int = Field(ge=1)

    def due(self, step: int) -> bool:
        """Whether ``step`` (counted from 0) is measured."""
        return step % self.interval == 0


class Logarithmic(Value):
    """At 0 and at the rounded powers ``round(base ** k)``: dense early, sparse late.

    >>> [step for step in range(40) if Logarithmic(base=2.0).due(step)]
    [0, 1, 2, 4, 8, 16, 32]
    """

    kind: Literal["logarithmic"] = "logarithmic"
    base: float = Field(default=2.0, gt=1.0)

    def due(self, step: int) -> bool:
        """Whether ``step`` (counted from 0) is measured."""
        power, exponent = 1, 0
        while power < step:
            exponent += 1
            power = round(self.base**exponent)
        return step in (0, power)


class First(Value):
    """The first ``count`` steps.

    >>> [step for step in range(10) if First(count=3).due(step)]
    [0, 1, 2]
    """

    kind: Literal["first"] = "first"
    count: int = Field(ge=0)

    def due(self, step: int) -> bool:
        """Whether ``step`` (counted from 0) is measured."""
        return step < self.count


Schedule = Annotated[Every | Logarithmic | First, Field(discriminator="kind")]


def schedule_of(given: Any) -> Schedule:
    """A schedule; a whole number n means every n steps, None every step.

    Raises:
        CallError: anything else.

    >>> schedule_of(10)
    Every(kind='every', interval=10)
    """
    if isinstance(given, Every | Logarithmic | First):
        return given
    if given is None or (isinstance(given, int) and not isinstance(given, bool)):
        return Every(interval=1 if given is None else given)
    raise CallError(
        f"schedule: expected Every(interval=n), Logarithmic(base=b), First(count=n) or a number n of steps, "
        f"got {brief(given)}"
    )
