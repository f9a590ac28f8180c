"""The landscape along the gradient: bands of the loss and of the gradient, effective smoothness, scale-free twins."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from alidade.report.charts import (
    SIZE_TITLE,
    Frame,
    Panel,
    band,
    curves,
    numbers,
    panel,
    reference,
    refused,
)
from alidade.report.figure import Figure, note, spread_words
from alidade.report.panels import over_loss, over_steps, step_axis
from alidade.report.scales import Axis, linear_axis, log_axis
from alidade.report.series import (
    RELATIVE,
    UPDATE,
    Readings,
    Reduction,
    over_seeds,
    over_training,
    per_seed,
    shared_loss,
    thinned,
)
from alidade.report.variants import Variant
from alidade.report.words import number

_EQUAL_LOSS = (
    "The last panel compares at equal loss: read it vertically, because networks that stand at the same training "
    "loss stand above each other; faint dots are single probes, the line their geometric mean within a bin of the loss."
)


def loss_band(readings: Readings) -> Figure | None:
    """Fig. 4a: [min, max] of the loss over the named list, along training."""
    widths = readings.reduced("loss", "width", readings.along)
    if widths.is_empty():
        return None
    step = over_steps(
        readings, "loss-width", "Width of the band", "largest minus smallest loss (nat), log scale", widths
    )
    loss = over_loss(readings, "loss-width-at-loss", "Width at equal loss", "nat, log scale", widths)
    return Figure(
        id="loss-band",
        title=f"The loss along {_way(readings)}",
        rows=(_bands(readings, "loss", "loss (nat), log scale"), (step, loss)),
        lead=numbers(readings.variants, over_training(readings, widths), "Mean width of the band over training (nat)"),
        how_to_read=(
            f"At each probed step the parameters are moved along {_way(readings)} by every step size of the list, the "
            "loss is read on the same batch, and the parameters are put back. The dark band reaches from the smallest "
            "to the largest loss met on the way, the line is the loss where the network stands; the faint band takes "
            f"in the extreme seeds. A narrow band means predictable ground. {_EQUAL_LOSS}"
        ),
        note=note(readings, readings.along + "loss", readings.along),
        variants=readings.variants,
    )


def _way(readings: Readings) -> str:
    return "the optimizer’s step" if readings.along == UPDATE else "the gradient"


def gradient_band(readings: Readings) -> Figure | None:
    """Fig. 4b: [min, max] of the distance between the gradient along the way and where the network stands."""
    furthest = readings.reduced("gradient_distance", "max", readings.along)
    if furthest.is_empty():
        return None
    unit = "nat per unit of weight, log scale"
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
        rows=(_bands(readings, "gradient_distance", f"gradient distance ({unit})"), tuple(second)),
        lead=numbers(
            readings.variants,
            over_training(readings, furthest),
            "Mean of the largest distance (nat per unit of weight)",
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


def smoothness(readings: Readings) -> Figure | None:
    """Fig. 4c, and the same per step size: gradient distance per distance moved."""
    largest = readings.reduced("effective_smoothness", "max", readings.along)
    if largest.is_empty():
        return None
    edges = _edges(readings)
    unit = "nat per squared unit of weight, log scale" + ("; dots: 2 / learning rate" if edges else "")
    marks = readings.refused_in_list("effective_smoothness", readings.along)
    first = (
        over_steps(readings, "smoothness", "Largest over the list", unit, largest, references=edges, marks=marks),
        over_loss(
            readings, "smoothness-at-loss", "Largest over the list, at equal loss", unit, largest, references=edges
        ),
    )
    return Figure(
        id="smoothness",
        title="Effective smoothness, step size by step size",
        rows=(first, _per_size(readings, unit, edges)),
        lead=numbers(
            readings.variants,
            over_training(readings, largest),
            "Mean over training of the largest value (nat per squared unit of weight)",
        ),
        how_to_read=(
            "Effective smoothness β is the gradient distance divided by the distance moved: how fast the slope "
            "turns per unit of way. It is a function of the step size, never one number: networks with ReLU have "
            "kinks, and the smaller the step, the more each kink counts, so the lower panels open the list up. "
            f"{_EDGE if edges else ''}Where β · η is near 1 the "
            "gradient has simply changed by its own length, whatever the curvature. Always compare at equal loss "
            "(right): a network stuck on a plateau looks smooth as well."
        ),
        note=note(readings, readings.along + "effective_smoothness", readings.along),
        variants=readings.variants,
    )


_EDGE = (
    "The dotted line at 2 / learning rate is the edge of stability of plain full-batch gradient descent; these "
    "networks train on mini-batches, so it is a landmark here and no limit. "
)


def _edges(readings: Readings) -> list[float]:
    """2 / learning rate, for profiles along the gradient."""
    rates = [] if readings.along else [variant.learning_rate for variant in readings.variants]
    return sorted({2 / rate for rate in rates if rate})


def _per_size(readings: Readings, unit: str, edges: Sequence[float]) -> tuple[Panel, ...]:
    """β against η: over all probes, and over those at losses that all variants visit."""
    rows = readings.ok(readings.along + "effective_smoothness").filter(pl.col("eta") > 0)
    at_loss = readings.against_loss(rows)
    shared = shared_loss(at_loss)
    everywhere = _by_size(rows)
    groups = [("smoothness-by-size", "Per step size, all of training", unit, everywhere)]
    if shared and len(readings.variants) > 1:
        inside = _by_size(at_loss.filter(pl.col("x").is_between(*shared)))
        words = f"probes at losses from {number(shared[0], 2)} to {number(shared[1], 2)} nat"
        groups.append(("smoothness-by-size-at-loss", "Per step size, at equal loss", words, inside))
    sizes = sorted(rows["eta"].unique())
    x = log_axis(sizes, ticks=sizes if len(sizes) <= 8 else None)
    values = [value for *_, part in groups for value in (*part["lo"], *part["hi"])]
    y = log_axis([*values, *edges])
    panels = []
    for id_, title, subtitle, part in groups:
        frame = Frame(id_, title, subtitle, readings.variants, x, y, SIZE_TITLE)
        largest = part.sort("x").group_by("v", maintain_order=True).first()
        said = numbers(readings.variants, largest, f"{title}, at the smallest step size")
        panels.append(panel(frame, [*curves(frame, part, points=True), *reference(frame, edges)], said))
    return tuple(panels)


def _by_size(rows: pl.DataFrame) -> pl.DataFrame:
    means = per_seed(rows.rename({"eta": "size"}), geometric=True, by=("v", "seed", "size"))
    return over_seeds(means.rename({"size": "x"}), geometric=True)


def twins(readings: Readings) -> Figure | None:
    """The same three readings in relative coordinates, where rescaling a filter changes nothing."""
    if not readings.has(RELATIVE + "loss"):
        return None
    kinds: list[tuple[str, str, str, Reduction, str]] = [
        ("loss", "twin-loss", "Width of the loss band", "width", "nat, log scale"),
        ("gradient_distance", "twin-gradient", "Largest gradient distance", "max", "in gradient norms, log scale"),
        ("effective_smoothness", "twin-smoothness", "Largest effective smoothness", "max", "nat, log scale"),
    ]
    values = [(kind, readings.reduced(kind[0], kind[3], RELATIVE)) for kind in kinds]
    drawn = [(kind, rows) for kind, rows in values if not rows.is_empty()]
    if not drawn:
        return None
    steps = tuple(over_steps(readings, k[1], k[2], k[4], rows) for k, rows in drawn)
    losses = tuple(over_loss(readings, f"{k[1]}-at-loss", f"{k[2]}, at equal loss", k[4], rows) for k, rows in drawn)
    return Figure(
        id="scale-free",
        title="In units of the weights: the scale-free twins",
        rows=(steps, losses),
        lead=numbers(
            readings.variants,
            over_training(readings, drawn[0][1]),
            "Mean width of the relative loss band over training (nat)",
        ),
        how_to_read=(
            "BatchNorm makes a network blind to the length of its filters, so a plain comparison can be manufactured "
            "by rescaling weights that the network ignores. Here every filter is measured in units of its own length: "
            "a step size of 0.1 changes each filter by about a tenth of itself (root mean square). Only what survives "
            "here is a property of the function. Upper row along training, lower row the same numbers against the "
            "training loss of that step."
        ),
        note=note(readings, RELATIVE + "loss", RELATIVE),
        variants=readings.variants,
    )


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
