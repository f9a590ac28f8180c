"""Two ways to draw one number per probe: along training, and against the training loss of its step.

Smoothness is never shown without the second: a network on a plateau looks smooth as well.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from alidade.report.charts import Frame, Panel, at_equal_loss, curves, numbers, panel, reference, refused
from alidade.report.scales import Axis, linear_axis, log_axis
from alidade.report.series import Readings, binned_by_loss, over_seeds, over_training, per_seed, shared_loss, thinned


def step_axis(readings: Readings) -> Axis:
    """Training steps from 0 to the longest run's end."""
    return linear_axis(0, max(1, *readings.last_steps.values()))


def over_steps(
    readings: Readings,
    id_: str,
    title: str,
    subtitle: str,
    values: pl.DataFrame,
    y: Axis | None = None,
    references: Sequence[float] = (),
    marks: pl.DataFrame | None = None,
    solid: bool = False,
    points: bool = False,
) -> Panel:
    """A quantity along training, mean and spread over seeds; geometric unless ``y`` is a linear axis."""
    rows = thinned(over_seeds(values, geometric=y is None))
    levels = [*rows["lo"], *rows["hi"], *(references if solid else ())]  # a threshold shows, however far it is
    frame = Frame(id_, title, subtitle, readings.variants, step_axis(readings), y or log_axis(levels))
    layers = [*curves(frame, rows, points), *reference(frame, references, solid)]
    if marks is not None:
        layers += refused(frame, marks)
    means = over_training(readings, values, geometric=y is None)
    return panel(frame, layers, numbers(readings.variants, means, f"{title}, mean over training"))


def loss_title(readings: Readings) -> str:
    """Words under an axis that shows the training loss of a probe's step."""
    return f"training loss ({readings.unit}), falling →"


def over_loss(
    readings: Readings,
    id_: str,
    title: str,
    subtitle: str,
    values: pl.DataFrame,
    y: Axis | None = None,
    references: Sequence[float] = (),
    solid: bool = False,
) -> Panel:
    """The companion of ``over_steps``: the same quantity against the training loss of its step."""
    probes = readings.against_loss(values).sort("v", "seed", "x")
    bins = binned_by_loss(probes, geometric=y is None)
    x = log_axis(probes["x"], falling=True)
    frame = Frame(id_, title, subtitle, readings.variants, x, y or log_axis(probes["y"]), loss_title(readings))
    layers = [*at_equal_loss(frame, _few(probes), bins), *reference(frame, references, solid)]
    shared = shared_loss(probes)
    inside = probes.filter(pl.col("x").is_between(*shared)) if shared else probes.clear()
    means = over_seeds(per_seed(inside, geometric=y is None), geometric=y is None, by=("v",))
    opening = f"{title}, losses that all visit" if shared else f"{title}: no loss that all visit"
    return panel(frame, layers, numbers(readings.variants, means, opening))


def _few(probes: pl.DataFrame, most: int = 700) -> pl.DataFrame:
    return probes.gather_every(max(1, -(-probes.height // most)))
