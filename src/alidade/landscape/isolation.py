"""Leaves no trace: run a model at other tensors, in other modes, with given random numbers, and put all back.

The live parameters are never moved. The model is evaluated at detached leaves that are exchanged for them, with
clones of its buffers, so that a probe that raises, or is killed, cannot leave a changed network behind.
What a forward pass itself may change is restored: random states, module attributes, train/eval modes.
"""

from __future__ import annotations

import operator
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import chain
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from alidade.core.errors import CallError, brief
from alidade.landscape.contents import Contents
from alidade.landscape.randomness import RandomState
from alidade.landscape.shards import hooks_without_gathering

T = TypeVar("T")


def unwrap(model: nn.Module) -> nn.Module:
    """The network inside DataParallel, DistributedDataParallel and ``torch.compile`` wrappers."""
    *_, inner = wrappings(model)
    return inner


def wrappings(model: nn.Module) -> Iterator[nn.Module]:
    """The model, what it wraps, and so on to the network itself."""
    if not isinstance(model, nn.Module):
        raise CallError(f"model: expected a torch.nn.Module, got {brief(model)}")
    while True:
        if isinstance(model, torch.jit.ScriptModule):  # its dictionaries are not plain (docs/decisions/0004)
            raise CallError("model: expected plain modules, got a scripted one; use the one it was made of")
        inner = model._modules.get("_orig_mod")
        if inner is None and isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inner = model.module
        yield model
        if inner is None:
            return
        model = inner


def public_name(name: str) -> str:
    """A parameter's name without the parts that wrappers add.

    >>> public_name("features._orig_mod.0.weight")
    'features.0.weight'
    """
    return ".".join(part for part in name.split(".") if part != "_orig_mod")


#: Dictionaries of a module that hold its members; a forward pass may rebind entries of them.
_MEMBERS = ("_parameters", "_buffers", "_modules", "_forward_hooks", "_forward_pre_hooks", "_backward_hooks")

#: Hooks on a module's gradients: they may rewrite them, and the objective's gradient is that of its loss.
_BACKWARD = ("_backward_hooks", "_backward_pre_hooks")


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
    public: str


def _places(named: Mapping[str, nn.Module], kind: str) -> Iterator[_Place]:
    first: dict[int, str] = {}
    for prefix, module in named.items():
        for key, tensor in vars(module)[kind].items():
            if tensor is not None:
                name = first.setdefault(id(tensor), f"{prefix}.{key}".lstrip("."))
                yield _Place(vars(module)[kind], key, name, public_name(name))


@contextmanager
def isolated(
    model: nn.Module, randomness: RandomState | None = None, places: Places | None = None
) -> Iterator[Attributes]:
    """On leaving, also by an exception or Ctrl-C, random states and module attributes are what they were.

    ``randomness`` is installed on entering. Attributes (train/eval mode among them) are restored by identity:
    a tensor that a forward pass caches on a module is replaced by what was there before.
    """
    before = RandomState(model) if randomness is None else randomness.now(model)
    attributes = Attributes(model.modules() if places is None else places.modules)
    try:
        if randomness is not None:
            randomness.install()
        attributes.silence()
        with _uncompiled(), _global_hooks_silenced():
            yield attributes
    finally:
        attributes.put_back()
        before.install()


class Isolation:
    """``isolated`` for evaluation after evaluation of one model.

    Inside ``held`` nothing but the evaluations may touch the model: what they are to leave alone is then looked up
    once, before the first of them.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._places = Places(model)
        self._held: Attributes | None = None

    def places(self) -> Places:
        """Where parameters and buffers are now; found again when the network's structure has changed."""
        if self._held is None and not self._places.still_hold():
            self._places = Places(self._model)
        return self._places

    @contextmanager
    def held(self, randomness: RandomState) -> Iterator[None]:
        """Between the evaluations inside, attributes are put back; at the end the random states are, too."""
        if self._held is not None:
            yield
            return
        with isolated(self._model, randomness, self.places()) as attributes:
            try:
                self._held = attributes
                yield
            finally:
                self._held = None

    @contextmanager
    def evaluation(self, randomness: RandomState) -> Iterator[Places]:
        """One evaluation, with given random numbers; gives where parameters and buffers are."""
        places, held = self.places(), self._held
        if held is None:
            with isolated(self._model, randomness, places):
                yield places
            return
        try:
            held.silence()
            randomness.install()
            yield places
        finally:
            held.put_back()


class Attributes:
    """The attributes of some modules, and the members that they hold, at one moment."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        modules = list(modules)
        attributes = [vars(module) for module in modules]
        members = [now[name] for now in attributes for name in _MEMBERS]
        self._dictionaries = members + attributes
        self._then = [dict(now) for now in self._dictionaries]
        # The dictionary itself comes before its keys and values: so nothing can move from one to another unseen.
        self._live: list[Iterable[Any]] = [part for now in self._dictionaries for part in ((now,), now, now.values())]
        self._flat = list(chain.from_iterable(self._live))
        self._contents = Contents(modules)
        self._hooked = [now for now in attributes if any(now[name] for name in _BACKWARD)]
        self._gathering = [(now, hooks) for now in attributes if (hooks := hooks_without_gathering(now))]

    def silence(self) -> None:
        """Until attributes are put back, no backward hook of these modules acts: it is no part of the objective.

        Nor does a sharded module gather its own parameters.
        """
        for now in self._hooked:
            now.update((name, OrderedDict()) for name in _BACKWARD)
        for now, hooks in self._gathering:
            now.update((name, OrderedDict(kept)) for name, kept in hooks.items())

    def untouched(self) -> bool:
        """Whether everything is what it was."""
        return self._same_objects() and not self._contents.changed()

    def _same_objects(self) -> bool:
        now = list(chain.from_iterable(self._live))
        return len(now) == len(self._flat) and all(map(operator.is_, now, self._flat))

    def put_back(self) -> None:
        """Objects are compared by identity and by what is in them; mostly nothing has changed: that is asked first."""
        self._contents.put_back()
        if self._same_objects():
            return
        for current, then in zip(self._dictionaries, self._then, strict=True):
            if not _same(current, then):
                for key in current.keys() - then.keys():
                    del current[key]
                current.update(then)


def _same(now: dict[str, Any], then: dict[str, Any]) -> bool:
    """The same keys in the same order with the same objects."""
    return now.keys() == then.keys() and all(map(operator.is_, now.values(), then.values()))


@contextmanager
def _global_hooks_silenced() -> Iterator[None]:
    """Backward hooks registered for every module there is do not act inside."""
    home = vars(torch.nn.modules.module)
    then = {name: home[f"_global{name}"] for name in _BACKWARD}
    try:
        home.update((f"_global{name}", OrderedDict()) for name in _BACKWARD)
        yield
    finally:
        home.update((f"_global{name}", hooks) for name, hooks in then.items())


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
