"""What modules keep in plain attributes and a forward pass may change in place: containers, objects, tensors, arrays.

Attributes are put back by identity (:mod:`alidade.landscape.isolation`), which does not see that a list has grown,
that an object has other attributes or that a tensor has other values. Registered buffers need none of this: an
evaluation works on clones of them.
"""

from __future__ import annotations

import operator
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import is_dataclass
from enum import Enum
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

#: A set that every module has, and that a forward pass which registers a buffer changes.
_NAMES = "_non_persistent_buffers_set"
#: Dictionaries and the set that every module has, by name.
OWN = frozenset(name for name, value in vars(nn.Module()).items() if isinstance(value, dict)) | {_NAMES}
#: Types whose objects hold nothing that could change.
_PLAIN = frozenset({bool, int, float, str, bytes, type(None), nn.Parameter})
#: Packages whose own modules hold objects that are not part of a model.
_HOSTS = frozenset({"torch", "builtins"})
#: Containers and objects inside of others are looked at down to this level; an attribute is at level 0.
_LEVELS = 3
#: Of a container with more items than this, such as a list of examples, only the items themselves are kept.
_MOST_ITEMS = 1000


class Contents:
    """The contents of the plain attributes of some modules at one moment.

    Seen are lists, dictionaries, sets, deques, NumPy arrays and tensors (exactly these types, and those of the
    standard library derived from them), and the attributes of objects: of dataclasses, simple namespaces, modules that
    are not registered, and classes from the same package as the module's own. All that as attributes and three levels
    down, through tuples, too. Parameters, and tensors that a live graph has made, are left alone. On a GPU a change is
    seen by the tensor's version counter, on the CPU by its values.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self._kept: list[_Kept] = []
        self._names = [vars(module)[_NAMES] for module in modules]
        self._names_then = list(map(set, self._names))
        seen: set[int] = set(map(id, modules))  # these are kept otherwise
        for module in modules:
            package = _package(type(module))
            for name, value in vars(module).items():
                if type(value) not in _PLAIN and name not in OWN:
                    self._keep(value, 0, package, seen)

    def _keep(self, value: Any, level: int, package: str, seen: set[int]) -> None:
        if id(value) in seen or not _may_change(type(value), package):
            return
        seen.add(id(value))
        kind = _KEPT.get(type(value), _KeptItems if type(value) is tuple else _KeptObject)
        if issubclass(kind, KeptValues):
            self._kept += filter(None, [kept_values(value)])
            return
        if type(value) is not tuple:  # which cannot change, but what is in it can
            self._kept.append(kind(value))
        if level < _LEVELS and not (hasattr(value, "__len__") and len(value) > _MOST_ITEMS):
            for item in kind.inside(value):
                if type(item) not in _PLAIN:
                    self._keep(item, level + 1, package, seen)

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

    @staticmethod
    def inside(value: Any) -> Iterable[Any]:
        """The objects in it."""
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

    @staticmethod
    def inside(value: Any) -> Iterable[Any]:
        return value.values() if isinstance(value, dict) else value


class _KeptObject(_Kept):
    """An object: its attributes by identity, those in slots among them."""

    def __init__(self, value: Any) -> None:
        super().__init__(value)
        self._slots = [name for kind in type(value).__mro__ for name in _slots(kind)]
        self._then = self._now()

    def _now(self) -> dict[str, Any]:
        found = dict(vars(self.value)) if hasattr(self.value, "__dict__") else {}
        return found | {name: getattr(self.value, name) for name in self._slots if hasattr(self.value, name)}

    def changed(self) -> bool:
        now, then = self._now(), self._then
        return now.keys() != then.keys() or not all(now[name] is value for name, value in then.items())

    def put_back(self) -> None:
        now = self._now()
        for name in now.keys() - self._then.keys():
            object.__delattr__(self.value, name)
        for name, value in self._then.items():
            if name not in now or now[name] is not value:
                object.__setattr__(self.value, name, value)

    @staticmethod
    def inside(value: Any) -> Iterable[Any]:
        if isinstance(value, nn.Module):  # one that is not registered: its buffers are live
            now = vars(value)
            return [now["_buffers"], *now["_modules"].values(), *(now[name] for name in now.keys() - OWN)]
        return _KeptObject(value)._then.values()


def _slots(kind: type) -> Iterator[str]:
    names = vars(kind).get("__slots__", ())
    for name in (names,) if isinstance(names, str) else names:
        if name not in ("__dict__", "__weakref__"):
            yield f"_{kind.__name__.lstrip('_')}{name}" if name.startswith("__") and not name.endswith("__") else name


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


def _package(kind: type) -> str:
    return kind.__module__.partition(".")[0]


def _may_change(kind: type, package: str) -> bool:
    """Whether what is in an object of this type is looked at, if a module from this package holds it."""
    if kind in _KEPT or kind is tuple or issubclass(kind, nn.Module | SimpleNamespace):
        return True
    foreign = issubclass(kind, type | ModuleType | Tensor | Enum | BaseException) or not _has_attributes(kind)
    return not foreign and (is_dataclass(kind) or (_package(kind) == package and package not in _HOSTS))


def _has_attributes(kind: type) -> bool:
    return kind.__dictoffset__ != 0 or any(True for base in kind.__mro__ for _ in _slots(base))


_KEPT: dict[type, type[_Kept]] = {
    **dict.fromkeys((list, dict, set, deque, OrderedDict, defaultdict, Counter), _KeptItems),
    np.ndarray: KeptValues,
    Tensor: _KeptTensor,
}
