"""The control: the same function with its weights rescaled, so that only units change (Dinh et al. 2017)."""

from __future__ import annotations

import re

import polars as pl

from alidade.report.charts import Frame, Numbers, Panel, curves, numbers, panel, reference
from alidade.report.figure import Figure, note, spread_words
from alidade.report.scales import Axis, log_axis
from alidade.report.series import RELATIVE, Readings, Reduction, over_seeds
from alidade.report.variants import Drawn
from alidade.report.words import number, plain

_NAME = re.compile(r"rescaled_([0-9.e+-]+)_(?:relative_)?loss")

#: Quantity, its reduction over the step sizes, and the title of its panel; None: where the network stands.
_RAW: tuple[tuple[str, Reduction | None, str], ...] = (
    ("loss", "width", "Loss band, raw"),
    ("gradient_distance", "max", "Gradient distance, raw"),
    ("effective_smoothness", "max", "Effective smoothness, raw"),
)
_FREE: tuple[tuple[str, Reduction | None, str], ...] = (
    ("loss", None, "Loss where it stands"),
    (RELATIVE + "loss", "width", "Loss band, scale-free"),
    (RELATIVE + "effective_smoothness", "max", "Effective smoothness, scale-free"),
)


def rescaling(readings: Readings) -> Figure | None:
    """Raw and scale-free readings against the factor on the weights before each norm, relative to factor 1."""
    found = [match.group(1) for name in readings.study.by_quantity.names if (match := _NAME.fullmatch(name))]
    factors = sorted(set(found), key=float)
    if "1" not in factors or len(factors) < 2:
        return None
    values = {title: _values(readings, factors, name, how) for name, how, title in (*_RAW, *_FREE)}
    drawn = {title: over_seeds(_relative(rows), geometric=True) for title, rows in values.items()}
    y = log_axis([edge for rows in drawn.values() for name in ("lo", "hi") for edge in rows[name]] + [0.5, 2.0])
    rows = tuple(
        tuple(_panel(readings, title, drawn[title], y) for _, _, title in kinds if not drawn[title].is_empty())
        for kinds in (_RAW, _FREE)
    )
    return Figure(
        id="rescaling",
        title="The same function in other units",
        rows=tuple(row for row in rows if row),
        lead=_lead(readings, values[_RAW[2][2]], factors),
        how_to_read=(
            "Along one training the weights before every norm are multiplied by a factor, everything is measured, and "
            "the weights are put back. The norm undoes the factor, so the network computes the very same function and "
            "its loss should not move (first panel of the lower row). Whatever else moves with the factor is a number "
            "in units of weights that the network does not feel, and could be made as large or as small as one likes; "
            "what lies flat belongs to the function. Hence a raw contrast between networks with and without a norm "
            "counts only if its scale-free twin, which stands beside it everywhere below, agrees. All panels share one "
            f"axis: times the value at factor 1. {spread_words(readings)}"
        ),
        note=note(readings, f"rescaled_{factors[0]}_loss", extra=["median over training of each seed"]),
        variants=readings.variants,
    )


def _values(readings: Readings, factors: list[str], quantity: str, how: Reduction | None) -> pl.DataFrame:
    """Median over training by network, seed and factor: v, seed, x (factor), y."""
    parts = []
    for factor in factors:
        prefix = f"rescaled_{factor}_" + (RELATIVE if quantity.startswith(RELATIVE) else "")
        rows = readings.reduced(quantity.removeprefix(RELATIVE), how, prefix) if how else readings.base(prefix)
        median = rows.group_by("v", "seed").agg(pl.col("y").median())
        parts.append(median.with_columns(pl.lit(float(factor)).alias("x")).select("v", "seed", "x", "y"))
    return pl.concat(parts).sort("v", "seed", "x")


def _relative(values: pl.DataFrame) -> pl.DataFrame:
    """Each seed's values in units of its own at factor 1."""
    one = values.filter(pl.col("x") == 1).select("v", "seed", pl.col("y").alias("one"))
    return values.join(one, on=["v", "seed"]).with_columns(pl.col("y") / pl.col("one")).drop("one")


def _panel(readings: Readings, title: str, rows: pl.DataFrame, y: Axis) -> Panel:
    factors = sorted(rows["x"].unique())
    x = log_axis(factors, ticks=factors)
    id_ = "rescaling-" + re.sub("[^a-z]+", "-", title.lower())
    frame = Frame(id_, title, "times its value at factor 1, log scale", readings.variants, x, y, "weights × →")
    ends = rows.sort("x").group_by("v", maintain_order=True).last()
    said = numbers(readings.variants, ends, f"{title}, times its value at factor 1, at factor {plain(factors[-1])}")
    return panel(frame, [*reference(frame, [1.0]), *curves(frame, rows, points=True)], said)


def _lead(readings: Readings, smoothness: pl.DataFrame, factors: list[str]) -> Numbers:
    """From the smallest to the largest factor."""
    means = over_seeds(smoothness, geometric=True)
    entries: list[tuple[Drawn, str, str]] = []
    for variant in readings.variants:
        own = means.filter(pl.col("v") == variant.key).sort("x")["m"].to_list()
        if own:
            entries.append((variant, f"{number(own[0])} → {number(own[-1])}", ""))
    ends = f"{plain(float(factors[0]))} → {plain(float(factors[-1]))}"
    return Numbers(f"Largest effective smoothness, median over training, at weights × {ends}", tuple(entries))
