"""Activations along training: ridgelines of their distributions, and how far their moments move (Fig. 2, 6, 8, 9)."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import numpy as np
import polars as pl

from alidade.core.activations import PROBABILITIES
from alidade.core.records import Floats
from alidade.report.charts import Frame, Numbers, Panel, data, numbers, panel, x_of
from alidade.report.figure import Figure, note, spread_words
from alidade.report.layer_names import layer_words, shown_layers
from alidade.report.panels import over_steps
from alidade.report.scales import Axis, linear_axis
from alidade.report.series import Readings, over_seeds, over_training, thinned
from alidade.report.theme import css
from alidade.report.variants import Variant

MOST_RIDGES, GRID = 22, 44
#: Ridges that a tall one covers; the tallest of all is that much taller at most.
OVERLAP, TALLEST = 4.0, 1.25
RIDGE_HEIGHT = 250
_QUANTILES = [f"activation_quantile_{p:g}" for p in PROBABILITIES]
_MEDIAN = "activation_quantile_0.5"
#: Moments of single units: quantity, title, unit, and whether it has a sign.
_MOVES = (
    ("activation_mean_change", "change of the mean", "between probes, log scale", False),
    ("activation_variance_change", "change of the variance", "between probes, log scale", False),
    ("activation_mean_drift", "drift of the mean", "since the first probe", True),
    ("activation_variance_drift", "drift of the variance", "since the first probe", True),
)


def ridgelines(readings: Readings) -> Figure | None:
    """One ridge per probed step: the distribution of a layer's activations, early at the back, late in front."""
    layers = shown_layers(readings.layers(_MEDIAN))
    rows = [tuple(_ridges(readings, variant, layer) for variant in readings.variants) for layer in layers]
    drawn = tuple(tuple(made for made in row if made) for row in rows)
    if not any(drawn):
        return None
    layer = layers[-1]
    spreads = over_training(readings, _interquartile(readings, layer), geometric=False)
    return Figure(
        id="ridgelines",
        title="The distribution of activations, along training",
        rows=tuple(row for row in drawn if row),
        lead=numbers(readings.variants, spreads, f"Middle half of the activations of {layer_words(layer)}, width"),
        how_to_read=(
            "Each ridge is the distribution of one layer’s activations (behind the norm, before the ReLU) at one "
            "probed step, from the start of training at the back to its end in front. Ridges that stay in place and "
            "in shape mean stable activations; a norm fixes mean and width of each unit, and the noisy norm moves them "
            "at every step. Every panel has its own horizontal axis. Densities are drawn through seven quantiles, "
            "from 1 % to 99 %, meaned over seeds, as a smooth curve: fine detail between them is not measured, and "
            "heights are relative within a panel."
        ),
        note=note(readings, _MEDIAN),
        variants=readings.variants,
    )


def _interquartile(readings: Readings, layer: str) -> pl.DataFrame:
    high, low = (readings.ok(f"activation_quantile_{p:g}", layer) for p in (0.75, 0.25))
    both = high.join(low, on=["v", "seed", "x"], suffix="_low")
    return both.select("v", "seed", "x", pl.col("y") - pl.col("y_low"))


def _ridges(readings: Readings, variant: Variant, layer: str) -> Panel | None:
    steps, quantiles = _mean_quantiles(readings, variant, layer)
    if not steps:
        return None
    low, high = float(quantiles[:, 0].min()), float(quantiles[:, -1].max())
    margin = 0.08 * (high - low) or 0.5
    x = linear_axis(low - margin, high + margin)
    grid = np.linspace(*x.domain, GRID)
    heights = np.array([_density(row, grid) for row in quantiles])
    typical = float(np.quantile(heights.max(axis=1), 0.75)) or 1.0
    heights = OVERLAP * np.minimum(heights / typical, TALLEST)
    y = Axis((-OVERLAP * TALLEST - 0.3, len(steps) - 0.7), (), log=False)
    id_ = f"ridges-{layer_words(layer).replace(' ', '')}-{variant.key}"
    frame = Frame(
        id_, variant.label, f"{layer_words(layer)}; depth: training step", [variant], x, y, "activation →",
        title_colour=variant.colour, height=RIDGE_HEIGHT,
    )  # fmt: skip
    rows = pl.DataFrame(
        {
            "i": np.repeat(np.arange(len(steps)), GRID),
            "x": np.tile(grid, len(steps)),
            "top": (np.arange(len(steps))[:, None] - heights).ravel(),
        }
    )
    first, last = (Numbers("", ((variant, f"{row[0]:.3g} to {row[-1]:.3g}", ""),)) for row in quantiles[[0, -1]])
    said = (
        f"{variant.label}, {layer_words(layer)}: 98 % of the activations lie from {first.entries[0][1]} at step "
        f"{steps[0]} and from {last.entries[0][1]} at step {steps[-1]}."
    )
    return panel(frame, _drawn(frame, rows, steps, variant), said)


