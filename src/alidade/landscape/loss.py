"""What a user may hand over as loss and batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from alidade.core.errors import CallError, RefusedError

LossFunction = Callable[[nn.Module, Any], Tensor]


def as_loss_function(loss_fn: Any) -> LossFunction:
    """``loss_fn(model, batch)`` from such a function or from a pair (forward, criterion)."""
    if isinstance(loss_fn, nn.modules.loss._Loss):
        raise CallError(
            f"loss_fn: expected loss_fn(model, batch) -> scalar Tensor, got the criterion {type(loss_fn).__name__}; "
            "use a function that calls the model on the batch's inputs and the criterion on its output"
        )
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
        hint = "; return its .loss" if isinstance(getattr(loss, "loss", None), Tensor) else ""
        raise CallError(f"loss_fn: expected a scalar Tensor, got {type(loss).__name__}{hint}")
    if loss.numel() != 1:
        raise CallError(f"loss_fn: expected a scalar Tensor, got shape {tuple(loss.shape)}; take its mean or sum")
    if loss.is_complex():
        raise CallError(f"loss_fn: expected a real loss, got {str(loss.dtype)[6:]}; take its real part")
    return loss.reshape(())


def require_same(first: Tensor, second: Tensor, dtype: str) -> None:
    """Refuse two losses at the same parameters that differ by more than rounding in the precision ``dtype``.

    Sums on a GPU may be reordered, and a pass without gradients may use other kernels: that is rounding.

    Raises:
        RefusedError: they differ.
    """
    tolerance = 1e2 * torch.finfo(getattr(torch, dtype, torch.float32)).eps
    if not torch.isclose(first, second, rtol=tolerance, atol=0, equal_nan=True):
        raise RefusedError(
            f"objective: expected the same loss twice at the same parameters, got {float(first)!r} and "
            f"{float(second)!r}; the model or loss_fn keeps state or draws from a generator of its own"
        )
