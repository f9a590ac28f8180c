"""Schedules: which steps of a run are probed. Pure functions of the step index, so a resumed run agrees."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class _Schedule(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Every(_Schedule):
    """Every ``interval`` steps, from step 0.

    >>> [step for step in range(10) if Every(interval=4).due(step)]
    [0, 4, 8]
    """

    kind: Literal["every"] = "every"
    interval: int = Field(ge=1)

    def due(self, step: int) -> bool:
        """Whether ``step`` (counted from 0) is measured."""
        return step % self.interval == 0


class Logarithmic(_Schedule):
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


class First(_Schedule):
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
