"""Random states: read together, compared, installed together."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from alidade.landscape.contents import OWN


class RandomState:
    """The random states of CPU, CUDA, Python and NumPy, and of the generators that the modules keep.

    Those are attributes of the modules, or lie in a list, tuple or dictionary that is one.
    """

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

    def state(self) -> dict[str, Any]:
        """The same in plain numbers, text, tensors and arrays, for a checkpoint."""
        return {
            "cpu": self._cpu, "cuda": self._cuda, "python": self._python, "numpy": self._numpy, "own": self._own
        }  # fmt: skip

    def load(self, state: Mapping[str, Any]) -> None:
        """Become such a state, which ``install`` then makes the current one."""
        self._cpu, self._python, self._numpy, self._own = (state[name] for name in ("cpu", "python", "numpy", "own"))
        self._cuda = state["cuda"] if torch.cuda.is_initialized() else None

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
    seen: set[int] = set()
    for module in model.modules():
        for name, value in vars(module).items():
            if name in OWN:
                continue
            for candidate in _inside(value) if type(value) in _CONTAINERS else (value,):
                # by type first: isinstance against torch.Generator is slow, and most attributes are plain
                if type(candidate) not in _PLAIN and isinstance(candidate, _KINDS) and id(candidate) not in seen:
                    seen.add(id(candidate))
                    yield candidate


def _inside(container: Any) -> Iterable[Any]:
    return container.values() if isinstance(container, dict) else container


_KINDS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
_CONTAINERS = frozenset({list, tuple, dict, OrderedDict})
_PLAIN = frozenset({bool, int, float, str, set, type(None), nn.Parameter, Tensor, *_CONTAINERS})


def _read(generator: Any) -> Any:
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, random.Random):
        return generator.getstate()
    if isinstance(generator, np.random.RandomState):
        return generator.get_state()
    return generator.bit_generator.state


def _write(generator: Any, state: Any) -> None:
    if isinstance(generator, torch.Generator):
        generator.set_state(state)
    elif isinstance(generator, random.Random):
        generator.setstate(state)
    elif isinstance(generator, np.random.RandomState):
        generator.set_state(state)
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
