"""The objective: the training loss of one batch as a function of the parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from alidade.core.errors import CallError, RefusedError
from alidade.core.records import Statistics
from alidade.landscape.conditions import Conditions, conditions_now
from alidade.landscape.differentiation import (
    ReentrantError,
    Tensors,
    named_gradients,
    summed,
    summed_by_name,
    zeros_like_all,
)
from alidade.landscape.isolation import Places, call_at, isolated, public_name, unwrap
from alidade.landscape.loss import LossFunction, as_loss_function, as_scalar, first_tensor
from alidade.landscape.statistics import check_statistics, describe_statistics, switch_statistics

T = TypeVar("T")


@dataclass(frozen=True)
class Part:
    """One (micro-)batch of a step, the conditions of its forward pass, and the factor of its loss in the sum."""

    batch: Any
    conditions: Conditions
    weight: float = 1.0


class Objective:
    r"""The scalar loss :math:`L(\theta)` of one fixed batch, read live at each call.

    The parameters are those of ``model`` with ``requires_grad``, by name. Random numbers (dropout masks, noise)
    are those that the model would have drawn at construction, in every evaluation; autocast is as it was at
    construction; normalization layers use the statistics that ``statistics`` declares. Nothing is left changed:
    parameters are not even moved, the model is evaluated at other tensors
    (:mod:`alidade.landscape.isolation`).

    Args:
        model: any module; wrappers of data parallelism and compilation are looked through.
        loss_fn: ``loss_fn(model, batch)`` returns a scalar Tensor; or a pair ``(forward, criterion)`` with
            ``forward(model, batch)`` the outputs and ``criterion(outputs, batch)`` the scalar.
        batch: whatever ``loss_fn`` takes; kept by reference.
        statistics: None leaves each normalization layer in its own mode; "batch" or "running" switches the
            layers that keep running statistics, and never dropout.
        check_deterministic: evaluate the loss twice before the first result and refuse if it differs
            (costs one forward pass, once).

    Raises:
        CallError: no trainable parameter, an unknown ``statistics``, running statistics that no batch has moved,
            a loss that is not a scalar or does not depend on the parameters.
        RefusedError: the loss is not a function of the parameters: two evaluations differ.

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
    ) -> None:
        inner = unwrap(model)
        self._build(inner, loss_fn, (Part(batch, conditions_now(inner)),), statistics, check_deterministic)

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
        objective._build(unwrap(model), loss_fn, tuple(parts), None, check_deterministic)
        objective._point = None if at is None else dict(at)
        return objective

    def _build(
        self, model: nn.Module, loss_fn: Any, parts: tuple[Part, ...], statistics: str | None, check: bool
    ) -> None:
        self.model = model
        self.loss_fn = as_loss_function(loss_fn)
        self.parts = parts
        self._declared = statistics
        self._unchecked = check
        self._accumulate = False  # whether gradients must be taken by .backward()
        self._point: Tensors | None = None
        self._places = Places(model)
        if not any(p.requires_grad for p in model.parameters()):
            raise CallError("model: expected at least one parameter with requires_grad, got none; unfreeze one")
        check_statistics(model, statistics)

    @property
    def parameters(self) -> Tensors:
        """The trainable parameters as detached tensors that share their storage, by public name."""
        if self._point is not None:
            return dict(self._point)
        live = {place.name: place.members[place.key] for place in self._present().parameters}
        return {public_name(name): p.detach() for name, p in live.items() if p.requires_grad}

    @property
    def batch(self) -> Any:
        """The batch, or the first of the micro-batches."""
        return self.parts[0].batch

    @property
    def statistics(self) -> Statistics:
        """What the normalization layers use in this objective: batch, running, mixed or none."""
        with isolated(self.model), self.parts[0].conditions.replayed(self.model):
            switch_statistics(self.model, self._declared)
            return describe_statistics(self.model)

    @property
    def dtype(self) -> str:
        """The precision of the computation: autocast's where it is on, otherwise that of the parameters."""
        kinds = {p.dtype for p in self.parameters.values()}
        for state in self.parts[0].conditions.autocast:
            if state.enabled and any(p.device.type == state.device for p in self.parameters.values()):
                kinds = {state.dtype}
        return str(kinds.pop()).removeprefix("torch.") if len(kinds) == 1 else "mixed"

    @property
    def batch_size(self) -> int | None:
        """Length of the first tensor found in a (micro-)batch; None where there is none."""
        first = first_tensor(self.batch)
        return None if first is None or first.ndim == 0 else first.shape[0]

    def value(self, at: Mapping[str, Tensor] | None = None) -> Tensor:
        """The loss (a detached 0-dimensional Tensor) where the objective stands, or at the tensors ``at``."""
        loss = self._value(at)
        self._confirm(loss if at is None else None)
        return loss

    def gradient(self, at: Mapping[str, Tensor] | None = None) -> Tensors:
        """The gradient by parameter name; zeros for a parameter that the loss does not use."""
        return self.value_and_gradient(at)[1]

    def value_and_gradient(self, at: Mapping[str, Tensor] | None = None) -> tuple[Tensor, Tensors]:
        """Loss and gradient of one forward and backward pass."""

        def work(model: nn.Module, part: Part, leaves: Tensors) -> tuple[Tensor, Tensors]:
            loss = self._differentiable_loss(model, part)
            return loss.detach(), named_gradients(loss, leaves, accumulate=self._accumulate)

        try:
            results = self._each(at, work, differentiate=True)
        except ReentrantError:
            self._accumulate = True
            results = self._each(at, work, differentiate=True)
        loss, gradient = summed([loss for loss, _ in results]), summed_by_name([found for _, found in results])
        self._confirm(loss if at is None else None)
        return loss, gradient

    def hvp(self, v: Mapping[str, Tensor], at: Mapping[str, Tensor] | None = None) -> Tensors:
        r"""Hessian-vector product :math:`\nabla^2 L(\theta) v` by double backward, exact through train-mode norms.

        ``v`` has one tensor per trainable parameter. Attention uses its plain implementation here: the fused
        ones have no second derivative. Where the network is piecewise linear (ReLU, max pooling) this is the
        Hessian almost everywhere: it does not see the kinks.
        """
        self.check_direction(v)
        self._confirm(None)

        def work(model: nn.Module, part: Part, leaves: Tensors) -> Tensors:
            first = named_gradients(self._differentiable_loss(model, part), leaves, create_graph=True)
            inner = torch.stack([(first[name] * v[name]).sum() for name in leaves]).sum()
            return named_gradients(inner, leaves, second=True) if inner.requires_grad else zeros_like_all(leaves)

        with sdpa_kernel(SDPBackend.MATH):
            return summed_by_name(self._each(at, work, differentiate=True))

    def inspect(self, work: Callable[[nn.Module], T]) -> list[T]:
        """``work(model)`` once per (micro-)batch's conditions, where the objective stands, without gradients.

        For probes that look inside the network: ``work`` may register hooks and call ``loss_fn``; whatever it
        changes on the model is put back.
        """
        return self._each(None, lambda model, part, leaves: work(model))

    def differentiate(self, work: Callable[[nn.Module, Callable[[nn.Module], Tensor]], T]) -> T:
        """``work(model, loss)`` with gradients on, for probes that differentiate with respect to activations.

        ``loss(model)`` runs the forward pass. One batch only: activations of micro-batches are no sum.
        """
        if len(self.parts) > 1:
            raise CallError(f"objective: expected one batch, got {len(self.parts)} micro-batches; probe without them")
        return self._each(
            None, lambda model, part, leaves: work(model, lambda m: self._differentiable_loss(m, part)), True
        )[0]

    def check_direction(self, v: Mapping[str, Tensor]) -> None:
        """Refuse a dictionary that does not hold exactly one tensor of the right shape per trainable parameter."""
        parameters = self.parameters
        if set(v) != set(parameters):
            missing, unknown = sorted(set(parameters) - set(v)), sorted(set(v) - set(parameters))
            raise CallError(
                f"direction: expected one tensor per trainable parameter, missing {missing[:3]}, unknown {unknown[:3]}"
            )
        for name, parameter in parameters.items():
            if v[name].shape != parameter.shape:
                raise CallError(
                    f"direction[{name!r}]: expected shape {tuple(parameter.shape)}, got {tuple(v[name].shape)}"
                )

    def _value(self, at: Mapping[str, Tensor] | None) -> Tensor:
        return summed(self._each(at, lambda model, part, leaves: self._loss(model, part).detach()))

    def _loss(self, model: nn.Module, part: Part) -> Tensor:
        first = first_tensor(part.batch)
        if first is not None and first.numel() == 0:
            raise CallError(f"batch: expected at least one example, got a tensor of shape {tuple(first.shape)}")
        loss = as_scalar(self.loss_fn(model, part.batch))
        return loss if part.weight == 1 else part.weight * loss

    def _differentiable_loss(self, model: nn.Module, part: Part) -> Tensor:
        loss = self._loss(model, part)
        if not loss.requires_grad:
            raise CallError("loss_fn: expected a loss that depends on the parameters, got a detached Tensor")
        return loss

    def _each(
        self,
        at: Mapping[str, Tensor] | None,
        work: Callable[[nn.Module, Part, Tensors], T],
        differentiate: bool = False,
    ) -> list[T]:
        with torch.inference_mode(False):
            # Clones: a forward pass may write to its parameters (an embedding with max_norm does), and these are not
            # to be the live ones.
            point = {name: p.clone() for name, p in self.parameters.items()} if at is None else at
            return [self._at(point, part, work, differentiate) for part in self.parts]

    def _present(self) -> Places:
        """Where parameters and buffers are now; found again when the network's structure has changed."""
        if not self._places.still_hold():
            self._places = Places(self.model)
        return self._places

    def _at(
        self,
        point: Mapping[str, Tensor],
        part: Part,
        work: Callable[[nn.Module, Part, Tensors], T],
        differentiate: bool,
    ) -> T:
        places = self._present()
        with torch.set_grad_enabled(differentiate):
            # Parameters that ask for gradients, also where none are taken: torch and users' code choose by that.
            leaves: Tensors = {name: nn.Parameter(tensor.detach()) for name, tensor in point.items()}
            real = {p.name: leaves[public_name(p.name)] for p in places.parameters if public_name(p.name) in leaves}
            with isolated(self.model, part.conditions.randomness, places), part.conditions.replayed(self.model):
                switch_statistics(self.model, self._declared)
                return call_at(
                    self.model, real, lambda model: work(model, part, leaves), part.conditions.buffers, places
                )

    def _confirm(self, first: Tensor | None) -> None:
        """Once per objective: the same loss must come out again; ``first`` is one that was computed already."""
        if not self._unchecked:
            return
        first, second = self._value(None) if first is None else first, self._value(None)
        # Sums on a GPU may be reordered, and a pass without gradients may use other kernels: that is rounding.
        tolerance = 1e2 * torch.finfo(getattr(torch, self.dtype, torch.float32)).eps
        if not torch.isclose(first, second, rtol=tolerance, atol=0, equal_nan=True):
            raise RefusedError(
                f"objective: expected the same loss twice at the same parameters, got {float(first)!r} and "
                f"{float(second)!r}; the model or loss_fn keeps state or draws from a generator of its own"
            )
        self._unchecked = False
