"""What a user may hand over as loss and batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from alidade.core.errors import CallError

LossFunction = Callable[[nn.Module, Any], Tensor]


def as_loss_function(loss_fn: Any) -> LossFunction:
    """``loss_fn(model, batch)`` from such a function or from a pair (forward, criterion)."""
    if callable(loss_fn):
        return loss_fn  # type: ignore[no-any-return]
    if isinstance(loss_fn, tuple | list) and len(loss_fn) == 2 and all(map(callable, loss_fn)):
        forward, criterion = loss_fn
        return lambda model, batch: criterion(forward(model, batch), batch)
    raise CallError(
        "loss_fn: expected loss_fn(model, batch) -> scalar Tensor or a pair (forward, criterion), "
        f"got {type(loss_fn).__name__}"
    )


def as_scalar(loss: Any) -> Tensor:
    """The loss as a 0-dimensional Tensor, or a CallError that says what came."""
    if not isinstance(loss, Tensor):
        raise CallError(f"loss_fn: expected a scalar Tensor, got {type(loss).__name__}")
    if loss.numel() != 1:
        raise CallError(f"loss_fn: expected a scalar Tensor, got shape {tuple(loss.shape)}; take its mean or sum")
    return loss.reshape(())


def first_tensor(batch: Any) -> Tensor | None:
    """The first tensor in a batch of any nesting of mappings and sequences."""
    if isinstance(batch, Tensor):
        return batch
    parts: Sequence[Any] = list(batch.values()) if isinstance(batch, Mapping) else ()
    if isinstance(batch, list | tuple):
        parts = batch
    return next((found for part in parts if (found := first_tensor(part)) is not None), None)
