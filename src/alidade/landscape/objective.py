"""The objective: the training loss of one batch as a function of the parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from copy import copy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from alidade.core.errors import CallError
from alidade.core.records import Provenance, Statistics
from alidade.landscape.arguments import check_model, check_tensors
from alidade.landscape.conditions import Part, precision
from alidade.landscape.differentiation import (
    ReentrantError,
    Tensors,
    added,
    graphs_if_needed,
    named_gradients,
    named_product,
    require_dependence,
    summed,
)
from alidade.landscape.evaluations import Evaluations, Run
from alidade.landscape.isolation import unwrap
from alidade.landscape.loader import check_parts, examples_of, lengths_of, parts_of, require_mixable
from alidade.landscape.loss import LossFunction, as_loss_function, as_scalar, require_same
from alidade.landscape.parallelism import Spread, spread_of
from alidade.landscape.ranks import Ranks, mean_by_name, require_one_process
from alidade.landscape.statistics import check_statistics, describe_statistics
from alidade.landscape.weight_norm import PlainWeightNorm

T = TypeVar("T")
Work = Callable[[nn.Module, Part, Tensors], T]  # with a model, a (micro-)batch and the leaves to differentiate at
Collect = Callable[[Iterator[T]], list[T]]  # of what came of the (micro-)batches, one after the other
_LOSS = ""  # beside the names of parameters


class Objective:
    r"""The scalar loss :math:`L(\theta)` of one fixed batch, read live at each call.

    The parameters are those of ``model`` with ``requires_grad``, by name. Random numbers (dropout masks, noise)
    are those that the model would have drawn at construction, in every evaluation; autocast is as it was at
    construction; normalization layers use the statistics that ``statistics`` declares. Nothing is left changed:
    parameters are not even moved, the model is evaluated at other tensors
    (:mod:`alidade.landscape.isolation`).

    Under DistributedDataParallel and ``fully_shard`` it is the mean of the losses of all processes, each on its own
    batch; every process makes the same calls and gets the same numbers, bit by bit.

    Args:
        model: any module; wrappers of data parallelism and compilation are looked through.
        loss_fn: ``loss_fn(model, batch)`` returns a scalar Tensor; or a pair of ``forward(model, batch)``, the
            outputs, and ``criterion(outputs, batch)``, the scalar.
        batch: whatever ``loss_fn`` takes; kept by reference. A whole data set: :class:`alidade.Batches`.
        statistics: None leaves each normalization layer in its own mode; "batch" or "running" switches the
            layers that keep running statistics, and never dropout.
        check_deterministic: evaluate the loss twice before the first result and refuse if it differs
            (costs one forward pass, once).
        ranks: the processes to take means over; None: those of the model's wrapper.

    Raises:
        CallError: no trainable parameter, an unknown ``statistics``, running statistics that no batch has moved,
            a loss that is not a scalar or does not depend on the parameters.
        RefusedError: the loss is not a function of the parameters: two evaluations differ; another process failed;
            the model is spread over processes in a way that is not supported.

    Cost: ``value`` one forward pass, ``gradient`` one forward and backward, ``hvp`` about two of each.

    >>> model = nn.Linear(2, 1, bias=False).double()
    >>> _ = model.weight.data.copy_(torch.tensor([[1.0, 2.0]]))
    >>> objective = Objective(model, lambda model, x: model(x).square().sum() / 2, torch.eye(2).double())
    >>> float(objective.value()), objective.gradient()["weight"].tolist()
    (2.5, [[1.0, 2.0]])
    >>> objective.hvp({"weight": torch.tensor([[3.0, 0.0]]).double()})["weight"].tolist()
    [[3.0, 0.0]]
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: LossFunction | tuple[Callable[..., Any], Callable[..., Tensor]],
        batch: Any,
        statistics: str | None = None,
        *,
        check_deterministic: bool = True,
        ranks: Ranks | None = None,
    ) -> None:
        self._build(model, loss_fn, parts_of(unwrap(model), batch), statistics, check_deterministic, ranks)

    @classmethod
    def of_parts(
        cls,
        model: nn.Module,
        loss_fn: LossFunction | tuple[Callable[..., Any], Callable[..., Tensor]],
        parts: Sequence[Part],
        at: Mapping[str, Tensor] | None = None,
        *,
        check_deterministic: bool = True,
    ) -> Objective:
        """The weighted sum of the losses of micro-batches, each under the conditions recorded for it.

        ``at``: where the objective stands instead of at the live parameters, by public name.
        """
        objective = cls.__new__(cls)
        objective._build(model, loss_fn, tuple(parts), None, check_deterministic, None)
        objective._point = None if at is None else dict(at)
        return objective

    def _build(
        self, model: nn.Module, loss: Any, parts: Sequence[Part], mode: str | None, check: bool, ranks: Ranks | None
    ) -> None:
        self.model, self.parts = unwrap(model), parts
        check_model(self.model)
        spread = spread_of(model) if ranks is None else Spread(ranks)
        self.ranks = spread.ranks
        self.ranks.agreed(lambda: check_parts(self.model, parts, mode))
        self.loss_fn = as_loss_function(loss)
        self.pair = None if callable(loss) else tuple(loss)  # (forward, criterion), where they came apart
        self._unchecked = check
        self.through_backward = False  # whether gradients must be taken by .backward()
        self.takes_gradients = False  # whether the loss contains gradients, as a gradient penalty does
        self._point: Tensors | None = None
        self._evaluations = Evaluations(self.model, mode, spread)
        require_mixable(parts, lambda: self.statistics)

    def moved_to(self, at: Mapping[str, Tensor]) -> Objective:
        """The same objective standing at other parameters: one tensor per trainable parameter, by public name."""
        self.check_direction(at)
        moved = copy(self)
        moved._point = dict(at)
        return moved

    def under(self, statistics: str | None) -> Objective:
        """The same objective with other ``statistics`` in its normalization layers; refused as at construction."""
        check_statistics(self.model, statistics, self.parts[0].conditions.buffers)
        other = copy(self)
        other._evaluations = self._evaluations.under(statistics)
        require_mixable(self.parts, lambda: other.statistics)
        return other

    @property
    def parameters(self) -> Tensors:
        """The trainable parameters, detached, in the storage that they share; of a sharded model, whole copies."""
        return self._evaluations.whole() if self._point is None else dict(self._point)

    @property
    def batch(self) -> Any:
        """The batch, or the first of the micro-batches."""
        return self.parts[0].batch

    @property
    def statistics(self) -> Statistics:
        """What the normalization layers use in this objective: batch, running, mixed or none."""
        with self.conditions_of(self.parts[0]):
            return describe_statistics(self.model)

    @property
    def dtype(self) -> str:
        """The precision of the computation: autocast's where it is on, otherwise that of the parameters."""
        return precision((self._point or self._evaluations.live()).values(), self.parts[0].conditions.autocast)

    @property
    def batch_size(self) -> int | None:
        """Length of the first tensor found in a (micro-)batch, or None; all examples of a loader."""
        return examples_of(self.parts)

    @property
    def partition(self) -> tuple[int | None, ...] | None:
        """Lengths of the (micro-)batches that the loss is added up from; None for one batch."""
        return lengths_of(self.parts)

    def provenance(self, **more: Any) -> Provenance:
        """Under which conditions its numbers are measured."""
        more |= {"partition": self.partition}
        return Provenance(self.statistics, self.dtype, self.batch_size, ranks=self.ranks.size, **more)

    def value(self, at: Mapping[str, Tensor] | None = None) -> Tensor:
        """The loss (a detached 0-dimensional Tensor) where the objective stands, or at the tensors ``at``."""
        loss = self._value(at)
        self.confirm(loss if at is None else None)
        return loss

    def gradient(self, at: Mapping[str, Tensor] | None = None) -> Tensors:
        """The gradient by parameter name; zeros for a parameter that the loss does not use."""
        return self.value_and_gradient(at)[1]

    def value_and_gradient(self, at: Mapping[str, Tensor] | None = None) -> tuple[Tensor, Tensors]:
        """Loss and gradient of one forward and backward pass."""

        def work(model: nn.Module, part: Part, leaves: Tensors) -> Tensors:
            loss = self.differentiable_loss(model, part)
            return {_LOSS: loss.detach(), **named_gradients(loss, leaves, accumulate=self.through_backward)}

        def local() -> Tensors:
            try:
                return self._each(at, work, True, added)[0]
            except ReentrantError:
                self.through_backward = True
            return self._each(at, work, True, added)[0]

        gradient = mean_by_name(self.ranks, local)
        loss = gradient.pop(_LOSS)
        self.confirm(loss if at is None else None, differentiated=True)
        return loss, gradient

    def hvp(self, v: Mapping[str, Tensor], at: Mapping[str, Tensor] | None = None) -> Tensors:
        r"""Hessian-vector product :math:`\nabla^2 L(\theta) v` by double backward, exact through train-mode norms.

        ``v``: one tensor per trainable parameter. Attention is computed plainly: its fused kernels have no second
        derivative. Kinks of ReLU and max pooling are not seen. Refused where a function has one derivative only.
        """
        self.check_direction(v)
        self.confirm(None)

        def work(model: nn.Module, part: Part, leaves: Tensors) -> Tensors:
            return named_product(self.differentiable_loss(model, part), leaves, v)

        with sdpa_kernel(SDPBackend.MATH), PlainWeightNorm():
            return mean_by_name(self.ranks, lambda: self._each(at, work, True, added)[0])

    def inspect(self, work: Callable[[nn.Module, Any], T]) -> list[T]:
        """``work(model, batch)`` once per (micro-)batch, under its conditions, where the objective stands.

        ``work`` may register hooks and call ``loss_fn``; what it changes on the model is put back. Without
        gradients, unless the loss takes some: ``work`` then begins anew.
        """
        return self._each(None, lambda model, part, leaves: work(model, part.supply.fresh()))

    def differentiate(self, work: Callable[[nn.Module, Callable[[nn.Module], Tensor]], T]) -> T:
        """``work(model, loss)`` with gradients on, for probes that differentiate with respect to activations.

        ``loss(model)`` runs the forward pass. One batch, one process: activations of several are no sum.
        """
        if len(self.parts) > 1:
            raise CallError(f"objective: expected one batch, got {len(self.parts)} micro-batches; probe without them")
        require_one_process(self.ranks, "objective")
        return self._each(None, lambda m, part, _: work(m, lambda m: self.differentiable_loss(m, part)), True)[0]

    def repeated(self) -> AbstractContextManager[None]:
        """For probes that evaluate many times: inside, nothing but this objective's evaluations may touch the model."""
        return self._evaluations.repeated(self.parts[0])

    def check_direction(self, v: Mapping[str, Tensor], label: str = "direction") -> None:
        """Refuse a dictionary that does not hold exactly one tensor of the right shape per trainable parameter."""
        check_tensors(self._point or self._evaluations.live(), v, label)

    def _value(self, at: Mapping[str, Tensor] | None, with_graph: bool = False) -> Tensor:
        """The loss; the graph of its forward pass shows whether it depends on the parameters."""

        def work(model: nn.Module, part: Part, leaves: Tensors) -> Tensor:
            loss = (self.differentiable_loss if with_graph else self.loss)(model, part)
            return require_dependence(loss, leaves) if with_graph else loss.detach()

        return self.ranks.mean(lambda: [summed(self._each(at, work, differentiate=with_graph))])[0]

    def loss(self, model: nn.Module, part: Part) -> Tensor:
        """The weighted loss of a (micro-)batch, to be called under its conditions."""
        loss = as_scalar(self.loss_fn(model, part.supply.fresh()))
        return loss if part.weight == 1 else part.weight * loss

    def differentiable_loss(self, model: nn.Module, part: Part) -> Tensor:
        """The same with its graph."""
        loss = self.loss(model, part)
        if not loss.requires_grad:
            raise CallError("loss_fn: expected a loss that depends on the parameters, got a detached Tensor")
        return loss

    def _each(
        self, at: Mapping[str, Tensor] | None, work: Work[T], differentiate: bool = False, collect: Collect[T] = list
    ) -> list[T]:
        if at is not None:
            self.check_direction(at, "at")

        def evaluated(graphs: bool) -> list[T]:
            with torch.inference_mode(False):
                # Clones: a forward pass may write to its parameters, as an embedding with max_norm does.
                point = {name: p.clone() for name, p in self.parameters.items()} if at is None else at
                return collect(self._evaluations.at(point, part, work, graphs) for part in self.parts)

        if not (differentiate or self.takes_gradients):
            found, self.takes_gradients = graphs_if_needed(evaluated)
            return found
        return evaluated(True)

    def conditions_of(self, part: Part) -> AbstractContextManager[Run]:
        """The conditions of a (micro-)batch: inside, ``run(leaves, work)`` is ``work(model)`` at these tensors."""
        return self._evaluations.conditions_of(part)

    def confirm(self, first: Tensor | None, differentiated: bool = False) -> None:
        """Once per objective: the same loss must come out again; ``first`` is one that was computed already."""
        if self._unchecked:
            second = self._value(None, with_graph=not differentiated)
            require_same(self._value(None) if first is None else first, second, self.dtype)
            self._unchecked = False
