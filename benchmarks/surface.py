"""A 51 x 51 loss surface beside loss-landscapes 3.0.6 (random_plane) on the same points.

Reach: at least as fast (pip install --no-deps loss-landscapes==3.0.6). The network has been trained for some steps:
at initialization random_plane divides by zero. Its directions are drawn again from the same random state and handed to
loss_surface as a pair, and the losses of both are compared. random_plane moves the network that it is given; here it
works on a deep copy, as it must in a training run.

One thread. Every round makes each surface once, in an order that turns. Two clocks: this process's CPU time, which
leaves out the time that others had the core, and the wall's; two summaries of the ratio: the median over the rounds,
and the ratio of the two least times.

    OMP_NUM_THREADS=1 python benchmarks/surface.py [ROUNDS]
"""

from __future__ import annotations

import copy
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from loss_landscapes import random_plane
from loss_landscapes.metrics import Metric
from loss_landscapes.model_interface.model_parameters import orthogonal_to, rand_u_like
from loss_landscapes.model_interface.model_wrapper import wrap_model
from side_by_side import write
from torch import Tensor, nn
from torch.nn import functional as F

import alidade

STEPS = 51
DISTANCE = 4  # of random_plane: the plane is ||theta|| / 4 wide
SEED = 7
ROUNDS = 5
CLOCKS: dict[str, Callable[[], float]] = {"cpu": time.process_time, "wall": time.perf_counter}


def loss_fn(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


class Loss(Metric):
    def __init__(self, batch: Any) -> None:
        super().__init__()
        self.batch = batch

    def __call__(self, wrapper: Any) -> float:
        with torch.no_grad():
            return float(F.cross_entropy(wrapper.forward(self.batch[0]), self.batch[1]))


def setting(norm: str) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    """A narrow VGG after some steps, and a batch of small images."""
    torch.manual_seed(0)
    model = alidade.nn.vgg(8, width=1 / 16, norm=norm)
    batch = (torch.randn(16, 3, 32, 32), torch.randint(0, 10, (16,)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(10):
        optimizer.zero_grad()
        loss_fn(model, batch).backward()
        optimizer.step()
    return model, batch


def peer(model: nn.Module, batch: Any) -> Any:
    torch.manual_seed(SEED)
    return random_plane(model, Loss(batch), distance=DISTANCE, steps=STEPS, normalization="filter", deepcopy_model=True)


def plane_of_the_peer(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor], Any]:
    """One step along each of the directions that it draws, and the coordinates of its points in these."""
    torch.manual_seed(SEED)
    wrapper = wrap_model(copy.deepcopy(model))
    start = wrapper.get_module_parameters()
    first = rand_u_like(start)
    second = orthogonal_to(first)
    directions = []
    for direction in (first, second):
        direction.filter_normalize_(start)
        direction.mul_(((start.model_norm() / DISTANCE) / STEPS) / direction.model_norm())
        directions.append(dict(zip(dict(model.named_parameters()), direction.parameters, strict=True)))
    # It adds a step along the second direction before each point of its first column, and takes one away before each
    # of the next, so that the points of the odd columns lie one step lower.
    return directions[0], directions[1], np.arange(STEPS) - STEPS / 2


def difference(ours: Any, theirs: Any) -> float:
    """Largest relative difference of the losses at the points that both have: its columns are skewed by one step."""
    even, odd = theirs[::2, :-1] - ours[::2, 1:], theirs[1::2] - ours[1::2]
    return float(max(np.abs(even / ours[::2, 1:]).max(), np.abs(odd / ours[1::2]).max()))


def measured(norm: str, rounds: int) -> dict[str, Any]:
    model, batch = setting(norm)
    first, second, at = plane_of_the_peer(model)
    extent = ((at[0], at[-1]), (at[0], at[-1]))

    def ours() -> Any:
        objective = alidade.Objective(model, loss_fn, batch)
        return alidade.loss_surface(objective, (first, second), extent=extent, points=STEPS)

    def plain() -> None:
        with torch.no_grad():
            for _ in range(STEPS**2):
                float(loss_fn(model, batch))

    twin = copy.deepcopy(model)
    work = {"alidade": ours, "loss_landscapes": lambda: peer(twin, batch), "forward": plain}
    seconds: dict[str, list[dict[str, float]]] = {name: [] for name in work}
    names = list(work)
    for _ in range(rounds):
        for name in names:
            began = {clock: read() for clock, read in CLOCKS.items()}
            work[name]()
            seconds[name].append({clock: read() - began[clock] for clock, read in CLOCKS.items()})
        names = [*names[1:], names[0]]
    return {
        "largest relative difference of the losses": difference(ours().losses, peer(twin, batch)),
        "seconds per point, alidade": min(s["cpu"] for s in seconds["alidade"]) / STEPS**2,
        "alidade / loss-landscapes": _ratio(seconds["alidade"], seconds["loss_landscapes"]),
        "alidade / plain forward passes": _ratio(seconds["alidade"], seconds["forward"]),
        "loss-landscapes / plain forward passes": _ratio(seconds["loss_landscapes"], seconds["forward"]),
    }


def _ratio(over: list[dict[str, float]], under: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    return {
        clock: {
            "median": statistics.median(a[clock] / b[clock] for a, b in zip(over, under, strict=True)),
            "of_minima": min(a[clock] for a in over) / min(b[clock] for b in under),
        }
        for clock in CLOCKS
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    rounds = int(sys.argv[1]) if sys.argv[1:] else ROUNDS
    results = {norm: measured(norm, rounds) for norm in ("none", "batch")}
    write(__file__, {"points": [STEPS, STEPS], "rounds": rounds, **results})
