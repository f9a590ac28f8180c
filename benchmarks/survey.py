"""What a survey costs: its share of the time under a budget, and an idle one per step.

Reach: with budget b the cumulative overhead is at most 1.1 b from step 2,000 on, on three models; an idle survey
costs under 50 microseconds a step.

    OMP_NUM_THREADS=1 python benchmarks/survey.py
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
from side_by_side import write
from torch import Tensor, nn
from torch.nn import functional as F

import alidade
from alidade.core.schedule import First

STEPS = 4000
BUDGET = 0.05
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def loss_fn(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def _perceptron() -> tuple[nn.Module, Tensor]:
    layers = [nn.Linear(128, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)]
    return nn.Sequential(*layers), torch.randn(256, 128)


def _vgg() -> tuple[nn.Module, Tensor]:
    return alidade.nn.vgg(8, width=1 / 32, norm="batch"), torch.randn(8, 3, 32, 32)


def _attention() -> tuple[nn.Module, Tensor]:
    layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.1, batch_first=True)
    return nn.Sequential(layer, nn.Flatten(), nn.Linear(32 * 16, 10)), torch.randn(16, 16, 32)


MODELS: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "perceptron": _perceptron, "vgg": _vgg, "attention": _attention,
}  # fmt: skip


def _loop(build: Callable[[], tuple[nn.Module, Tensor]], steps: int, make: Callable[..., Any]) -> list[float]:
    """Overhead after each step, as a share of the training's own seconds."""
    torch.manual_seed(0)
    model, x = build()
    model, batch = model.to(DEVICE), (x.to(DEVICE), torch.randint(0, 10, (len(x),), device=DEVICE))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    survey, shares = make(model, optimizer), []
    for _ in range(steps):
        survey.observe(batch)
        optimizer.zero_grad()
        loss_fn(model, batch).backward()
        optimizer.step()
        shares.append(survey.overhead)
    survey.close()
    return shares


def _under_budget(build: Callable[[], tuple[nn.Module, Tensor]]) -> dict[str, float]:
    def make(model: nn.Module, optimizer: torch.optim.Optimizer) -> alidade.Survey:
        return alidade.Survey(model, loss_fn, optimizer, tempfile.mkdtemp(), budget=BUDGET)

    shares = _loop(build, STEPS, make)
    return {"largest share from step 2000 on": max(shares[2000:]), "share at the end": shares[-1]}


def _idle_microseconds() -> dict[str, float]:
    """The difference between a step with and without a survey whose schedule is over, in turn."""
    model, optimizer = nn.Linear(1, 1), None
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    model.weight.grad = torch.zeros_like(model.weight)
    survey = alidade.Survey(model, loss_fn, optimizer, tempfile.mkdtemp(), ["gradient_profile"], First(count=0))
    handles = (optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks)
    saved = [dict(hooks) for hooks in handles]
    batch, differences = torch.ones(1, 1), []
    for _ in range(200):
        seconds = []
        for hooked in (True, False):
            for hooks, kept in zip(handles, saved, strict=True):
                hooks.clear()
                hooks.update(kept if hooked else {})
            began = time.perf_counter()
            for _ in range(50):
                if hooked:
                    survey.observe(batch)
                optimizer.step()
            seconds.append((time.perf_counter() - began) / 50)
        differences.append(1e6 * (seconds[0] - seconds[1]))
    return {"median": statistics.median(differences), "max": max(differences)}


if __name__ == "__main__":
    budgeted = {name: _under_budget(build) for name, build in MODELS.items()}
    write(__file__, {"budget": BUDGET, "steps": STEPS, "idle_microseconds": _idle_microseconds(), **budgeted})
