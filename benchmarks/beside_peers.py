"""What the benchmarks beside other programs share: clocks, and one network that all of them can differentiate."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import alidade
from alidade.data.embedded import digits

Batch = tuple[Tensor, Tensor]
CLOCKS: dict[str, Callable[[], float]] = {"cpu": time.process_time, "wall": time.perf_counter}


def clocked(work: Callable[..., Any], *args: Any) -> tuple[Any, dict[str, float]]:
    """What the work gives, and its seconds: of this process's CPU time, which leaves others' out, and of the wall."""
    began = {clock: read() for clock, read in CLOCKS.items()}
    found = work(*args)
    return found, {clock: read() - began[clock] for clock, read in CLOCKS.items()}


def ratios(over: list[dict[str, float]], under: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """By clock the median over the rounds of over / under, its smallest and largest value, and that of the minima."""
    found = {}
    for clock in CLOCKS:
        each = [a[clock] / b[clock] for a, b in zip(over, under, strict=True)]
        of_minima = min(a[clock] for a in over) / min(b[clock] for b in under)
        found[clock] = {
            "median": statistics.median(each), "min": min(each), "max": max(each), "of_minima": of_minima,
        }  # fmt: skip
    return found


class PlainBatchNorm(nn.Module):
    """Batch normalization with batch statistics from elementary operations, which every program can differentiate."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(features)), nn.Parameter(torch.zeros(features))

    def forward(self, x: Tensor) -> Tensor:
        over = [0, *range(2, x.ndim)]
        variance, mean = torch.var_mean(x, over, correction=0, keepdim=True)
        shape = (1, -1, *(1,) * (x.ndim - 2))
        return (x - mean) * torch.rsqrt(variance + 1e-5) * self.weight.view(shape) + self.bias.view(shape)


def with_norms(model: nn.Module, kind: Callable[..., nn.Module]) -> nn.Module:
    """A copy in which each BatchNorm2d is of this kind, without running statistics: all of them the same function."""
    twin = copy.deepcopy(model)
    for parent in list(twin.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                options = {"track_running_stats": False} if kind is nn.BatchNorm2d else {}
                new = kind(child.num_features, **options)
                new.load_state_dict({key: getattr(child, key) for key in ("weight", "bias")})
                setattr(parent, name, new)
    return twin


def trained_vgg(norm: str, width: float = 1 / 8, examples: int = 128, steps: int = 40) -> tuple[nn.Module, Batch]:
    """A narrow VGG after some steps on the digits, and a batch of them."""
    torch.manual_seed(0)
    data = digits()
    model = alidade.nn.vgg(8, width=width, norm=norm, in_channels=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    batches = [(data.train_images[i::11][:examples], data.train_labels[i::11][:examples]) for i in range(11)]
    for step in range(steps):
        images, labels = batches[1 + step % 10]
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
    optimizer.zero_grad()
    return model, batches[0]
