"""Batches of any nesting: their length, copies of their containers, and their tensors as they were announced."""

from __future__ import annotations

from collections import Counter, OrderedDict, UserDict, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
from torch import Tensor

from alidade.core.errors import CallError
from alidade.landscape.contents import KeptValues, kept_values

_DICTIONARIES = (dict, OrderedDict, defaultdict, Counter)


def parts_of(structure: Any) -> Iterator[Any]:
    """What lies directly in a mapping, list, tuple or dataclass; nothing for anything else."""
    if isinstance(structure, Mapping):
        yield from structure.values()
    elif isinstance(structure, list | tuple):
        yield from structure
    elif is_dataclass(structure) and not isinstance(structure, type):
        yield from (getattr(structure, field.name) for field in fields(structure))


def leaves_of(structure: Any) -> Iterator[Any]:
    """The tensors and NumPy arrays of a batch, in order."""
    if isinstance(structure, Tensor | np.ndarray):
        yield structure
    else:
        for part in parts_of(structure):
            yield from leaves_of(part)


def batch_length(batch: Any) -> int | None:
    """Length of the first tensor or array that has one; None where there is none.

    >>> batch_length({"weight": np.float64(2), "inputs": [np.zeros((7, 3))]})
    7
    """
    return next((leaf.shape[0] for leaf in leaves_of(batch) if leaf.ndim), None)


def check_batch(batch: Any) -> None:
    """Refuse a batch without examples: an empty container, or one with an empty tensor or array.

    In a list of mappings or sequences each is taken for one example, whose own tensors (such as its boxes) may be
    empty; the first tensor of all may not.

    Raises:
        CallError: there is no example.
    """
    if batch_length(batch) == 0:
        raise CallError("batch: expected at least one example, got a first tensor of length 0; skip this batch")
    if isinstance(batch, Mapping | list | tuple) and not len(batch):
        raise CallError(f"batch: expected at least one example, got an empty {type(batch).__name__}; skip this batch")
    for leaf in _of_the_batch(batch):
        if leaf.ndim and not leaf.shape[0]:
            raise CallError(
                f"batch: expected at least one example, got a tensor of shape {tuple(leaf.shape)}; skip this batch"
            )


def _of_the_batch(structure: Any) -> Iterator[Any]:
    if isinstance(structure, Tensor | np.ndarray):
        yield structure
    elif not (isinstance(structure, list) and all(isinstance(part, Mapping | list | tuple) for part in structure)):
        for part in parts_of(structure):
            yield from _of_the_batch(part)


def copied(structure: Any, exchange: Mapping[int, Any] | None = None) -> Any:
    """The same nesting with new containers and the same contents, but for objects to ``exchange`` by identity.

    Containers are the standard library's, those derived from ``UserDict`` (such as a tokenizer's output) and
    dataclasses; everything else goes by reference.
    """
    exchange = exchange or {}
    if id(structure) in exchange:
        return exchange[id(structure)]
    if type(structure) in _DICTIONARIES or isinstance(structure, UserDict):
        new = copy(structure)
        new.update({key: copied(value, exchange) for key, value in structure.items()})
        return new
    if type(structure) in (list, set):
        return type(structure)(copied(part, exchange) for part in structure)
    if isinstance(structure, tuple) and (type(structure) is tuple or hasattr(structure, "_make")):
        parts = [copied(part, exchange) for part in structure]
        return type(structure)(*parts) if hasattr(structure, "_make") else tuple(parts)
    if is_dataclass(structure) and not isinstance(structure, type | Mapping):
        new = copy(structure)
        for field in fields(structure):
            object.__setattr__(new, field.name, copied(getattr(structure, field.name), exchange))
        return new
    return structure


class Supply:
    """Hands the same batch to one evaluation after the other, whatever a loss function does to it.

    Every evaluation gets new containers, so that it may pop keys and append, around the very same tensors, since
    kernels may round by their alignment. A tensor that an evaluation changed in place gets its values back, its
    version counter too. Values are compared after the first evaluation, and later only if that changed any; version
    counters always. Memory: a copy of the batch.
    """

    def __init__(self, batch: Any) -> None:
        self._batch = copied(batch)
        self._by_value = True
        self._keep()

    def _keep(self) -> None:
        different = {id(leaf): leaf for leaf in leaves_of(self._batch)}
        self._kept: list[KeptValues] = [kept for leaf in different.values() if (kept := kept_values(leaf)) is not None]

    def _changed(self) -> list[KeptValues]:
        return [kept for kept in self._kept if kept.changed(self._by_value)]

    def fresh(self) -> Any:
        """The batch for one call of a loss function."""
        return copied(self._batch)

    def as_announced(self) -> Any:
        """The batch; what has been changed in place since is a copy of what it was, and the rest goes by reference."""
        return copied(self._batch, {id(kept.value): kept.copy for kept in self._changed()})

    @contextmanager
    def restored(self) -> Iterator[None]:
        """On leaving, also by an exception, the batch's tensors and arrays are what they were on entering."""
        if self._changed():  # by the owner of the batch, between two evaluations
            self._keep()
        try:
            yield
        finally:
            changed = self._changed()
            for kept in changed:
                kept.put_back()
            self._by_value = bool(changed)
