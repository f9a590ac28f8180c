"""A share of the training time for probes: a token bucket that fills while the training runs."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any

from alidade.core.errors import CallError, brief

#: A probe's cost is the largest of its last few: on a busy machine the last one alone is often too small.
REMEMBERED_COSTS = 5


#: What surrounds the probes of one step: copies of parameters, captured conditions, writing.
SURROUNDINGS = "surroundings"


class Budget:
    """Probes may take ``share`` of the time that the training itself takes; None sets no limit.

    A probe starts only when the seconds of its last run (the longest of its last five) are in the bucket. Its first
    run has no known cost: it starts at once and what it took is paid back before anything else starts.

    Raises:
        CallError: a share that is not above 0 and up to 1.

    >>> seconds = iter([0.0, 0.0, 10.0, 100.0])
    >>> budget = Budget(0.1, clock=lambda: next(seconds))
    >>> budget.affordable(["profile"])  # at 0 s, its cost unknown
    ['profile']
    >>> budget.charge("profile", 4.0)
    >>> budget.affordable(["profile"])  # at 10 s: the bucket got 0.6 s and owes 4
    []
    >>> budget.affordable(["profile"])  # at 100 s: 9.6 - 4 > 4
    ['profile']
    """

    def __init__(self, share: float | None, clock: Callable[[], float] = time.perf_counter) -> None:
        number = isinstance(share, Real) and not isinstance(share, bool)
        if share is not None and not (number and 0 < share <= 1):
            raise CallError(f"budget: expected a share above 0 and up to 1, or None, got {brief(share)}")
        self._share, self._clock = share, clock
        self._began = clock()
        self._costs: dict[str, deque[float]] = {}
        self._turns: dict[str, int] = {}  # when each probe ran last, as a count of charges
        self.spent = 0.0  # seconds, all probes and what surrounds them

    @property
    def limited(self) -> bool:
        """Whether there is a limit, so that the clock decides."""
        return self._share is not None

    def affordable(self, probes: Sequence[str]) -> list[str]:
        """Those of ``probes`` that may start now.

        The one that has waited longest comes first, and while it cannot be paid no other starts: otherwise cheap
        probes would keep the bucket empty and an expensive one would never run again.
        """
        if self._share is None or not probes:
            return list(probes)
        left = self._share * self.training_seconds - self.spent - self._cost(SURROUNDINGS)
        chosen = set()
        for probe in sorted(probes, key=lambda name: self._turns.get(name, 0)):
            if self._costs.get(probe) and self._cost(probe) > left:
                break
            chosen.add(probe)
            left -= self._cost(probe)
        return [probe for probe in probes if probe in chosen]

    def charge(self, probe: str, seconds: float) -> None:
        """Book what a probe took, or what surrounded the probes of one step (``SURROUNDINGS``)."""
        self.spent += seconds
        self._costs.setdefault(probe, deque(maxlen=REMEMBERED_COSTS)).append(seconds)
        self._turns[probe] = 1 + max(self._turns.values(), default=0)

    def state(self) -> dict[str, Any]:
        """What a training that goes on from a checkpoint needs, in plain numbers."""
        costs = {probe: list(seconds) for probe, seconds in self._costs.items()}
        return {"training": self.training_seconds, "spent": self.spent, "costs": costs, "turns": dict(self._turns)}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from such a state: the bucket is as full, and costs are known."""
        self.spent = state["spent"]
        self._began = self._clock() - state["training"] - self.spent
        self._costs = {probe: deque(seconds, REMEMBERED_COSTS) for probe, seconds in state["costs"].items()}
        self._turns = dict(state["turns"])

    def _cost(self, probe: str) -> float:
        return max(self._costs.get(probe, ()), default=0.0)

    @property
    def training_seconds(self) -> float:
        """Seconds since the start that were not spent on probes."""
        return self._clock() - self._began - self.spent
