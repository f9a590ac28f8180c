"""Leaves no trace: run a model at other tensors, in other modes, with given random numbers, and put all back.

The live parameters are never moved. The model is evaluated at detached leaves that are exchanged for them, with
clones of its buffers, so that a probe that raises, or is killed, cannot leave a changed network behind.
What a forward pass itself may change is restored: random states, module attributes, train/eval modes.
"""

from __future__ import annotations

import operator
import random
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

T = TypeVar("T")


def unwrap(model: nn.Module) -> nn.Module:
    """The network inside DataParallel, DistributedDataParallel and ``torch.compile`` wrappers."""
    while True:
        inner = model._modules.get("_orig_mod")
        if inner is None and isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inner = model.module
        if inner is None:
            return model
        model = inner


def public_name(name: str) -> str:
    """A parameter's name without the parts that wrappers add.

    >>> public_name("features._orig_mod.0.weight")
    'features.0.weight'
    """
    return ".".join(part for part in name.split(".") if part != "_orig_mod")


class RandomState:
    """The random states of CPU, CUDA, Python and NumPy, and of the generators that the modules keep."""

    def __init__(self, model: nn.Module, generators: Sequence[Any] | None = None) -> None:
        self._generators = list(_own_generators(model)) if generators is None else generators
        self._own = [_read(generator) for generator in self._generators]
        self._cpu = torch.get_rng_state()
        self._cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
        self._python = random.getstate()
        self._numpy = np.random.get_state()

    def now(self, model: nn.Module) -> RandomState:
        """The present state of the same generators, found without another search through the modules."""
        return RandomState(model, self._generators)

    def same_as(self, other: RandomState) -> bool:
        """Whether no number was drawn between the two states."""
        mine, theirs = ((s._cpu, s._cuda, s._numpy, s._own) for s in (self, other))
        return self._python == other._python and _equal(mine, theirs)

    def install(self) -> None:
        """Make this state the current one."""
        torch.set_rng_state(self._cpu)
        if self._cuda is not None:
            torch.cuda.set_rng_state_all(self._cuda)
        random.setstate(self._python)
        np.random.set_state(self._numpy)
        for generator, state in zip(self._generators, self._own, strict=True):
            _write(generator, state)


def _own_generators(model: nn.Module) -> Iterator[Any]:
    for module in model.modules():
        for value in vars(module).values():
            # by type first: isinstance against torch.Generator is slow, and most attributes are plain
            if type(value) not in _PLAIN and isinstance(value, torch.Generator | np.random.Generator | random.Random):
                yield value


_PLAIN = frozenset({bool, int, float, str, tuple, dict, OrderedDict, set, list, type(None)})


def _read(generator: Any) -> Any:
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, random.Random):
        return generator.getstate()
    return generator.bit_generator.state


def _write(generator: Any, state: Any) -> None:
    if isinstance(generator, torch.Generator):
        generator.set_state(state)
    elif isinstance(generator, random.Random):
        generator.setstate(state)
    else:
        generator.bit_generator.state = state


def _equal(first: Any, second: Any) -> bool:
    """Equality of nested states whose leaves may be tensors and arrays."""
    if isinstance(first, Tensor):
        return torch.equal(first, second)
    if isinstance(first, np.ndarray):
        return np.array_equal(first, second)
    if isinstance(first, dict):
        return all(_equal(value, second[key]) for key, value in first.items())
    if isinstance(first, tuple | list):
        return all(map(_equal, first, second))
    return bool(first == second)


#: Dictionaries of a module that hold its members; a forward pass may rebind entries of them.
_MEMBERS = ("_parameters", "_buffers", "_modules", "_forward_hooks", "_forward_pre_hooks", "_backward_hooks")


