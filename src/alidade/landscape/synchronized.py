"""Synchronized batch normalization for objectives: with a second derivative, and safe where one process fails.

torch's own layer exchanges its statistics in the middle of a forward pass, so that a process that raises there leaves
the others waiting; its gradient has no derivative, and there is none on a CPU. The stand-in meets the others
before each exchange (:mod:`alidade.landscape.ranks`), and the derivative of a sum over processes is such a sum.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from alidade.core.errors import RefusedError
from alidade.landscape.ranks import ProcessRanks, Ranks
from alidade.landscape.watch import replace_forward


def synchronize(model: nn.Module, ranks: Ranks) -> None:
    """Give every SyncBatchNorm of the model the stand-in's forward; to be called inside ``isolated``."""
    for module in model.modules():
        if isinstance(module, nn.SyncBatchNorm) and isinstance(ranks, ProcessRanks):
            replace_forward(module, _forward, ranks)


def _forward(module: nn.SyncBatchNorm, original: Callable[..., Any], ranks: ProcessRanks, x: Tensor) -> Tensor:
    r""":math:`y = w (x - \mu) / \sqrt{\sigma^2 + \epsilon} + b` with the moments of all processes' inputs."""
    if not module.training:  # then it does not synchronize
        found: Tensor = original(x)
        return found
    group = _group(module, ranks)
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    axes = (0, *range(2, x.ndim))
    count = wide.new_tensor([x.numel() // x.shape[1]])
    total = _sum(torch.cat([wide.sum(axes), count]), ranks, group)
    shape, samples = (1, -1, *(1,) * (x.ndim - 2)), total[-1]
    centered = wide - (total[:-1] / samples).view(shape)
    variance = _sum(centered.square().sum(axes), ranks, group) / samples
    y = centered * (variance + module.eps).rsqrt().view(shape)
    if module.weight is not None:
        y = y * module.weight.view(shape) + module.bias.view(shape)
    return y.to(x.dtype)


class _Sum(torch.autograd.Function):
    """The sum over processes; a small change in one of them changes the sum of all losses through all of them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, ranks: ProcessRanks, group: Any) -> Tensor:
        ctx.ranks, ctx.group = ranks, group
        return ranks.summed(x, group)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return _sum(gradients[0].contiguous(), ctx.ranks, ctx.group), None, None


def _sum(x: Tensor, ranks: ProcessRanks, group: Any) -> Tensor:
    found: Tensor = _Sum.apply(x, ranks, group)
    return found


def _group(module: nn.SyncBatchNorm, ranks: ProcessRanks) -> Any:
    group = module.process_group or dist.group.WORLD
    if not set(dist.get_process_group_ranks(group)) <= set(dist.get_process_group_ranks(ranks.group)):
        raise RefusedError(
            "SyncBatchNorm: expected statistics of processes that share the objective, got a group with others in it; "
            "wrap the model for the same process group"
        )
    return group
