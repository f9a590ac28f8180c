"""The gradient of the loss at mixtures of two states, where the layers up to some point are updated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn

from alidade.core.errors import AlidadeError, CallError, RefusedError
from alidade.core.records import Statistics
from alidade.landscape.conditions import Part
from alidade.landscape.differentiation import ReentrantError, gradients_of, gradients_through_backward
from alidade.landscape.isolation import call_at, isolated
from alidade.landscape.layers import Layers, layers_seen
from alidade.landscape.loss import LossFunction, as_scalar
from alidade.landscape.prefix import PrefixCache
from alidade.landscape.ranks import ALONE, Ranks
from alidade.landscape.statistics import check_statistics, describe_statistics, switch_statistics
from alidade.landscape.synchronized import synchronize
from alidade.landscape.watch import Watch

Tensors = dict[str, Tensor]
T = TypeVar("T")

#: Two losses that differ by no more than this, in units of their precision, are one loss in another order of sums.
_SAME = 16.0
_SAME_AT_MOST = 2e-6  # relative, also in half precision, where a unit is a per cent
_DETERMINISTIC = 1e3  # as for an objective


@dataclass(frozen=True)
class Request:
    """A gradient to take: of which parameters, with which layers updated, and which layers it is about."""

    group: frozenset[str]
    updated: frozenset[str]
    parameters: tuple[str, ...]


class Mixtures:
    """One (micro-)batch's loss where some layers are as in the state after the step, and all else as before it.

    Construction is one forward and backward pass with nothing updated, which finds ``gradient``, ``layers`` and
    ``statistics``. ``whole``: every evaluation is a full one. It is so under gradient checkpointing, which calls
    modules again during the backward pass, and for a loss that takes gradients itself; and it becomes so where a
    shortened evaluation fails or does not give the loss that a full one gives.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: LossFunction,
        part: Part,
        states: tuple[Tensors, Tensors],
        statistics: str | None,
        ranks: Ranks = ALONE,
    ) -> None:
        self._model, self._loss_fn, self._part = model, loss_fn, part
        self._ranks = ranks
        self._before, self._after = states
        self._declared = statistics
        self._through_backward = False  # reentrant checkpointing refuses autograd.grad
        self._trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        self._home_of: Mapping[str, str] = {}
        self.statistics: Statistics = "none"
        self.whole = False
        try:
            self._observe()
        except ReentrantError:
            self._through_backward = True
            self._observe()

    def adopt(self, layers: Layers) -> None:
        """Take the layers and their order from another micro-batch; where they differ, every evaluation is whole."""
        self.whole |= not layers.same_order(self.layers)
        self._home_of = layers.home_of

    def gradients(self, requests: Sequence[Request]) -> list[Tensors]:
        """One gradient per request; the groups must come in order of first use."""
        if not requests:
            return []
        if not self.whole:
            try:
                found = self._shortened(requests)
            except AlidadeError:
                raise
            except RuntimeError:  # such as a change in place that could not be foreseen
                found = None
            if found is not None:
                return found
            self.whole = True
        self._confirm(self._loss, self._value(frozenset()))
        return [self._gradient(request)[1] for request in requests]

    def _observe(self) -> None:
        def work(model: nn.Module, leaves: Tensors) -> tuple[Tensor, list[Tensor | None], Watch]:
            check_statistics(model, self._declared)
            self.statistics = describe_statistics(model)
            watch = Watch(model, leaves)
            watch.attach()
            with watch:
                loss = self._evaluated(model)
            if not loss.requires_grad:
                raise CallError("loss_fn: expected a loss that depends on the parameters, got a detached Tensor")
            return loss.detach(), self._differentiated(loss, [leaves[name] for name in self._trainable]), watch

        self._loss, found, self._watch = self._at(frozenset(), work)
        self._found = dict(zip(self._trainable, found, strict=True))
        self.layers = layers_seen(self._model, self._watch, self._found)
        self._home_of = self.layers.home_of
        self.gradient = {name: _dense(value, self._before[name]) for name, value in self._found.items()}
        self.whole = self._watch.called_in_backward or self._watch.differentiated_inside or self._through_backward

    def _shortened(self, requests: Sequence[Request]) -> list[Tensors] | None:
        """The gradients from evaluations that start at the layer; None where the loss came out another.

        With all layers before the last group updated, one forward pass computes what every group's evaluation
        begins with; and its loss must come out of the last evaluation too.
        """
        last = requests[-1]
        cache = PrefixCache(self._model, self._part.conditions.randomness)
        plain, watch = self._kept(last, cache)
        layers = layers_seen(self._model, watch, self._found)
        if not layers.same_order(self.layers):
            return None
        ends = watch.ends_of_calls()
        gradients = []
        for request in requests:
            loss, gradient = self._gradient(request, partial(cache.hand_out, ends, layers.begin(request.group)))
            gradients.append(gradient)
        tolerance = min(_SAME * torch.finfo(loss.dtype).eps, _SAME_AT_MOST)
        if torch.isclose(loss, plain, rtol=tolerance, atol=0, equal_nan=True):
            return gradients
        self._confirm(plain, self._value(last.updated))
        return None

    def _kept(self, last: Request, cache: PrefixCache) -> tuple[Tensor, Watch]:
        """The loss with all updated that the last request wants updated; the cache keeps what modules return."""
        begin = self.layers.begin(last.group)
        before_it = [module for module, end in self._watch.ends_of_calls().items() if end < begin]

        def work(model: nn.Module, leaves: Tensors) -> tuple[Tensor, Watch]:
            watch = Watch(model, leaves)
            watch.attach()
            cache.keep(before_it, self._watch.changed_in_place)
            with watch:
                return self._evaluated(model).detach(), watch

        return self._at(last.updated, work)

    def _gradient(self, request: Request, prepare: Callable[[], None] | None = None) -> tuple[Tensor, Tensors]:
        """Loss and gradient. All parameters want one, since kernels may depend on it; autograd takes what is asked."""

        def work(model: nn.Module, leaves: Tensors) -> tuple[Tensor, list[Tensor | None]]:
            if prepare is not None:
                prepare()
            loss = self._evaluated(model)
            return loss.detach(), self._differentiated(loss, [leaves[name] for name in request.parameters])

        loss, found = self._at(request.updated, work)
        named = zip(request.parameters, found, strict=True)
        return loss, {name: _dense(gradient, self._before[name]) for name, gradient in named}

    def _value(self, updated: frozenset[str]) -> Tensor:
        return self._at(updated, lambda model, leaves: self._evaluated(model).detach())

    def _evaluated(self, model: nn.Module) -> Tensor:
        loss = as_scalar(self._loss_fn(model, self._part.supply.fresh()))
        return loss if self._part.weight == 1 else self._part.weight * loss

    def _differentiated(self, loss: Tensor, leaves: list[Tensor]) -> list[Tensor | None]:
        if not loss.requires_grad:
            return [None] * len(leaves)
        return gradients_through_backward(loss, leaves) if self._through_backward else gradients_of(loss, leaves)

    def _at(self, updated: frozenset[str], work: Callable[[nn.Module, Tensors], T]) -> T:
        """``work`` on the model with the updated layers from the state after the step and the rest from before."""
        conditions, model = self._part.conditions, self._model
        mixed = {
            name: self._after[name] if self._home_of.get(name) in updated else tensor
            for name, tensor in self._before.items()
        }
        with torch.inference_mode(False), torch.enable_grad():
            live = dict(model.named_parameters())
            leaves: Tensors = {
                name: nn.Parameter(mixed.pop(name).detach(), p.requires_grad) for name, p in live.items()
            }
            with isolated(model, conditions.randomness), self._part.replayed(model), _one_attention():
                switch_statistics(model, self._declared)
                synchronize(model, self._ranks)
                buffers = {**(conditions.buffers or {}), **mixed}
                return call_at(model, leaves, lambda model: work(model, leaves), buffers)

    def _confirm(self, first: Tensor, second: Tensor) -> None:
        tolerance = _DETERMINISTIC * torch.finfo(first.dtype).eps
        if not torch.isclose(first, second, rtol=tolerance, atol=0, equal_nan=True):
            raise RefusedError(
                f"covariate_shift: expected the same loss twice at the same parameters, got {float(first)!r} and "
                f"{float(second)!r}; the model or loss_fn keeps state or draws from a generator of its own"
            )


def _dense(gradient: Tensor | None, like: Tensor) -> Tensor:
    if gradient is None:
        return torch.zeros_like(like)
    return gradient.to_dense() if gradient.is_sparse else gradient.detach()


@contextmanager
def _one_attention() -> Iterator[None]:
    """Transformer layers take the same path whether or not their parameters are differentiated."""
    was = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(was)
