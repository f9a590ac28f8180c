"""The objective: the training loss of one batch as a function of the parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from alidade.core.errors import CallError, RefusedError
from alidade.core.records import Statistics
from alidade.landscape.isolation import RandomState, call_at, isolated, public_name, unwrap
from alidade.landscape.statistics import check_statistics, describe_statistics, switch_statistics

LossFunction = Callable[[nn.Module, Any], Tensor]
Tensors = dict[str, Tensor]
T = TypeVar("T")


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
        self.model = unwrap(model)
        self.loss_fn = _as_loss_function(loss_fn)
        self.batch = batch
        self._declared = statistics
        self._unchecked = check_deterministic
        self._real_names = {public_name(name): name for name, p in self.model.named_parameters() if p.requires_grad}
        if not self._real_names:
            raise CallError("model: expected at least one parameter with requires_grad, got none; unfreeze one")
        check_statistics(self.model, statistics)
        self._randomness = RandomState(self.model)
        self._autocast = _autocast_state()

    @property
    def parameters(self) -> Tensors:
        """The live trainable parameters as detached tensors that share their storage, by public name."""
        live = dict(self.model.named_parameters())
        return {name: live[real].detach() for name, real in self._real_names.items()}

    @property
    def statistics(self) -> Statistics:
        """What the normalization layers use in this objective: batch, running, mixed or none."""
        with isolated(self.model):
            switch_statistics(self.model, self._declared)
            return describe_statistics(self.model)

    @property
    def dtype(self) -> str:
        """The precision of the computation: autocast's where it is on, otherwise that of the parameters."""
        kinds = {p.dtype for p in self.parameters.values()}
        for device, enabled, dtype in self._autocast:
            if enabled and any(p.device.type == device for p in self.parameters.values()):
                kinds = {dtype}
        return str(kinds.pop()).removeprefix("torch.") if len(kinds) == 1 else "mixed"

    @property
    def batch_size(self) -> int | None:
        """Length of the first tensor found in the batch; None where there is none."""
        first = _first_tensor(self.batch)
        return None if first is None or first.ndim == 0 else first.shape[0]

    def value(self, at: Mapping[str, Tensor] | None = None) -> Tensor:
        """The loss (a detached 0-dimensional Tensor) at the live parameters, or at the tensors ``at``."""
        loss = self._value(at)
        if self._unchecked:
            self._confirm(loss if at is None else self._value(None))
        return loss

    def gradient(self, at: Mapping[str, Tensor] | None = None) -> Tensors:
        """The gradient by parameter name; zeros for a parameter that the loss does not use."""
        return self.value_and_gradient(at)[1]

    def value_and_gradient(self, at: Mapping[str, Tensor] | None = None) -> tuple[Tensor, Tensors]:
        """Loss and gradient of one forward and backward pass."""

        def work(leaves: Tensors) -> Callable[[nn.Module], tuple[Tensor, Tensors]]:
            def loss_and_gradient(model: nn.Module) -> tuple[Tensor, Tensors]:
                loss = self._differentiable_loss(model)
                return loss.detach(), _gradients(loss, leaves)

            return loss_and_gradient

        loss, gradient = self._run(at, work, leaves=True)
        if self._unchecked:
            self._confirm(loss if at is None else self._value(None))
        return loss, gradient

    def hvp(self, v: Mapping[str, Tensor], at: Mapping[str, Tensor] | None = None) -> Tensors:
        r"""Hessian-vector product :math:`\nabla^2 L(\theta) v` by double backward, exact through train-mode norms.

        ``v`` has one tensor per trainable parameter. Attention uses its plain implementation here: the fused
        ones have no second derivative. Where the network is piecewise linear (ReLU, max pooling) this is the
        Hessian almost everywhere: it does not see the kinks.
        """
        self.check_direction(v)
        if self._unchecked:
            self._confirm(self._value(None))

        def work(leaves: Tensors) -> Callable[[nn.Module], Tensors]:
            def product(model: nn.Module) -> Tensors:
                first = _gradients(self._differentiable_loss(model), leaves, create_graph=True)
                inner = torch.stack([(first[name] * v[name]).sum() for name in leaves]).sum()
                return _gradients(inner, leaves) if inner.requires_grad else _zeros(leaves)

            return product

        with sdpa_kernel(SDPBackend.MATH):
            return self._run(at, work, leaves=True)

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
        return self._run(at, lambda _: lambda model: _scalar(self.loss_fn(model, self.batch)).detach())

    def _differentiable_loss(self, model: nn.Module) -> Tensor:
        loss = _scalar(self.loss_fn(model, self.batch))
        if not loss.requires_grad:
            raise CallError("loss_fn: expected a loss that depends on the parameters, got a detached Tensor")
        return loss

    def _run(
        self,
        at: Mapping[str, Tensor] | None,
        work: Callable[[Tensors], Callable[[nn.Module], T]],
        leaves: bool = False,
    ) -> T:
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.set_grad_enabled(leaves))
            tensors = self.parameters if at is None else {name: tensor.detach() for name, tensor in at.items()}
            if leaves:
                tensors = {name: tensor.requires_grad_() for name, tensor in tensors.items()}
            real = {self._real_names[name]: tensor for name, tensor in tensors.items()}
            stack.enter_context(isolated(self.model, self._randomness))
            stack.enter_context(_autocast_as(self._autocast))
            switch_statistics(self.model, self._declared)
            return call_at(self.model, real, work(tensors))

    def _confirm(self, first: Tensor) -> None:
        """Once per objective: the same loss must come out again."""
        second = self._value(None)
        # Sums on a GPU may be reordered, and a pass without gradients may use other kernels: that is rounding.
        tolerance = 1e3 * torch.finfo(getattr(torch, self.dtype, torch.float32)).eps
        if not torch.isclose(first, second, rtol=tolerance, atol=0, equal_nan=True):
            raise RefusedError(
                f"objective: expected the same loss twice at the same parameters, got {float(first)!r} and "
                f"{float(second)!r}; the model or loss_fn keeps state or draws from a generator of its own"
            )
        self._unchecked = False


