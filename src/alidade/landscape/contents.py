"""What modules keep in plain attributes and a forward pass may change in place: containers, tensors, arrays.

Attributes are put back by identity (:mod:`alidade.landscape.isolation`), which does not see that a list has grown or
that a tensor has other values. Registered buffers need none of this: an evaluation works on clones of them.
"""

from __future__ import annotations

import operator
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

#: A set that every module has, and that a forward pass which registers a buffer changes.
_NAMES = "_non_persistent_buffers_set"
#: Dictionaries that every module has, and that are put back with the attributes.
_OWN = frozenset(name for name, value in vars(nn.Module()).items() if isinstance(value, dict)) | {_NAMES}
#: Containers inside of containers are looked at down to this level; an attribute is at level 0.
_LEVELS = 2


class Contents:
    """The contents of the plain attributes of some modules at one moment.

    Seen are lists, dictionaries, sets, deques, NumPy arrays and tensors (exactly these types, and those of the
    standard library derived from them), as attributes and two levels down in containers, tuples there among them.
    Parameters, and tensors that a live graph has made, are left alone. On a GPU a change is seen by the tensor's
    version counter, on the CPU by its values.
    """

    def __init__(self, attributes: Sequence[Mapping[str, Any]]) -> None:
        self._kept: list[_Kept] = []
        self._names = [now[_NAMES] for now in attributes]
        self._names_then = list(map(set, self._names))
        seen: set[int] = set()
        for now in attributes:
            for name in now.keys() - _OWN:
                if type(now[name]) in _KEPT:
                    self._keep(now[name], 0, seen)

    def _keep(self, value: Any, level: int, seen: set[int]) -> None:
        if id(value) in seen:
            return
        seen.add(id(value))
        kind = _KEPT.get(type(value))  # None for a tuple, which cannot change, but what is in it can
        if kind is not None and issubclass(kind, KeptValues):
            self._kept += filter(None, [kept_values(value)])
            return
        if kind is not None:
            self._kept.append(kind(value))
        if level < _LEVELS:
            for item in value.values() if isinstance(value, dict) else value:
                if type(item) in _KEPT or type(item) is tuple:
                    self._keep(item, level + 1, seen)

    def changed(self) -> bool:
        """Whether anything is no longer what it was."""
        return self._names != self._names_then or any(kept.changed() for kept in self._kept)

    def put_back(self) -> None:
        """Whatever has changed gets its contents back, tensors their version counters too."""
        if self._names != self._names_then:
            for names, then in zip(self._names, self._names_then, strict=True):
                names.intersection_update(then)
                names.update(then)
        for kept in self._kept:
            if kept.changed():
                kept.put_back()


class _Kept:
    """One object, and what was in it."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def changed(self) -> bool:
        """Whether it is no longer what it was."""
        raise NotImplementedError

    def put_back(self) -> None:
        """Make it again what it was."""
        raise NotImplementedError


class _KeptItems(_Kept):
    """A container: its items by identity and in their order."""

    def __init__(self, value: Any) -> None:
        super().__init__(value)
        self.copy = value.copy()
        self._then = list(_items(value))

    def changed(self) -> bool:
        if len(self.value) != len(self.copy):
            return True
        return not all(map(operator.is_, _items(self.value), self._then))

    def put_back(self) -> None:
        self.value.clear()
        fill: Callable[[Any], None] = getattr(self.value, "extend", None) or self.value.update
        fill(self.copy)


def _items(container: Any) -> Iterator[Any]:
    if isinstance(container, dict):
        yield from container
        yield from container.values()
    else:
        yield from container


class KeptValues(_Kept):
    """A NumPy array, and ``copy``, which nobody else holds, of its values."""

    def __init__(self, value: Any) -> None:
        super().__init__(value)
        self.copy = value.copy()

    def changed(self, by_value: bool = True) -> bool:
        """Whether the values are others; without ``by_value`` only what a look at a counter tells."""
        return by_value and not np.array_equal(self.value, self.copy)

    def put_back(self) -> None:
        """Write the values back."""
        self.value[...] = self.copy


class _KeptTensor(KeptValues):
    """A tensor: a copy of its values, the storage that it had, and its version."""

    def __init__(self, value: Tensor) -> None:
        self.value, self._version = value, value._version
        self._storage = value.detach()
        self.copy = self._storage.clone()

    def changed(self, by_value: bool = True) -> bool:
        now = self.value
        if now._version != self._version or now.data_ptr() != self._storage.data_ptr():
            return True
        return by_value and now.device.type == "cpu" and not torch.equal(now, self.copy)

    def put_back(self) -> None:
        with torch.no_grad():
            self._storage.copy_(self.copy)
        if self.value.data_ptr() != self._storage.data_ptr() or self.value.shape != self._storage.shape:
            self.value.data = self._storage
        torch._C._autograd._unsafe_set_version_counter((self.value,), (self._version,))


def _can_be_copied(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return value.dtype != object and value.flags.writeable
    plain = value.layout == torch.strided and value.device.type != "meta" and not value.is_inference()
    return plain and value.grad_fn is None and not value.requires_grad


def kept_values(value: Any) -> KeptValues | None:
    """A tensor's or array's values; None where they cannot be copied, or need not be."""
    kind = _KEPT.get(type(value))
    return kind(value) if kind is not None and issubclass(kind, KeptValues) and _can_be_copied(value) else None


_KEPT: dict[type, type[_Kept]] = {
    **dict.fromkeys((list, dict, set, deque, OrderedDict, defaultdict, Counter), _KeptItems),
    np.ndarray: KeptValues,
    Tensor: _KeptTensor,
}
