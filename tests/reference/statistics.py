"""Naive twins of the statistics of claims: plain Python, one loop per sentence of the definition."""

from __future__ import annotations

import math
from collections.abc import Sequence


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm 1979: the i-th smallest of m p-values, times (m - i + 1), at most 1, and never below a smaller one's."""
    m = len(p_values)
    adjusted = []
    for own in range(m):
        candidates = []
        for other in range(m):
            if (p_values[other], other) <= (p_values[own], own):
                rank = 1 + sum((p_values[third], third) < (p_values[other], other) for third in range(m))
                candidates.append(min(1.0, (m - rank + 1) * p_values[other]))
        adjusted.append(max(candidates))
    return adjusted


def log_ratio_at_equal_loss(
    first: Sequence[tuple[float, float]], second: Sequence[tuple[float, float]]
) -> float | None:
    """Two bins of equal width in log loss over the losses that both visit; a bin needs five probes of each run."""
    runs = []
    for run in (first, second):
        runs.append([pair for pair in run if all(math.isfinite(part) and part > 0 for part in pair)])
    if not runs[0] or not runs[1]:
        return None
    lowest = max(min(loss for loss, _ in run) for run in runs)
    highest = min(max(loss for loss, _ in run) for run in runs)
    if lowest >= highest:
        return None
    middle = math.sqrt(lowest * highest)
    ratios = []
    for inside in (lambda loss: lowest <= loss < middle, lambda loss: middle <= loss <= highest):
        logs = [[math.log(value) for loss, value in run if inside(loss)] for run in runs]
        if min(len(logs[0]), len(logs[1])) >= 5:
            ratios.append(sum(logs[0]) / len(logs[0]) - sum(logs[1]) / len(logs[1]))
    return sum(ratios) / len(ratios) if ratios else None


def smoothed(losses: Sequence[float], window: int) -> list[float]:
    """Mean of each loss and those before it, ``window`` of them at most."""
    return [math.fsum(losses[max(0, k - window + 1) : k + 1]) / min(k + 1, window) for k in range(len(losses))]


def band(
    rows: Sequence[dict[str, object]], quantity: str, reduce: str, step_sizes: Sequence[float]
) -> dict[int, float]:
    """One number per step at which every listed step size has a value that is ok."""
    found: dict[int, dict[float, float]] = {}
    for row in rows:
        for size in step_sizes:
            if row["quantity"] == quantity and row["status"] == "ok" and row["step_size"] == size:
                found.setdefault(row["step"], {})[size] = row["value"]  # type: ignore[call-overload, assignment]
    complete = {step: list(values.values()) for step, values in found.items() if len(values) == len(step_sizes)}
    return {
        step: max(values) - min(values) if reduce == "width" else max(values)
        for step, values in sorted(complete.items())
    }
