"""Leaves no trace: run a model at other tensors, in other modes, with given random numbers, and put all back.

The live parameters are never moved. The model is evaluated at detached leaves by ``torch.func.functional_call``,
with clones of its buffers, so that a probe that raises, or is killed, cannot leave a changed network behind.
What a forward pass itself may change is restored: random states, module attributes, train/eval modes.
"""

from __future__ import annotations

import operator
import random
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

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
_MEMBERS = ("_parameters", "_buffers", "_modules")


@contextmanager
def isolated(model: nn.Module, randomness: RandomState | None = None) -> Iterator[None]:
    """On leaving, also by an exception or Ctrl-C, random states and module attributes are what they were.

    ``randomness`` is installed on entering. Attributes (train/eval mode among them) are restored by identity:
    a tensor that a forward pass caches on a module is replaced by what was there before.
    """
    before = RandomState(model) if randomness is None else randomness.now(model)
    attributes = [(vars(module), dict(vars(module))) for module in model.modules()]
    members = [(now[name], dict(now[name])) for now, _ in attributes for name in _MEMBERS]
    try:
        if randomness is not None:
            randomness.install()
        with _uncompiled():
            yield
    finally:
        for now, then in members + attributes:
            if not _same(now, then):
                now.clear()
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


class _Host(nn.Module):
    """Holds a model so that ``functional_call`` exchanges its tensors while any piece of work runs on it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, work: Callable[[nn.Module], T]) -> T:
        return work(self.model)


def call_at(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    work: Callable[[nn.Module], T],
    buffers: Mapping[str, Tensor] | None = None,
) -> T:
    """``work(model)`` while the model's parameters named in ``tensors`` are these tensors and its buffers clones.

    ``buffers`` gives the values of some or all buffers; the others are clones of the live ones. Backward passes
    must happen inside ``work``: gradient checkpointing reads the parameters again then.
    """
    exchanged = {f"model.{name}": tensor for name, tensor in tensors.items()}
    known = buffers or {}
    exchanged |= {f"model.{name}": known.get(name, live).clone() for name, live in model.named_buffers()}
    result: T = functional_call(_Host(model), exchanged, (work,))
    return result
