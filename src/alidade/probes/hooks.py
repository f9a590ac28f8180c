"""The optimizer's own step hooks, and the conditions of the model's real forward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from alidade.core.errors import CallError, RefusedError
from alidade.landscape.conditions import AutocastState, Conditions, autocast_states
from alidade.landscape.isolation import Attributes, public_name, unwrap
from alidade.landscape.randomness import RandomState
from alidade.landscape.shards import sharded_modules


def hookable(optimizer: Any) -> torch.optim.Optimizer:
    """The torch optimizer itself: Accelerate's wrapper has no hooks of its own but keeps the optimizer.

    Raises:
        CallError: there is no torch optimizer in it.
    """
    inner = optimizer
    while not isinstance(inner, torch.optim.Optimizer) or not hasattr(inner, "_optimizer_step_pre_hooks"):
        inner = getattr(inner, "optimizer", None)
        if inner is None:
            raise CallError(f"optimizer: expected a torch.optim.Optimizer, got {type(optimizer).__name__}")
    return inner


def require_shared_parameters(optimizer: torch.optim.Optimizer, model: nn.Module) -> None:
    """Refuse an optimizer that moves none of the model's trainable parameters."""
    moved = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if not any(p.requires_grad and id(p) in moved for p in model.parameters()):
        raise CallError("optimizer: expected one over the model's parameters, got one over other parameters only")


def refuse_inside_backward() -> None:
    """An optimizer that steps inside the backward pass has no single point where the step starts."""
    if torch._C._current_graph_task_id() != -1:
        raise RefusedError(
            "optimizer: expected steps after the backward pass, got one inside it; "
            "close the survey or step the optimizer after backward()"
        )


def was_skipped(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a fused optimizer under GradScaler left its parameters alone because of an infinite gradient."""
    found = getattr(optimizer, "found_inf", None)
    return found is not None and bool(found)


def learning_rates(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, float] | None:
    """The learning rate of each trainable parameter by public name; None where a parameter has none."""
    by_id = {id(p): group.get("lr") for group in optimizer.param_groups for p in group["params"]}
    names = {public_name(n): by_id.get(id(p)) for n, p in unwrap(model).named_parameters() if p.requires_grad}
    known = {name: float(rate) for name, rate in names.items() if rate is not None}
    return known if len(known) == len(names) else None


def trainable(model: nn.Module) -> dict[str, Tensor]:
    """Clones of the trainable parameters by public name; of a sharded model, of the pieces here."""
    return {public_name(n): p.detach().clone() for n, p in unwrap(model).named_parameters() if p.requires_grad}


class _BeforeCompiled:
    """A forward pre-hook for a module compiled in place (``module.compile()``), whose real hooks are compiled, too."""

    def __init__(self, module: nn.Module, act: Callable[[nn.Module, Any], None]) -> None:
        compiled: Any = module._compiled_call_impl

        def stand_in(*args: Any, **kwargs: Any) -> Any:
            act(module, args)
            return compiled(*args, **kwargs)

        self._module, self._compiled, self._stand_in = module, compiled, stand_in
        module._compiled_call_impl = stand_in

    def remove(self) -> None:
        """Take the stand-in away."""
        if self._module._compiled_call_impl is self._stand_in:
            self._module._compiled_call_impl = self._compiled


class ForwardWatch:
    """Records under which conditions the model's next forward call runs, once; leaves no hook behind.

    The hooks sit on every module, as a loss function may call any of them first; inside a wrapper (compilation,
    data parallelism) only on the wrapper.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model, self._inner = model, unwrap(model)
        self._before = RandomState(self._inner)
        self.autocast_before = autocast_states()
        self.autocast_inside: tuple[AutocastState, ...] | None = None
        self._at_forward: RandomState | None = None
        self._modes: dict[nn.Module, bool] | None = None
        self._buffers: dict[str, Tensor] | None = None
        self._attributes: Attributes | None = None
        # Hooks inside compiled code would have it compiled again.
        watched = self._inner.modules() if model is self._inner else [model]
        first = bool(sharded_modules(self._inner))  # before these gather their parameters
        self._handles = [
            module.register_forward_pre_hook(self._capture, prepend=first)
            if module._compiled_call_impl is None
            else _BeforeCompiled(module, self._capture)
            for module in watched
        ]

    def _capture(self, module: nn.Module, inputs: Any) -> None:
        self.stop()
        self._at_forward = RandomState(self._inner)
        self.autocast_inside = autocast_states()
        self._modes = {module: module.training for module in self._inner.modules()}
        self._buffers = {name: buffer.detach().clone() for name, buffer in self._inner.named_buffers()}
        self._attributes = Attributes(self._inner.modules())

    def stop(self) -> None:
        """Stop waiting for a forward call."""
        for handle in self._handles:
            handle.remove()

    def conditions(self, autocast: Sequence[AutocastState]) -> Conditions:
        """What was recorded; without a forward call seen, the conditions at the start."""
        return Conditions(self._before, tuple(autocast), self._at_forward, self._modes, self._buffers, self._attributes)


def autocast_of_the_caller(
    watch: ForwardWatch, model: nn.Module, evaluate: Callable[[Conditions], object]
) -> tuple[AutocastState, ...]:
    """Autocast as it was where the loss function was called.

    The real forward pass saw ``watch.autocast_inside``. Either the caller had entered it, or the loss function
    enters it itself: one evaluation without it tells.
    """
    if watch.autocast_inside is None or watch.autocast_inside == watch.autocast_before:
        return watch.autocast_before
    seen: list[tuple[AutocastState, ...]] = []
    with ExitStack() as stack:
        for module in unwrap(model).modules():
            hook = module.register_forward_pre_hook(lambda module, inputs: seen.append(autocast_states()))
            stack.callback(hook.remove)
        evaluate(replace(watch.conditions(watch.autocast_before), attributes=None))  # which would undo these hooks
    return watch.autocast_before if seen and seen[0] == watch.autocast_inside else watch.autocast_inside
