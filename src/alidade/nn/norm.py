"""Normalization layers by name, and the paper's noisy BatchNorm (Algorithm 1)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from alidade.core.errors import CallError
from alidade.nn.lp import LpNorm

_BATCH_NORMS: dict[int, type[nn.Module]] = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


class UnitNoise(nn.Module):
    r"""Noise with moments that jump at every step (Santurkar et al. 2018, Algorithm 1, after the BatchNorm).

    For each unit :math:`j`: :math:`\mu_j \sim U(-n_\mu, n_\mu)`, :math:`\sigma_j \sim U(1, n_\sigma)`, fresh in
    every forward pass; for each sample :math:`i` (in a convolution each position is a sample):
    :math:`m_{ij} \sim U(\mu_j - r_\mu, \mu_j + r_\mu)`, :math:`s_{ij} \sim N(\sigma_j, r_\sigma)` and
    :math:`a_{ij} \leftarrow s_{ij} a_{ij} + m_{ij}`. The paper does not say whether :math:`r_\sigma` is a standard
    deviation or a variance, nor whether the noise stays on at test time: here it is a standard deviation, and
    the noise is off in eval mode.

    Shapes: (batch, features, ...) in and out.
    """

    def __init__(
        self,
        features: int,
        mean_range: float = 0.5,
        scale_limit: float = 1.25,
        mean_spread: float = 0.1,
        scale_spread: float = 0.1,
    ) -> None:
        super().__init__()
        self.features = features
        self.mean_range, self.scale_limit = mean_range, scale_limit
        self.mean_spread, self.scale_spread = mean_spread, scale_spread

    def forward(self, a: Tensor) -> Tensor:
        """Scale and shift every activation at random; the identity in eval mode."""
        if not self.training:
            return a
        per_unit = (1, self.features, *(1,) * (a.ndim - 2))
        mean = a.new_empty(per_unit).uniform_(-self.mean_range, self.mean_range)
        scale = a.new_empty(per_unit).uniform_(1.0, self.scale_limit)
        shifts = torch.empty_like(a).uniform_(-self.mean_spread, self.mean_spread) + mean
        factors = torch.empty_like(a).normal_(0.0, self.scale_spread) + scale
        return factors * a + shifts

    def extra_repr(self) -> str:
        """The constants of Algorithm 1."""
        return f"{self.features}, n_mu={self.mean_range}, n_sigma={self.scale_limit}, r_mu={self.mean_spread}"


class NoisyBatchNorm(nn.Sequential):
    """Batch normalization with its affine map, then :class:`UnitNoise`: the paper's Algorithm 1.

    ``dims`` chooses among ``nn.BatchNorm1d``, ``nn.BatchNorm2d`` and ``nn.BatchNorm3d``.
    """

    def __init__(self, features: int, dims: int = 2) -> None:
        super().__init__(norm("batch", features, dims), UnitNoise(features))


class GroupRMSNorm(nn.GroupNorm):
    r"""Each sample divided by the root of its mean square over channels and positions, times a gain per channel.

    :math:`z = \gamma y / \sqrt{\frac1n \sum y^2 + \epsilon}` (Zhang & Sennrich 2019) for images: a
    ``nn.GroupNorm`` with one group, without centring and without shift. Shapes: (batch, features, ...) in and out.
    """

    def __init__(self, features: int, eps: float = 1e-5) -> None:
        super().__init__(1, features, eps)
        self.register_parameter("bias", None)

    def forward(self, input: Tensor) -> Tensor:
        """Scale every sample."""
        square = input.square().mean(tuple(range(1, input.ndim)), keepdim=True)
        gain = self.weight.view(1, -1, *(1,) * (input.ndim - 2))
        return input * (square + self.eps).rsqrt() * gain


def groups_of(features: int) -> int:
    """Number of groups of "group": the most that divide the channels, at most 32, with two channels or more in each.

    Wu & He (2018) use 32. A group of one channel would be instance normalization.

    >>> [groups_of(features) for features in (512, 64, 48, 8, 7)]
    [32, 32, 24, 4, 1]
    """
    return max(groups for groups in range(1, max(1, min(32, features // 2)) + 1) if features % groups == 0)


_NORMS: dict[str, Callable[[int, int], nn.Module]] = {
    "none": lambda features, dims: nn.Identity(),
    "batch": lambda features, dims: _BATCH_NORMS[dims](features),
    "noisy": lambda features, dims: NoisyBatchNorm(features, dims),
    "noise": lambda features, dims: UnitNoise(features),
    "l1": lambda features, dims: LpNorm(1, features),
    "l2": lambda features, dims: LpNorm(2, features),
    "linf": lambda features, dims: LpNorm("inf", features),
    "layer": lambda features, dims: nn.LayerNorm(features) if dims == 1 else nn.GroupNorm(1, features),
    "group": lambda features, dims: nn.GroupNorm(groups_of(features), features),
    "rms": lambda features, dims: nn.RMSNorm(features, eps=1e-5) if dims == 1 else GroupRMSNorm(features),
}

#: Norms that subtract each unit's mean, and with it the bias of the layer before them.
CENTRING = frozenset({"batch", "noisy", "l1", "l2", "linf"})


def norm(name: str, features: int, dims: int = 2) -> nn.Module:
    """A normalization layer by name.

    ======== =======================================================================================================
    none     the identity
    batch    batch normalization (Ioffe & Szegedy 2015)
    noisy    the same with noise behind it, :class:`NoisyBatchNorm`
    noise    the noise alone, :class:`UnitNoise`: the paper's control
    l1, l2,  :class:`~alidade.nn.lp.LpNorm`
    linf
    layer    over the features of each sample; in images over channels and positions, with gain and shift per channel
    group    ``nn.GroupNorm`` with at most 32 groups, see :func:`groups_of`
    rms      as "layer", without centring and shift
    ======== =======================================================================================================

    Args:
        name: one of these.
        features: number of units (channels).
        dims: 1 for (batch, features), 2 for images, 3 for volumes, as in ``nn.BatchNorm1d`` and its kin.

    Raises:
        CallError: another name, or ``dims`` other than 1, 2, 3.

    >>> layer = norm("noisy", 3).eval()  # at test time the noise is off
    >>> round(layer(torch.full((1, 3, 2, 2), 2.0)).mean().item(), 3)
    2.0
    """
    if dims not in _BATCH_NORMS:
        raise CallError(f"dims: expected one of {sorted(_BATCH_NORMS)}, got {dims!r}")
    if name not in _NORMS:
        raise CallError(f"norm: expected one of {', '.join(map(repr, _NORMS))}, got {name!r}")
    return _NORMS[name](features, dims)
