"""Statistics of paired runs: Student-t intervals, Holm's correction, comparison at equal loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import polars as pl

CONFIDENCE = 0.95
LOSS_BINS = 2
PROBES_PER_BIN = 5
SMOOTHING_STEPS = 10


@dataclass(frozen=True)
class Interval:
    """Mean of n values with its confidence interval; ``p`` is two-sided against the threshold asked about."""

    mean: float
    low: float
    high: float
    p: float
    n: int


def student_interval(values: Sequence[float], threshold: float = 0.0) -> Interval:
    r"""Student-t interval of the mean, :math:`\bar x \pm t_{n-1, 0.975}\, s / \sqrt n` (Student 1908).

    Args:
        values: n >= 2 finite numbers, one per seed.
        threshold: what the p-value tests the mean against.

    Raises:
        ValueError: fewer than two values.

    >>> interval = student_interval([1.0, 2.0, 3.0])
    >>> round(interval.low, 4), round(interval.high, 4), round(interval.p, 4)
    (-0.4841, 4.4841, 0.0742)
    """
    from scipy.special import stdtr, stdtrit  # scipy.stats takes seconds to import on a busy core

    x = np.asarray(values, dtype=np.float64)
    if x.size < 2:
        raise ValueError(f"values: expected at least two, got {x.size}")
    error = float(x.std(ddof=1) / np.sqrt(x.size))
    half = float(stdtrit(x.size - 1, (1 + CONFIDENCE) / 2)) * error
    distance = float(x.mean()) - threshold
    p = float(2 * stdtr(x.size - 1, -abs(distance) / error)) if error > 0 else float(distance == 0)
    return Interval(float(x.mean()), float(x.mean()) - half, float(x.mean()) + half, p, x.size)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment of p-values (Holm 1979), in the order given.

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values)
    adjusted, largest = np.empty(len(p_values)), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return [float(value) for value in adjusted]


def smoothed_losses(training: pl.DataFrame) -> dict[str, dict[int, float]]:
    """Trailing mean of the training loss over the last ``SMOOTHING_STEPS`` steps, by run and step.

    ``training`` has the columns run, step and value (the loss of each step's batch).
    """
    ordered = training.select("run", "step", "value").sort("step")
    return {
        str(run): dict(
            zip(
                rows["step"].to_list(),
                rows["value"].rolling_mean(SMOOTHING_STEPS, min_samples=1).to_list(),
                strict=True,
            )
        )
        for (run,), rows in ordered.partition_by("run", as_dict=True).items()
    }


def log_ratio_at_equal_loss(
    first: Sequence[tuple[float, float]], second: Sequence[tuple[float, float]]
) -> float | None:
    """Mean over bins of equal loss of the log ratio first / second; None where the runs share no filled bin.

    Both are (loss, positive value) pairs, one per probe. The losses that both runs visit are cut into
    ``LOSS_BINS`` bins of equal width in log loss; a bin counts when both runs have ``PROBES_PER_BIN`` probes in it.

    >>> fast = [(0.1 * k, 2.0) for k in range(1, 21)]
    >>> slow = [(0.1 * k, 6.0) for k in range(5, 41)]
    >>> round(float(np.exp(log_ratio_at_equal_loss(slow, fast))), 6)
    3.0
    """
    a, b = (np.asarray(pairs, dtype=np.float64).reshape(-1, 2) for pairs in (first, second))
    a, b = (pairs[(pairs > 0).all(axis=1) & np.isfinite(pairs).all(axis=1)] for pairs in (a, b))
    if not (len(a) and len(b)):
        return None
    low, high = max(a[:, 0].min(), b[:, 0].min()), min(a[:, 0].max(), b[:, 0].max())
    if low >= high:
        return None
    edges = np.log(low) + (np.log(high) - np.log(low)) * np.linspace(0, 1, LOSS_BINS + 1)
    edges[[0, -1]] += (-1e-9, 1e-9)  # both ends belong to their bins
    ratios = []
    for left, right in pairwise(edges):
        inside = [np.log(p[(np.log(p[:, 0]) >= left) & (np.log(p[:, 0]) < right), 1]) for p in (a, b)]
        if min(map(len, inside)) >= PROBES_PER_BIN:
            ratios.append(inside[0].mean() - inside[1].mean())
    return float(np.mean(ratios)) if ratios else None
