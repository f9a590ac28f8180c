"""Losses that are measured one by one, and those of them that a file already holds."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alidade.core.errors import CallError
from alidade.probes.journal import Journal

#: The first loss in the file, by which it shows that it belongs to the same batch.
_FIRST = -1
#: Two evaluations at the same point may differ by this many roundings.
_ROUNDINGS = 1e2


class Recorded:
    """Losses by index, from 0: those of the file, and those that are added to it. Without a file only the latter."""

    def __init__(self, losses: dict[int, float], journal: Journal | None) -> None:
        self.losses, self._journal = losses, journal

    def keep(self, index: int, loss: float) -> None:
        """Add one, unless it is there."""
        if index not in self.losses:
            self.losses[index] = loss
            if self._journal is not None:
                self._journal.record(index, loss)


@contextmanager
def recorded(
    out: str | Path | None, about: Mapping[str, Any], first: tuple[str, float], dtype: str
) -> Iterator[Recorded]:
    """The losses in a file about this measurement; inside, losses may be added.

    ``about`` cannot tell one batch from another. ``first`` is where a loss was measured now, and what it was; the file
    must have the same.

    Raises:
        CallError: the file of another measurement, or of another batch.
        WorkError: the file cannot be read or written.
    """
    journal = None if out is None else Journal(out, about)
    known = Recorded({} if journal is None else _read(journal, first, dtype), journal)
    with nullcontext() if journal is None else journal.writing():
        known.keep(_FIRST, first[1])
        yield known


def digest_of(arrays: Any, *states: Mapping[str, Tensor]) -> str:
    """Of arrays and of tensors by name."""
    digest = hashlib.sha256(b"".join(array.tobytes() for array in arrays))
    for tensors in states:
        for name, value in tensors.items():
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _read(journal: Journal, first: tuple[str, float], dtype: str) -> dict[int, float]:
    known, (where, now) = journal.read(), first
    then = known.get(_FIRST)
    if then is None:
        return {}
    tolerance = _ROUNDINGS * torch.finfo(getattr(torch, dtype, torch.float32)).eps
    if not np.isclose(now, then, rtol=tolerance, atol=0, equal_nan=True):
        raise CallError(
            f"out: expected the file of this objective, whose loss at {where} is {now!r}, got one with {then!r}; "
            "the batch, buffers or random numbers differ: name a new file"
        )
    return known
