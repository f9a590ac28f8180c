"""How a training ended: a run that diverged, or that stands still, is a result and is recorded as such."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from math import inf, isfinite
from typing import Any

from alidade.core.records import NON_FINITE, OK, Row

#: A loss above this many times the first one is a divergence (Bjorck et al. 2018 call it one above 1e3).
DIVERGED_ABOVE = 1e3
#: A full-batch loss that changed by less than this share over the last tenth of the steps stands still.
STATIONARY_BELOW = 1e-3
LAST_PART = 0.9


class Outcome:
    """Follows the losses of a run of ``steps`` steps."""

    def __init__(self, steps: int, full_batch: bool) -> None:
        self._steps, self._full_batch = steps, full_batch
        self._first = self._late = self._last = float("nan")
        self._diverged: Row | None = None

    def note(self, step: int, loss: float) -> None:
        """Take the loss before the step ``step``."""
        if step == 0:
            self._first = loss
        if step <= LAST_PART * self._steps:
            self._late = loss
        self._last = loss
        if self._diverged is None and not (isfinite(loss) and abs(loss) <= DIVERGED_ABOVE * abs(self._first)):
            ratio = loss / self._first if self._first else inf
            status = OK if isfinite(ratio) else NON_FINITE
            self._diverged = Row(step, "diverged", ratio, "1", dtype="float64", status=status)

    def state(self) -> dict[str, Any]:
        """What a training that goes on from a checkpoint needs, in plain numbers and text."""
        diverged = None if self._diverged is None else asdict(self._diverged)
        return {"first": self._first, "late": self._late, "last": self._last, "diverged": diverged}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from such a state."""
        self._first, self._late, self._last = state["first"], state["late"], state["last"]
        self._diverged = None if state["diverged"] is None else Row(**state["diverged"])

    def rows(self) -> Iterator[Row]:
        """``diverged``, at its step: loss over first loss. ``stationary``, at the end: relative change of the loss.

        A stationary point says nothing about smoothness, and batches of different examples never show one.
        """
        if self._diverged:
            yield self._diverged
        if self._full_batch and not self._diverged:
            change = abs(self._late - self._last) / abs(self._late) if self._late else 0.0
            if change < STATIONARY_BELOW:
                yield Row(self._steps, "stationary", change, "1", dtype="float64")
