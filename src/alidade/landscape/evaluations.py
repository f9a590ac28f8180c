"""Evaluations of a model at given tensors, under the conditions of (micro-)batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from copy import copy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from alidade.landscape.conditions import Part
from alidade.landscape.differentiation import Tensors
from alidade.landscape.isolation import Isolation, Places, call_at
from alidade.landscape.parallelism import Spread
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

    def under(self, declared: str | None) -> Evaluations:
        """The same with other statistics."""
        other = copy(self)
        other._declared = declared
        return other

    def live(self) -> Tensors:
        """The trainable parameters as detached tensors that share their storage, by public name."""
        live = {place.public: place.members[place.key] for place in self._isolation.places().parameters}
        return {name: p.detach() for name, p in live.items() if p.requires_grad}

    def repeated(self, part: Part) -> AbstractContextManager[None]:
        """Many evaluations, between which nothing else touches the model."""
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
        evaluation = self._isolation.evaluation(part.conditions.randomness)
        with evaluation as places, part.replayed(self._model):
            switch_statistics(self._model, self._declared)
            synchronize(self._model, self._spread.ranks)

            def run(leaves: Mapping[str, Tensor], work: Callable[[nn.Module], Any]) -> Any:
                real = {p.name: leaves[p.public] for p in places.parameters if p.public in leaves}
                return call_at(self._model, real, work, self._buffers(part, places), places)

            yield run

    def _buffers(self, part: Part, places: Places) -> Mapping[str, Tensor] | None:
        """Those of the forward pass; DistributedDataParallel would first hand out the first process's."""
        recorded = part.conditions.buffers
        if not self._spread.buffers_of_first or describe_statistics(self._model) not in ("running", "mixed"):
            return recorded
        now = {p.name: (recorded or {}).get(p.name, p.members[p.key]) for p in places.buffers}
        return dict(zip(now, self._spread.ranks.from_first(list(now.values())), strict=True))
