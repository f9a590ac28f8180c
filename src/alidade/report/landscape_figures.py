"""The landscape along the gradient: bands of the loss and of the gradient (Fig. 4a and 4b of the paper)."""

from __future__ import annotations

import polars as pl

from alidade.report.charts import Frame, Panel, band, numbers, panel, refused
from alidade.report.figure import Figure, note, spread_words
from alidade.report.panels import over_loss, over_steps, step_axis
from alidade.report.scales import Axis, linear_axis, log_axis
from alidade.report.series import UPDATE, Readings, over_seeds, over_training, thinned
from alidade.report.variants import Variant
from alidade.report.words import number

_EQUAL_LOSS = (
    "The last panel compares at equal loss: read it vertically, because networks that stand at the same training "
    "loss stand above each other; faint dots are single probes, the line their geometric mean within a bin of the loss."
)


def loss_band(readings: Readings) -> Figure | None:
    """Fig. 4a: [min, max] of the loss over the named list, along training."""
    widths, unit = readings.reduced("loss", "width", readings.along), readings.unit
    if widths.is_empty():
        return None
    step = over_steps(
        readings, "loss-width", "Width of the band", f"largest minus smallest loss ({unit}), log scale", widths
    )
    loss = over_loss(readings, "loss-width-at-loss", "Width at equal loss", f"{unit}, log scale", widths)
    return Figure(
        id="loss-band",
        title=f"The loss along {_way(readings)}",
        rows=(_bands(readings, "loss", f"loss ({unit}), log scale"), (step, loss)),
        lead=numbers(
            readings.variants, over_training(readings, widths), f"Mean width of the band over training ({unit})"
        ),
        how_to_read=(
            f"At each probed step the parameters are moved along {_way(readings)} by every step size of the list, the "
            "loss is read on the same batch, and the parameters are put back. The dark band reaches from the smallest "
            "to the largest loss met on the way, the line is the loss where the network stands; the faint band takes "
            f"in the extreme seeds. A narrow band means predictable ground. {_penalty(readings)}{_EQUAL_LOSS}"
        ),
        note=note(readings, readings.along + "loss", readings.along),
        variants=readings.variants,
    )


def _penalty(readings: Readings) -> str:
    """The paper's plots contain a penalty that its text does not mention; where ours do, it is said."""
    if not readings.has("train_objective"):
        return ""
    return "The loss here contains the L2 penalty, as that of the paper’s plot seems to. "


def _way(readings: Readings) -> str:
    return "the optimizer’s step" if readings.along == UPDATE else "the gradient"


def gradient_band(readings: Readings) -> Figure | None:
    """Fig. 4b: [min, max] of the distance between the gradient along the way and where the network stands."""
    furthest = readings.reduced("gradient_distance", "max", readings.along)
    if furthest.is_empty():
        return None
    unit = f"{readings.unit} per unit of weight, log scale"
    cosines = readings.reduced("gradient_cosine", "min", readings.along)
    second = [over_loss(readings, "gradient-at-loss", "Largest distance at equal loss", unit, furthest)]
    if not cosines.is_empty():
        second.insert(0, _cosine(readings, cosines))
        second.append(
            over_loss(readings, "cosine-at-loss", "Cosine at equal loss", "smallest over η", cosines, _COSINE)
        )
    return Figure(
        id="gradient-band",
        title="How far the gradient can be trusted",
        rows=(_bands(readings, "gradient_distance", "gradient distance, log scale"), tuple(second)),
        lead=numbers(
            readings.variants,
            over_training(readings, furthest),
            f"Mean of the largest distance ({readings.unit} per unit of weight)",
        ),
        how_to_read=(
            "The same moves, now asking how much the gradient itself has changed on the way: its Euclidean distance "
            "from the gradient where the network stands (0 would be a straight slope), and the cosine between both "
            "(1 is the same direction, 0 unrelated, negative means that the slope has turned against the step). "
            f"{spread_words(readings)} Distances depend on the scale of the weights; Figure “In units of the "
            "weights” repeats them without that scale."
        ),
        note=note(readings, readings.along + "gradient_distance", readings.along),
        variants=readings.variants,
    )


_COSINE = linear_axis(-1, 1)


def _cosine(readings: Readings, values: pl.DataFrame) -> Panel:
    return over_steps(readings, "cosine", "Cosine of the gradients", "smallest over η", values, _COSINE)


def _bands(readings: Readings, quantity: str, subtitle: str) -> tuple[Panel, ...]:
    """One band per variant, all with the same axes."""
    edges = readings.band(quantity, readings.along)
    low = over_seeds(edges.rename({"low": "y"}), geometric=True).select("v", "x", bottom="lo", low="m")
    high = over_seeds(edges.rename({"high": "y"}), geometric=True).select("v", "x", high="m", top="hi")
    rows = thinned(low.join(high, on=["v", "x"]).sort("v", "x"))
    lines = thinned(over_seeds(readings.base(readings.along), geometric=True)) if quantity == "loss" else None
    y = log_axis([*rows["bottom"], *rows["top"], *(lines["m"] if lines is not None else [])])
    marks = readings.refused_in_list(quantity, readings.along)
    drawn = [variant for variant in readings.variants if variant.key in set(rows["v"])]
    return tuple(_band(readings, variant, quantity, subtitle, rows, lines, marks, y) for variant in drawn)


def _band(
    readings: Readings,
    variant: Variant,
    quantity: str,
    subtitle: str,
    rows: pl.DataFrame,
    lines: pl.DataFrame | None,
    marks: pl.DataFrame,
    y: Axis,
) -> Panel:
    own = pl.col("v") == variant.key
    mine = rows.filter(own).drop("v")
    id_ = f"{quantity.replace('_', '-')}-band-{variant.key}"
    frame = Frame(id_, variant.label, subtitle, [variant], step_axis(readings), y, title_colour=variant.colour)
    base = lines.filter(own).select("x", "m") if lines is not None else pl.DataFrame()
    layers = [*band(frame, mine, base, variant), *refused(frame, marks.filter(own))]
    end = mine.sort("x").tail(1).to_dicts()[0]
    words = f"{variant.label}: the band at the last probe reaches from {number(end['low'])} to {number(end['high'])}."
    return panel(frame, layers, words)
