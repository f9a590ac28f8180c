r"""Convolution with a second derivative of as few convolutions as there can be.

torch takes the second derivative by the weights as a convolution whose kernel is as large as the image, which CPU
libraries have no fast code for. It is the derivative by the weights of another convolution, and that by the input is
one, too: torch's own kernel for first derivatives gives both in one call.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_convolve = torch.ops.aten.convolution
_backward = torch.ops.aten.convolution_backward


def fused_convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor | None:
    """What ``torch.conv1d``, ``conv2d`` and ``conv3d`` give for these arguments; None where that is left to them."""
    if x.ndim != weight.ndim or isinstance(padding, str):
        return None
    moves = [[n] * (x.ndim - 2) if isinstance(n, int) else list(n) for n in (stride, padding, dilation)]
    out: Tensor = _Convolve.apply(x, weight, bias, (*moves, False, [0] * (x.ndim - 2), groups))
    return out


class _Convolve(torch.autograd.Function):
    r""":math:`y = x * w + b`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, b: Tensor | None, moves: tuple[Any, ...]) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.moves = moves
        y: Tensor = _convolve(x, w, b, *moves)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return (*_First.apply(gradients[0], *ctx.saved_tensors, ctx.moves, list(ctx.needs_input_grad[:3])), None)


class _First(torch.autograd.Function):
    """The first derivative by x, w and b, as far as it is wanted: each is linear in dy, and by x in w, by w in x."""

    @staticmethod
    def forward(ctx: Any, dy: Tensor, x: Tensor, w: Tensor, moves: tuple[Any, ...], wanted: list[bool]) -> Any:
        ctx.save_for_backward(dy, x, w)
        ctx.moves = moves
        ctx.set_materialize_grads(False)
        return _backward(dy, x, w, [w.shape[0]], *moves, wanted)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, u: Tensor | None, a: Tensor | None, b: Tensor | None) -> Any:
        r"""Derivative of :math:`\langle u, dx\rangle + \langle a, dw\rangle + \langle b, db\rangle`.

        That sum is :math:`\langle dy, u * w + x * a + b\rangle`: by dy it is the second factor, by w and x it is what
        the first derivative of a convolution of u with a would be.
        """
        dy, x, w = ctx.saved_tensors
        by_dy = None if u is None else _convolve(u, w, None, *ctx.moves)
        if a is not None:
            of_a = _convolve(x, a, None, *ctx.moves)
            by_dy = of_a if by_dy is None else by_dy.add_(of_a)
        if b is not None:
            of_b = b.view(-1, *(1,) * (x.ndim - 2))
            by_dy = of_b.expand_as(dy) if by_dy is None else by_dy.add_(of_b)
        wanted = [ctx.needs_input_grad[1] and a is not None, ctx.needs_input_grad[2] and u is not None, False]
        by_x, by_w = None, None
        if any(wanted):
            by_x, by_w, _ = _backward(dy, x if u is None else u, w if a is None else a, None, *ctx.moves, wanted)
        return by_dy, by_x, by_w, None, None
