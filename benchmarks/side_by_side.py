"""Times two or more pieces of work in turn, A B A B ..., so that a noisy machine slows them alike."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from alidade.probes.environment import environment


def interleaved(work: Mapping[str, Callable[[], Any]], rounds: int = 9) -> dict[str, list[float]]:
    """Seconds of each piece of work in each round, after one round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for round_ in range(rounds + 1):
        for name, run in work.items():
            _synchronize()
            began = time.perf_counter()
            run()
            _synchronize()
            if round_:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def ratio(seconds: Mapping[str, list[float]], over: str, under: str, factor: float = 1.0) -> dict[str, float]:
    """Minimum, median and maximum over the rounds of seconds[over] / (factor * seconds[under])."""
    ratios = [a / (factor * b) for a, b in zip(seconds[over], seconds[under], strict=True)]
    return {"min": min(ratios), "median": statistics.median(ratios), "max": max(ratios)}


def write(script: str, results: Mapping[str, Any]) -> None:
    """Write the results with the environment beside the script, and print them."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    path = Path(script).with_suffix(".cuda.json" if device == "cuda" else ".json")
    path.write_text(json.dumps({"environment": environment(device), **results}, indent=1) + "\n")
    print(json.dumps(results, indent=1))


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