class Places:
    """Where a model keeps what a probe exchanges. Found once: a walk through all modules costs as much as a small pass.

    Tied tensors have several places and one name, the first.
    """

    def __init__(self, model: nn.Module) -> None:
        named = dict(model.named_modules())
        self.modules = tuple(named.values())
        self.parameters = list(_places(named, "_parameters"))
        self.buffers = list(_places(named, "_buffers"))
        self.recurrent = [module for module in self.modules if isinstance(module, nn.RNNBase)]
        self._structure = self._now()

    def still_hold(self) -> bool:
        """Whether no module, parameter or buffer has been added, exchanged for None, or taken away since."""
        return self._structure == self._now()

    def _now(self) -> list[tuple[Any, ...]]:
        return [
            (*map(id, vars(m)["_modules"].values()), *vars(m)["_parameters"], *vars(m)["_buffers"])
            for m in self.modules
        ]


class _Place(NamedTuple):
    """One entry of a module's dictionary of parameters or buffers."""

    members: dict[str, Any]
    key: str
    name: str


def _places(named: Mapping[str, nn.Module], kind: str) -> Iterator[_Place]:
    first: dict[int, str] = {}
    for prefix, module in named.items():
        for key, tensor in vars(module)[kind].items():
            if tensor is not None:
                name = first.setdefault(id(tensor), f"{prefix}.{key}".lstrip("."))
                yield _Place(vars(module)[kind], key, name)


@contextmanager
def isolated(model: nn.Module, randomness: RandomState | None = None, places: Places | None = None) -> Iterator[None]:
    """On leaving, also by an exception or Ctrl-C, random states and module attributes are what they were.

    ``randomness`` is installed on entering. Attributes (train/eval mode among them) are restored by identity:
    a tensor that a forward pass caches on a module is replaced by what was there before.
    """
    before = RandomState(model) if randomness is None else randomness.now(model)
    modules = model.modules() if places is None else places.modules
    attributes = [(vars(module), dict(vars(module))) for module in modules]
    members = [(now[name], dict(now[name])) for now, _ in attributes for name in _MEMBERS]
    try:
        if randomness is not None:
            randomness.install()
        with _uncompiled():
            yield
    finally:
        for now, then in members + attributes:
            if not _same(now, then):
                for key in now.keys() - then.keys():
                    del now[key]
                now.update(then)
        before.install()


def _same(now: dict[str, Any], then: dict[str, Any]) -> bool:
    """The same keys in the same order with the same objects; tensors are not compared by value."""
    return now.keys() == then.keys() and all(map(operator.is_, now.values(), then.values()))


@contextmanager
def _uncompiled() -> Iterator[None]:
    """Compiled functions run eagerly inside, so that a probe spends none of the user's recompilations."""
    with ExitStack() as stack:
        if "torch._dynamo" in sys.modules:  # otherwise nothing can have been compiled
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield


def call_at(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    work: Callable[[nn.Module], T],
    buffers: Mapping[str, Tensor] | None = None,
    places: Places | None = None,
) -> T:
    """``work(model)`` while the model's parameters named in ``tensors`` are these tensors and its buffers clones.

    ``buffers`` gives the values of some or all buffers; the others are clones of the live ones. Backward passes
    must happen inside ``work``: gradient checkpointing reads the parameters again then. This is
    ``torch.func.functional_call`` with the places found beforehand (docs/decisions/0004).
    """
    where = places or Places(model)
    clones = {
        p.name: p.members[p.key] if buffers is None else buffers.get(p.name, p.members[p.key]) for p in where.buffers
    }
    clones = {name: buffer.clone() for name, buffer in clones.items()}
    exchanged = [(p, tensors[p.name]) for p in where.parameters if p.name in tensors]
    exchanged += [(p, clones[p.name]) for p in where.buffers]
    saved = [(p.members, p.key, p.members[p.key]) for p, _ in exchanged]
    saved += [(vars(module), "_flat_weights", module._flat_weights) for module in where.recurrent]
    try:
        for place, tensor in exchanged:
            place.members[place.key] = tensor
        for module in where.recurrent:  # they keep a second list of their weights
            vars(module)["_flat_weights"] = [getattr(module, name, None) for name in module._flat_weights_names]
        return work(model)
    finally:
        for members, key, value in saved:
            members[key] = value
