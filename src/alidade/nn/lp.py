"""Normalization by the l1, l2 or l-infinity norm: what the paper sets beside BatchNorm in section 3.3."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from alidade.core.errors import CallError

_ORDERS: dict[float | str, float] = {1: 1.0, 2: 2.0, math.inf: math.inf, "inf": math.inf}


class LpNorm(nn.Module):
    r"""Centres every unit and divides by the average lp norm that it had before (Santurkar et al. 2018, section 3.3).

    For each unit over its m samples :math:`y` (in a convolution each position is a sample):

    .. math::
        z = \gamma \frac{y - \mu}{\sqrt{s_p^2 + \epsilon}} + \beta, \qquad
        \mu = \frac1m \sum_i y_i, \quad s_1 = \frac1m \sum_i |y_i|, \quad s_2 = \Bigl(\frac1m \sum_i y_i^2\Bigr)^{1/2},
        \quad s_\infty = \max_i |y_i|

    The paper gives no formula and no eps. Here eps stands where BatchNorm has it, so that the three norms have the
    same floor: a unit that is 0 on the whole batch comes out as :math:`\beta` with gradient 0. A unit that is
    constant comes out as :math:`\beta` too. Unlike BatchNorm's, this scale depends on the mean.

    With :math:`g = \partial L / \partial z`, :math:`s = \sqrt{s_p^2 + \epsilon}` and :math:`c = (y - \mu) / s`:

    .. math::
        \frac{\partial L}{\partial y} = \frac{\gamma}{s} \Bigl[ g - \frac1m \textstyle\sum_i g_i
        - \langle c, g \rangle \frac{\partial s}{\partial y} \Bigr], \qquad
        \frac{\partial s}{\partial y} = \frac{s_p}{s} \cdot
        \Bigl( \frac{\operatorname{sign} y}{m}, \; \frac{y}{m s_2}, \; \operatorname{sign} y \text{ at the largest } |y|
        \Bigr)

    Where several samples share the maximum it is the first of them.

    In train mode the layer keeps running averages of :math:`\mu` and :math:`s_p` (``running_mean``,
    ``running_scale``; new = (1 - momentum) old + momentum batch, as in BatchNorm), and eval mode uses them.

    Args:
        p: 1, 2 or infinity (``math.inf`` or "inf").
        features: number of units (channels).
        eps: as above.
        momentum: of the running averages.

    Shapes: (batch, features, ...) in and out.

    Raises:
        CallError: another p; an input of another shape; in train mode a single sample per unit, which would be 0
            whatever it was.

    >>> layer = LpNorm(1, features=1, eps=0.0).double()
    >>> layer(torch.tensor([[0.0], [1.0], [5.0]]).double()).flatten().tolist()  # mean 2, s_1 = 2
    [-1.0, -0.5, 1.5]
    >>> round(float(layer.running_mean), 3), round(float(layer.running_scale), 3)
    (0.2, 1.1)
    """

    running_mean: Tensor
    running_scale: Tensor
    num_batches_tracked: Tensor

    def __init__(self, p: float | str, features: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        if p not in _ORDERS:
            raise CallError(f"p: expected 1, 2 or 'inf', got {p!r}")
        self.p, self.features, self.eps, self.momentum = _ORDERS[p], features, eps, momentum
        self.weight, self.bias = nn.Parameter(torch.ones(features)), nn.Parameter(torch.zeros(features))
        self.register_buffer("running_mean", torch.zeros(features))
        self.register_buffer("running_scale", torch.ones(features))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, y: Tensor) -> Tensor:
        """Normalized by the batch in train mode, by the running averages in eval mode."""
        if y.ndim < 2 or y.shape[1] != self.features:
            raise CallError(f"y: expected shape (batch, {self.features}, ...), got {tuple(y.shape)}")
        per_unit = (1, self.features, *(1,) * (y.ndim - 2))
        if self.training:
            mean, square = self._moments(y)
        else:
            mean, square = self.running_mean.view(per_unit), self.running_scale.square().view(per_unit)
        gain = self.weight.view(per_unit) * (square + self.eps).rsqrt()
        return torch.addcmul(self.bias.view(per_unit), y - mean, gain)

    def _moments(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and squared scale of this batch, which the running averages take up."""
        if y.numel() <= self.features:
            raise CallError(f"y: expected more than one sample per unit in train mode, got shape {tuple(y.shape)}")
        samples = (0, *range(2, y.ndim))
        per_unit, m = (1, self.features, *(1,) * (y.ndim - 2)), y.numel() // self.features
        mean = y.sum(samples, keepdim=True) / m  # of a mean, the backward pass would divide every sample
        if self.p == 2:  # without a root, whose derivative is infinite at 0
            square = y.square().sum(samples, keepdim=True) / m
        elif self.p == 1:
            square = (y.abs().sum(samples, keepdim=True) / m).square()
        else:
            by_unit = y.transpose(0, 1).flatten(1)
            square = by_unit.gather(1, by_unit.abs().argmax(1, keepdim=True)).square().view(per_unit)
        with torch.no_grad():
            self.running_mean.lerp_(mean.flatten(), self.momentum)
            self.running_scale.lerp_(square.sqrt().flatten(), self.momentum)
            self.num_batches_tracked += 1
        return mean, square

    def extra_repr(self) -> str:
        """As in BatchNorm."""
        return f"{self.p:g}, {self.features}, eps={self.eps}, momentum={self.momentum}"