def _as_loss_function(loss_fn: Any) -> LossFunction:
    if callable(loss_fn):
        return loss_fn  # type: ignore[no-any-return]
    if isinstance(loss_fn, tuple | list) and len(loss_fn) == 2 and all(map(callable, loss_fn)):
        forward, criterion = loss_fn
        return lambda model, batch: criterion(forward(model, batch), batch)
    raise CallError(
        "loss_fn: expected loss_fn(model, batch) -> scalar Tensor or a pair (forward, criterion), "
        f"got {type(loss_fn).__name__}"
    )


def _scalar(loss: Any) -> Tensor:
    if not isinstance(loss, Tensor):
        raise CallError(f"loss_fn: expected a scalar Tensor, got {type(loss).__name__}")
    if loss.numel() != 1:
        raise CallError(f"loss_fn: expected a scalar Tensor, got shape {tuple(loss.shape)}; take its mean or sum")
    return loss.reshape(())


def _gradients(loss: Tensor, leaves: Tensors, create_graph: bool = False) -> Tensors:
    found = torch.autograd.grad(loss, list(leaves.values()), create_graph=create_graph, allow_unused=True)
    return {
        name: torch.zeros_like(leaf) if gradient is None else gradient.to_dense() if gradient.is_sparse else gradient
        for (name, leaf), gradient in zip(leaves.items(), found, strict=True)
    }


def _zeros(leaves: Tensors) -> Tensors:
    return {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}


def _first_tensor(batch: Any) -> Tensor | None:
    if isinstance(batch, Tensor):
        return batch
    parts: Sequence[Any] = list(batch.values()) if isinstance(batch, Mapping) else ()
    if isinstance(batch, list | tuple):
        parts = batch
    return next((found for part in parts if (found := _first_tensor(part)) is not None), None)


def _autocast_state() -> list[tuple[str, bool, torch.dtype]]:
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    return [(device, torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)) for device in devices]


@contextmanager
def _autocast_as(state: list[tuple[str, bool, torch.dtype]]) -> Any:
    with ExitStack() as stack:
        for device, enabled, dtype in state:
            # The cache of cast weights would outlive the leaves that it was filled from.
            stack.enter_context(torch.autocast(device, dtype=dtype, enabled=enabled, cache_enabled=False))
        yield