def _drawn(frame: Frame, rows: pl.DataFrame, steps: Sequence[int], variant: Variant) -> list[alt.Chart]:
    """Areas from the back to the front, each hiding what stands behind it."""
    scale = alt.Scale(domain=list(frame.y.domain), reverse=True, nice=False, zero=False)
    marked = sorted({0, (len(steps) - 1) // 2, len(steps) - 1})
    labels = str({place: f"{steps[place]:,}".replace(",", "\u202f") for place in marked})
    ticks = alt.Axis(values=marked, labelExpr=f"{labels}[datum.value]", title=None, grid=False, minExtent=38)
    area = alt.Chart(data(rows)).mark_area(
        fill=css("paper"), fillOpacity=0.82, stroke=css(variant.colour), strokeWidth=1.1, strokeJoin="round", clip=True
    )
    return [
        area.encode(
            x=x_of(frame), y=alt.Y("i:Q", scale=scale, axis=ticks, stack=None), y2="top:Q", detail="i:O",
        )
    ]  # fmt: skip


def _mean_quantiles(readings: Readings, variant: Variant, layer: str) -> tuple[list[int], Floats]:
    """Probed steps and the quantiles there, mean over seeds: (steps, quantiles)."""
    wanted = pl.col("run").is_in(list(variant.runs)) & (pl.col("layer") == layer) & (pl.col("status") == "ok")
    rows = pl.concat([readings.rows(quantity, wanted) for quantity in _QUANTILES])
    means = rows.group_by("step", "quantity").agg(pl.col("value").mean())
    wide = means.pivot("quantity", index="step", values="value").sort("step")
    if not set(_QUANTILES) <= set(wide.columns):
        return [], np.empty((0, len(_QUANTILES)))
    few = thinned(wide.drop_nulls(), MOST_RIDGES - 1, "step")
    return few["step"].to_list(), few.select(_QUANTILES).to_numpy()


def _density(quantiles: Floats, grid: Floats) -> Floats:
    r"""A smooth density through quantiles: :math:`\varphi(z(x)) z'(x)` with z monotone through the normal scores.

    For a normal distribution z is a straight line and the density exact. Beyond the outermost quantiles z goes on
    straight, so tails are drawn as normal ones.
    """
    from scipy.interpolate import PchipInterpolator  # takes long to import, and most pages have no such figure
    from scipy.special import ndtri

    least = 1e-3 * (quantiles[-1] - quantiles[0]) + 1e-12
    ramp = least * np.arange(quantiles.size)  # quantiles that coincide are held apart, others stay where they are
    knots = np.maximum.accumulate(quantiles - ramp) + ramp
    z = PchipInterpolator(knots, ndtri(PROBABILITIES))
    slope = z.derivative()
    inside = np.clip(grid, knots[0], knots[-1])
    score = z(inside) + slope(inside) * (grid - inside)
    density: Floats = np.exp(-0.5 * score**2) * np.maximum(slope(inside), 0.0)
    return density


def movement(readings: Readings) -> Figure | None:
    """Change and drift of mean and variance of single units, per layer (Fig. 8)."""
    layers = shown_layers(readings.layers(_MOVES[0][0]))
    rows = []
    for layer in layers:
        made = [_moves(readings, layer, *kind) for kind in _MOVES]
        rows.append(tuple(one for one in made if one))
    if not any(rows):
        return None
    layer = layers[-1]
    change = readings.ok(_MOVES[0][0], layer).select("v", "seed", "x", "y")
    return Figure(
        id="movement",
        title="How far activations move",
        rows=tuple(row for row in rows if row),
        lead=numbers(
            readings.variants,
            over_training(readings, change),
            f"Mean change of a unit’s mean between probes, {layer_words(layer)}",
        ),
        how_to_read=(
            "Mean and variance of each unit’s activations, averaged over the units of a layer. Change: how far they "
            "moved since the probe before, without sign. Drift: where they stand now, against the first probe, with "
            "sign, so movements of units in opposite directions cancel in it. BatchNorm’s own output keeps mean and "
            "variance but for its learned shift and scale; the noisy norm shakes both at every step, by design. "
            f"{spread_words(readings)}"
        ),
        note=note(readings, _MOVES[0][0]),
        variants=readings.variants,
    )


def _moves(readings: Readings, layer: str, quantity: str, title: str, unit: str, signed: bool) -> Panel | None:
    values = readings.ok(quantity, layer).select("v", "seed", "x", "y")
    kept = values if signed else values.filter(pl.col("y") > 0)
    if kept.is_empty():
        return None
    name = quantity.removeprefix("activation_").replace("_", "-")
    id_ = f"{name}-{layer_words(layer).replace(' ', '')}"
    words = f"{layer_words(layer).capitalize()}: {title}"
    axis = None
    if signed:
        spread = over_seeds(kept, geometric=False)
        low, high = float(spread["lo"].min()), float(spread["hi"].max())  # type: ignore[arg-type]
        margin = 0.06 * (high - low) or 1.0
        axis = linear_axis(low - margin, high + margin)
    return over_steps(readings, id_, words, unit, kept, axis, references=[0.0] if signed else [])
