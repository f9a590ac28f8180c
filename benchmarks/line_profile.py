"""Cost of line_profile against plain passes, on a narrow VGG-11 at batch 128.

Reach: with gradients at most 1.05 x (K + 1) x one plain forward and backward pass; losses only at most
1.05 x (K + 1) forward passes, and no slower than loss-landscapes 3.0.6 on the same points, where it is installed
(pip install --no-deps loss-landscapes==3.0.6). Memory: peak above plain training, in copies of the parameters,
measured on a network that is nearly all parameters.

Pass by pass, a plain pass over a copy of the network is run and timed just before each pass of the work
that is measured, and taken out of its time: what slows the machine slows both. Two summaries over the rounds: the
median of the ratio within a round, and the ratio of the least times. Each in this process's CPU time, which leaves out
the time that others had the core, and by the clock on the wall. Rounds are spread over processes: in each the heap lies
otherwise, and memory that is given back and fetched anew costs a pass, plain or not, up to 5 % (the page faults).

    OMP_NUM_THREADS=1 python benchmarks/line_profile.py [PROCESSES]    (2: line_profile.two-threads.json)
"""

from __future__ import annotations

import copy
import gc
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from side_by_side import write
from torch import Tensor, nn
from torch.nn import functional as F

import alidade

K = 40
PROCESSES, ROUNDS = 7, 2
CLOCKS: dict[str, Callable[[], float]] = {"cpu": time.process_time, "wall": time.perf_counter}
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def loss_fn(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def _setting(norm: str) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    torch.manual_seed(0)
    model = alidade.nn.vgg(8, width=0.125, norm=norm).to(DEVICE)
    return model, (torch.randn(128, 3, 32, 32, device=DEVICE), torch.randint(0, 10, (128,), device=DEVICE))


class _Passes:
    """A loss function, and plain passes in turn with its calls; seconds by clock."""

    def __init__(self, model: nn.Module, batch: Any, backward: bool) -> None:
        self._model, self._batch, self._backward = copy.deepcopy(model), batch, backward
        self.calls, self.plain = 0, dict.fromkeys(CLOCKS, 0.0)

    def __call__(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        began = _now()
        with torch.set_grad_enabled(self._backward):
            self._model.zero_grad()
            loss = loss_fn(self._model, self._batch)
            loss.backward() if self._backward else float(loss)
            del loss
        self.plain = {clock: self.plain[clock] + now - began[clock] for clock, now in _now().items()}
        self.calls += 1
        return loss_fn(model, batch)


def _now() -> dict[str, float]:
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return {clock: read() for clock, read in CLOCKS.items()}


Work = Callable[[Callable[[nn.Module, Any], Tensor]], Any]
Seconds = dict[str, float]


def _measured(work: Work, passes: _Passes) -> tuple[Seconds, Seconds]:
    """Seconds of the work without the plain passes, and of K + 1 of these."""
    began = _now()
    work(passes)
    taken = {clock: now - began[clock] - passes.plain[clock] for clock, now in _now().items()}
    return taken, {clock: seconds * (K + 1) / passes.calls for clock, seconds in passes.plain.items()}


def _loss_landscapes(model: nn.Module, batch: Any, direction: dict[str, Tensor], step_sizes: list[float]) -> Any:
    """The same points through loss-landscapes' linear interpolation, or None where it is not installed."""
    try:
        from loss_landscapes import linear_interpolation
        from loss_landscapes.metrics import Metric
    except ImportError:
        return None

    class Loss(Metric):
        def __init__(self, loss: Callable[[nn.Module, Any], Tensor]) -> None:
            self.loss = loss

        def __call__(self, wrapper: Any) -> float:
            with torch.no_grad():
                return float(self.loss(wrapper.forward, batch))

    start, end = copy.deepcopy(model), copy.deepcopy(model)  # it switches requires_grad off on what it is given
    with torch.no_grad():
        for name, parameter in end.named_parameters():
            parameter -= step_sizes[-1] * direction[name]
    # copies: it moves the first network that it is given, and would find it at the end of the line in the next round
    return lambda loss: linear_interpolation(start, end, Loss(loss), steps=len(step_sizes) + 1, deepcopy_model=True)


def _works(model: nn.Module, batch: Any) -> dict[str, Work]:
    # short steps: far away activations die or underflow, and the passes there cost something else than those here
    step_sizes = [0.01 * (k + 1) / K for k in range(K)]
    direction = alidade.Objective(model, loss_fn, batch).gradient()

    def losses(check: bool) -> Work:
        return lambda loss: alidade.line_profile(
            alidade.Objective(model, loss, batch, check_deterministic=check),
            step_sizes, direction=direction, gradients=False,
        )  # fmt: skip

    works: dict[str, Work] = {
        "profile": lambda loss: alidade.line_profile(alidade.Objective(model, loss, batch), step_sizes),
        "losses": losses(True),
        "losses, determinism check off": losses(False),
        "loss-landscapes": _loss_landscapes(model, batch, direction, step_sizes),
    }
    return {name: work for name, work in works.items() if work is not None}


Pairs = dict[str, list[tuple[Seconds, Seconds]]]


def _pairs(norm: str) -> Pairs:
    """Each work's seconds, and those of K + 1 plain passes: forward and backward for the profile; K + 1 points each."""
    model, batch = _setting(norm)
    works = _works(model, batch)
    pairs: Pairs = {name: [] for name in works}
    for round_ in range(ROUNDS + 1):  # the first does not count
        for name, work in works.items():
            pair = _measured(work, _Passes(model, batch, backward=name == "profile"))
            pairs[name] += [pair] if round_ else []
    return pairs


def _times(norm: str, processes: int) -> dict[str, Any]:
    """Each work in plain passes, over the rounds of all processes."""
    found = [json.loads(_fresh(norm)) for _ in range(processes)]
    summaries = {name: _summary([pair for pairs in found for pair in pairs[name]]) for name in found[0]}
    if "loss-landscapes" in summaries:
        ours, theirs = summaries["losses, determinism check off"], summaries["loss-landscapes"]
        summaries["losses, determinism check off / loss-landscapes"] = {
            clock: {kind: ours[clock][kind] / theirs[clock][kind] for kind in ours[clock]} for clock in CLOCKS
        }
    return summaries


def _fresh(argument: str) -> str:
    """What this script prints for an argument, in a process of its own."""
    return subprocess.run([sys.executable, __file__, argument], capture_output=True, text=True, check=True).stdout


def _summary(pairs: list[tuple[Seconds, Seconds]]) -> dict[str, dict[str, float]]:
    return {
        clock: {
            "median": statistics.median(taken[clock] / plain[clock] for taken, plain in pairs),
            "of_minima": min(taken[clock] for taken, _ in pairs) / min(plain[clock] for _, plain in pairs),
        }
        for clock in CLOCKS
    }


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
    peaks = {name: float(_fresh(name)) for name in ("plain", "profiled")}
    return peaks | {"difference": peaks["profiled"] - peaks["plain"]}


def _main(processes: int) -> None:
    times = {norm: _times(norm, processes) for norm in ("none", "batch")}
    name = Path(__file__).with_suffix(".py" if torch.get_num_threads() == 1 else ".two-threads.py")
    write(str(name), {"K": K, "processes": processes, "rounds of each": ROUNDS, **times, "memory_copies": _memory()})


if __name__ == "__main__":
    argument = sys.argv[1] if sys.argv[1:] else str(PROCESSES)
    if argument in ("none", "batch"):
        print(json.dumps(_pairs(argument)))
    elif argument in ("plain", "profiled"):
        print(_peak_in_copies(argument == "profiled"))
    else:
        _main(int(argument))
