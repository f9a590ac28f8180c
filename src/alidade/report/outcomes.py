"""How runs ended: their level over the last steps, and those that diverged, stood still or never trained."""

from __future__ import annotations

import polars as pl

from alidade.claims.quantities import STUCK
from alidade.report.series import Readings, per_seed, since
from alidade.report.words import listed, number

#: The last part of training, over which end levels are averaged.
END = 0.1
#: Quantities that a training records once, at the step where it happened.
DIVERGED, STATIONARY = "diverged", "stationary"


def smoothing_window(readings: Readings) -> int:
    """Steps of the trailing mean of the training curves: a sixtieth of the run, at least 5."""
    return max(5, max(readings.last_steps.values()) // 60)


def at_the_end(readings: Readings, quantity: str) -> pl.DataFrame:
    """Each run's mean of a quantity over its last tenth of the steps: v, seed, y."""
    return per_seed(since(readings, readings.ok(quantity), 1 - END), geometric=False)


def divergence(readings: Readings) -> tuple[str, ...]:
    """A sentence on the runs that diverged, where there are any."""
    rows = _recorded(readings, DIVERGED)
    text = "Diverged: {}. Its loss was not finite or above 1000 times its start."
    return () if rows.is_empty() else (text.format(_runs(readings, rows, steps=True)),)


def outcomes(readings: Readings) -> tuple[str, ...]:
    """A sentence each on runs that diverged, that stood at a stationary point, and that did not train."""
    diverged = _recorded(readings, DIVERGED)
    still = _recorded(readings, STATIONARY)
    gone = diverged.select("v", "seed").unique()
    stuck = _stuck(readings).join(gone, on=["v", "seed"], how="anti")
    said = [
        (
            "At a stationary point at the end: {}. Its full-batch loss had stopped moving: such ground looks smooth.",
            still,
        ),
        (f"Untrained: {{}}. The loss ended above {100 * STUCK:.0f} % of the median of its first tenth.", stuck),
    ]
    rest = [text.format(_runs(readings, rows, steps=False)) for text, rows in said if not rows.is_empty()]
    return (*divergence(readings), *rest)


def _recorded(readings: Readings, quantity: str) -> pl.DataFrame:
    """The first step at which each run recorded an outcome: v, seed, x."""
    rows = readings.rows(quantity)
    return rows.group_by("v", "seed").agg(pl.col("step").min().alias("x")).sort("v", "seed")


def _runs(readings: Readings, rows: pl.DataFrame, steps: bool) -> str:
    """Which runs, by network, and when."""
    parts = []
    for variant in readings.variants:
        own = rows.filter(pl.col("v") == variant.key)
        if not own.is_empty():
            when = f" ({_when(own['x'])})" if steps else ""
            parts.append(f"{own.height} of {len(variant.runs)} runs of “{variant.label}”{when}")
    return listed(parts)


def _when(steps: pl.Series) -> str:
    first, last = (number(float(end)) for end in (steps.min(), steps.max()))  # type: ignore[arg-type]
    return f"step {first}" if first == last else f"steps {first} to {last}"


def _stuck(readings: Readings) -> pl.DataFrame:
    """Runs that did not train: a network on a plateau looks smooth."""
    level = readings.level(smoothing_window(readings))
    early = level.join(since(readings, level, END), on=["v", "seed", "x"], how="anti")
    start = early.group_by("v", "seed").agg(pl.col("y").median())
    end = per_seed(since(readings, level, 1 - END), geometric=False)
    return end.join(start, on=["v", "seed"], suffix="_start").filter(pl.col("y") > STUCK * pl.col("y_start"))
