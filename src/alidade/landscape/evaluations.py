"""Evaluations of a model at given tensors, under the conditions of (micro-)batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from copy import copy
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from alidade.core.errors import RefusedError
from alidade.landscape.conditions import Part
from alidade.landscape.differentiation import Tensors
from alidade.landscape.isolation import Isolation, Places, call_at
from alidade.landscape.parallelism import Spread
from alidade.landscape.shards import settle, whole
from alidade.landscape.statistics import describe_statistics, switch_statistics
from alidade.landscape.synchronized import synchronize

T = TypeVar("T")

#: Calls ``work(model)`` while the parameters named in the tensors, by public name, are these.
Run = Callable[[Mapping[str, Tensor], Callable[[nn.Module], Any]], Any]


class Evaluations:
    """Runs a model's forward and backward passes at tensors that stand in for its parameters.

    Args:
        model: the network itself, without wrappers.
        declared: statistics of the normalization layers, as for an objective.
        spread: the processes that share the evaluations.
    """

    def __init__(self, model: nn.Module, declared: str | None, spread: Spread) -> None:
        self._model, self._declared, self._spread = model, declared, spread
        self._isolation = Isolation(model)
        self._frozen: Tensors | None = None  # of a sharded model, whole

    def under(self, declared: str | None) -> Evaluations:
        """The same with other statistics."""
        other = copy(self)
        other._declared = declared
        return other

    def live(self) -> Tensors:
        """The trainable parameters as detached tensors that share their storage, by public name; maybe in pieces."""
        return {name: p.detach() for name, p in self._members().items() if p.requires_grad}

    def whole(self) -> Tensors:
        """The same, whole; of a sharded model these are copies, and all processes call this together."""
        return whole(self.live(), self._spread.ranks)

    def _members(self) -> Tensors:
        if self._spread.sharded:
            settle(self._model)
        return {place.public: place.members[place.key] for place in self._isolation.places().parameters}

    def repeated(self, part: Part) -> AbstractContextManager[None]:
        """Many evaluations, between which nothing else touches the model."""
        self._frozen_parameters()
        return self._isolation.held(part.conditions.randomness)

    def at(
        self,
        point: Mapping[str, Tensor],
        part: Part,
        work: Callable[[nn.Module, Part, Tensors], T],
        differentiate: bool,
    ) -> T:
        """``work(model, part, leaves)`` at fresh leaves with the values of ``point``."""
        with torch.set_grad_enabled(differentiate):
            # Parameters that ask for gradients, also where none are taken: torch and users' code choose by that.
            leaves: Tensors = {name: nn.Parameter(tensor.detach()) for name, tensor in point.items()}
            with self.conditions_of(part) as run:
                found: T = run(leaves, lambda model: work(model, part, leaves))
                return found

    @contextmanager
    def conditions_of(self, part: Part) -> Iterator[Run]:
        """The conditions of a (micro-)batch: inside, ``run(leaves, work)`` is ``work(model)`` at these tensors."""
        frozen = self._frozen_parameters()
        evaluation = self._isolation.evaluation(part.conditions.randomness)
        with evaluation as places, part.replayed(self._model):
            switch_statistics(self._model, self._declared)
            synchronize(self._model, self._spread.ranks)

            def run(leaves: Mapping[str, Tensor], work: Callable[[nn.Module], Any]) -> Any:
                given = {**frozen, **leaves}
                real = {p.name: given[p.public] for p in places.parameters if p.public in given}
                checked = partial(_in_place, places, real, work) if self._spread.sharded else work
                return call_at(self._model, real, checked, self._buffers(part, places), places)

            yield run

    def _frozen_parameters(self) -> Tensors:
        """Of a sharded model, read once: they are not trained. Of any other they stay where they are."""
        if self._frozen is None:
            frozen = {name: p.detach() for name, p in self._members().items() if not p.requires_grad}
            self._frozen = whole(frozen, self._spread.ranks) if self._spread.sharded else {}
        return self._frozen

    def _buffers(self, part: Part, places: Places) -> Mapping[str, Tensor] | None:
        """Those of the forward pass; DistributedDataParallel would first hand out the first process's."""
        recorded = part.conditions.buffers
        if not self._spread.buffers_of_first or describe_statistics(self._model) not in ("running", "mixed"):
            return recorded
        now = {p.name: (recorded or {}).get(p.name, p.members[p.key]) for p in places.buffers}
        return dict(zip(now, self._spread.ranks.from_first(list(now.values())), strict=True))


def _in_place(places: Places, real: Tensors, work: Callable[[nn.Module], T], model: nn.Module) -> T:
    """``work(model)``; a sharded model that has gathered parameters of its own has not been measured where we meant."""
    found = work(model)
    if any(p.name in real and p.members[p.key] is not real[p.name] for p in places.parameters):
        raise RefusedError(
            "model: expected parameters gathered in the forward pass of a module only, got a method that gathers them "
            "(register_fsdp_forward_method); let loss_fn call the module itself"
        )
    return found
