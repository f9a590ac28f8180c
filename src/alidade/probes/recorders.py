"""Several receivers of what is measured."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

from alidade.core.errors import CallError, brief
from alidade.core.records import Recorder, Row


def recorders_of(given: Any) -> tuple[Recorder, ...]:
    """The receivers that a caller wants.

    Raises:
        CallError: something that is no list of objects with a method ``record``.
    """
    found = tuple(given) if isinstance(given, Iterable) else (None,)
    for recorder in found:
        if isinstance(recorder, type) or not callable(getattr(recorder, "record", None)):
            came = recorder if isinstance(given, Iterable) else given
            raise CallError(f"recorders: expected a list of objects with record(segment, rows), got {brief(came)}")
    return found


class Fan:
    """Hands rows to the first receiver, and then to the others, none of which can stop the training."""

    def __init__(self, first: Recorder, others: Sequence[Recorder] = ()) -> None:
        self._first, self._others = first, list(others)

    def record(self, segment: str, rows: Sequence[Row]) -> None:
        """Hand on; another receiver that raises is warned about and gets nothing more."""
        self._first.record(segment, rows)
        for other in list(self._others):
            try:
                other.record(segment, rows)
            except Exception as error:  # the training must go on
                self._others.remove(other)
                reason = " ".join(str(error).split()) or type(error).__name__
                warnings.warn(f"recorder {brief(other)} failed and gets nothing more: {reason}", stacklevel=2)
