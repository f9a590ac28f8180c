r"""Batch normalization with a second derivative in few passes over memory.

torch takes the second derivative of batch normalization apart into some forty elementwise operations; in a narrow
network on a CPU these cost more than all convolutions together. Here the reductions go through torch's own fused
backward kernel, and the rest is one linear combination per channel. The forward pass and the first derivative are
torch's own kernels, to the last bit.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_backward = torch.ops.aten.native_batch_norm_backward


def fused_batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor | None:
    """What ``F.batch_norm`` gives for these arguments; None where that is left to it."""
    if not training or x.ndim < 2 or x.numel() <= x.shape[1] or not x.is_contiguous():
        return None
    out: Tensor = _Normalize.apply(x, weight, bias, running_mean, running_var, momentum, eps)
    return out


def _per_channel(values: Tensor, like: Tensor) -> Tensor:
    return values.view(1, -1, *(1,) * (like.ndim - 2))


class _Normalize(torch.autograd.Function):
    r""":math:`y = w \hat x + b` with :math:`\hat x = r (x - \mu)` and :math:`r = (\sigma^2 + \epsilon)^{-1/2}`."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, w: Tensor | None, b: Tensor | None, mean: Any, var: Any, momentum: float, eps: float
    ) -> Tensor:
        y, batch_mean, r = torch.native_batch_norm(x, w, b, mean, var, True, momentum, eps)
        ctx.save_for_backward(x, w, batch_mean, r)
        ctx.eps, ctx.shifted = eps, b is not None
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x, w, mean, r = ctx.saved_tensors
        dx, dw, db = _First.apply(gradients[0].contiguous(), x, w, mean, r, ctx.eps)
        return dx, dw, db if ctx.shifted else None, None, None, None, None


class _First(torch.autograd.Function):
    r"""The first derivative :math:`dx = w r P(dy)`, :math:`dw = \sum dy\,\hat x`, :math:`db = \sum dy`.

    :math:`P(z) = z - \overline z - \hat x\,\overline{z \hat x}` with means over all but the channels.
    """

    @staticmethod
    def forward(ctx: Any, dy: Tensor, x: Tensor, w: Tensor | None, mean: Tensor, r: Tensor, eps: float) -> Any:
        dx, dw, db = _backward(dy, x, w, None, None, mean, r, True, eps, [True, True, True])
        ctx.save_for_backward(dy, x, w, mean, r, dw, db)
        ctx.eps = eps
        # Without an affine map these are sums that nothing downstream asks for; the graph has no place for them.
        return (dx, dw, db) if w is not None else (dx, None, None)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, u: Tensor, a: Tensor | None, b: Tensor | None) -> Any:
        r"""Derivative of :math:`\langle u, dx\rangle + \langle a, dw\rangle + \langle b, db\rangle`.

        With :math:`S = \langle u, P(dy)\rangle` and :math:`q = (a - w r\,\overline{u \hat x})\,dy - w r\,
        \overline{dy\,\hat x}\,u` per channel: by dy :math:`w r P(u) + a \hat x + b`, by x
        :math:`r P(q) - w S r^2 \hat x / n`, by w :math:`r S`.
        """
        dy, x, w, mean, r, dw, db = ctx.saved_tensors
        n, u = x.numel() // x.shape[1], u.contiguous()
        by_dy, u_x, u_sum = _backward(u, x, w, None, None, mean, r, True, ctx.eps, [True, True, True])
        zero, one = torch.zeros_like(mean), torch.ones_like(mean)
        u_dy = _backward(u, dy, one, None, None, zero, one, True, 0.0, [False, True, False])[1]
        scale = one if w is None else w
        inner = u_dy - u_sum * db / n - dw * u_x / n  # S
        on_dy, on_u = -scale * r * u_x / n, -scale * r * dw / n
        if a is not None:
            on_dy = on_dy + a
            by_dy.addcmul_(x, _per_channel(a * r, x)).add_(_per_channel((b if b is not None else 0) - a * r * mean, x))
        q_mean, q_x = (on_dy * db + on_u * u_sum) / n, (on_dy * dw + on_u * u_x) / n
        on_x = -(r * q_x + scale * inner * r.square() / n) * r
        by_x = dy * _per_channel(r * on_dy, x)
        by_x.addcmul_(u, _per_channel(r * on_u, x)).addcmul_(x, _per_channel(on_x, x))
        by_x.add_(_per_channel(-r * q_mean - on_x * mean, x))
        return by_dy, by_x, None if w is None else r * inner, None, None, None
