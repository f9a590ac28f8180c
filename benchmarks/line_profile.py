"""Cost of line_profile against plain passes, on a narrow VGG-11 at batch 128.

Reach: with gradients at most 1.05 x (K + 1) x one plain forward and backward pass; losses only at most
1.05 x (K + 1) forward passes, and no slower than loss-landscapes 3.0.6 on the same points, where it is installed
(pip install --no-deps loss-landscapes==3.0.6). Memory: peak above plain training, in copies of the parameters,
measured on a network that is nearly all parameters.

    OMP_NUM_THREADS=1 python benchmarks/line_profile.py
"""

from __future__ import annotations

import gc
import resource
import subprocess
import sys
from typing import Any

import torch
from side_by_side import interleaved, ratio, write
from torch import Tensor, nn
from torch.nn import functional as F

import alidade

K = 40
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def loss_fn(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def _setting(norm: str) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    torch.manual_seed(0)
    model = alidade.nn.vgg(8, width=0.125, norm=norm).to(DEVICE)
    return model, (torch.randn(128, 3, 32, 32, device=DEVICE), torch.randint(0, 10, (128,), device=DEVICE))


def _plain_step(model: nn.Module, batch: Any) -> None:
    model.zero_grad()
    loss_fn(model, batch).backward()


def _plain_forward(model: nn.Module, batch: Any) -> None:
    with torch.no_grad():
        float(loss_fn(model, batch))


def _loss_landscapes(model: nn.Module, batch: Any, direction: dict[str, Tensor], step_sizes: list[float]) -> Any:
    """The same points through loss-landscapes' linear interpolation, or None where it is not installed."""
    try:
        from loss_landscapes import linear_interpolation
        from loss_landscapes.metrics import Metric
    except ImportError:
        return None
    import copy

    class Loss(Metric):
        def __call__(self, wrapper: Any) -> float:
            with torch.no_grad():
                return float(F.cross_entropy(wrapper.forward(batch[0]), batch[1]))

    start, end = copy.deepcopy(model), copy.deepcopy(model)  # it switches requires_grad off on what it is given
    with torch.no_grad():
        for name, parameter in end.named_parameters():
            parameter -= step_sizes[-1] * direction[name]
    return lambda: linear_interpolation(start, end, Loss(), steps=len(step_sizes) + 1, deepcopy_model=False)


def _times(norm: str) -> dict[str, Any]:
    model, batch = _setting(norm)
    # short steps: far away activations die or underflow, and the passes there cost something else than those here
    step_sizes = [0.01 * (k + 1) / K for k in range(K)]
    direction = alidade.Objective(model, loss_fn, batch).gradient()
    objective = alidade.Objective(model, loss_fn, batch, check_deterministic=False)  # as many passes as the peer
    work = {
        "unchecked": lambda: alidade.line_profile(objective, step_sizes, direction=direction, gradients=False),
        "profile": lambda: alidade.line_profile(alidade.Objective(model, loss_fn, batch), step_sizes),
        "forward_backward": lambda: [_plain_step(model, batch) for _ in range(K + 1)],
        "losses": lambda: alidade.line_profile(
            alidade.Objective(model, loss_fn, batch), step_sizes, direction=direction, gradients=False
        ),
        "forward": lambda: [_plain_forward(model, batch) for _ in range(K + 1)],
    }
    if peer := _loss_landscapes(model, batch, direction, step_sizes):
        work["loss_landscapes"] = peer
    seconds = interleaved(work)
    ratios = {
        "profile / (K+1) forward+backward": ratio(seconds, "profile", "forward_backward"),
        "losses only / (K+1) forward": ratio(seconds, "losses", "forward"),
    }
    if peer:
        ratios["losses only, determinism check off / loss-landscapes, K + 1 points each"] = ratio(
            seconds, "unchecked", "loss_landscapes"
        )
    return ratios


def _peak_in_copies(profiled: bool) -> float:
    """Peak resident memory of a fresh process, in units of the parameters' size."""
    size = 6000
    model = nn.Sequential(nn.Linear(size, size, bias=False), nn.Linear(size, 1, bias=False))
    batch = torch.randn(4, size)

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        return model(batch).square().mean()

    if profiled:
        alidade.line_profile(alidade.Objective(model, loss, batch), [0.01, 0.1, 0.2])
    else:
        loss(model, batch).backward()
    gc.collect()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / (4 * size * (size + 1))


def _memory() -> dict[str, float]:
    peaks = {
        name: float(subprocess.run([sys.executable, __file__, name], capture_output=True, text=True, check=True).stdout)
        for name in ("plain", "profiled")
    }
    return peaks | {"difference": peaks["profiled"] - peaks["plain"]}


if __name__ == "__main__":
    if sys.argv[1:]:
        print(_peak_in_copies(sys.argv[1] == "profiled"))
    else:
        write(__file__, {"K": K, **{norm: _times(norm) for norm in ("none", "batch")}, "memory_copies": _memory()})
