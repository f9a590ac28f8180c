"""What the processes of one training agree upon, so that all of them measure the same and one of them writes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from alidade.core.errors import CallError, brief
from alidade.landscape.ranks import Ranks

#: The most steps between two looks into the budget.
LONGEST_WAIT = 64


class SharedPlan:
    """Which probes a step is to have, as the first process decides for all.

    Budgets go by the clock, and no two clocks agree. The processes meet at the end of the step before, where all of
    them are: a process that announces no data for a step then fails in words instead of leaving the others waiting.
    After a look into the budget that allowed nothing they wait 1, 2, 4, ... steps for the next, so that idle steps
    cost nothing.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._next, self._wait = 0, 1
        self._step, self._chosen = -1, list[str]()

    def decide(self, step: int, wanted: Sequence[str], affordable: Callable[[Sequence[str]], list[str]]) -> None:
        """Choose among the probes that are due at a coming step; all processes call this at the same steps."""
        self._step, self._chosen = step, []
        if not wanted or step < self._next:
            return
        self._chosen = self._ranks.gathered(lambda: affordable(wanted) if self._ranks.index == 0 else [])[0]
        self._wait = 1 if self._chosen else min(2 * self._wait, LONGEST_WAIT)
        self._next = step + self._wait

    def forget(self) -> None:
        """The next step is another one than was thought."""
        self._next, self._wait = 0, 1

    def chosen(self, step: int) -> list[str]:
        """What was decided for this step; nothing where nothing was."""
        return self._chosen if step == self._step else []


def require_alike(ranks: Ranks, what: str, own: Any) -> None:
    """Refuse processes that want different things.

    Raises:
        CallError: in all of them.
    """
    said = ranks.gathered(lambda: own)
    for index, other in enumerate(said):
        if other != said[0]:
            raise CallError(
                f"{what}: expected the same in all processes, got {brief(said[0])} in the first and {brief(other)} in "
                f"process {index}; give every process the same survey"
            )
