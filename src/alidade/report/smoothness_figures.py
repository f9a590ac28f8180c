"""Effective smoothness, step size by step size (Fig. 4c of the paper)."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from alidade.core.spec import RunSpec
from alidade.report.charts import SIZE_TITLE, Frame, Panel, curves, numbers, panel, reference
from alidade.report.figure import Figure, note
from alidade.report.panels import over_loss, over_steps
from alidade.report.scales import log_axis
from alidade.report.series import Readings, over_seeds, over_training, per_seed, shared_loss
from alidade.report.words import number


def smoothness(readings: Readings) -> Figure | None:
    """Fig. 4c, and the same per step size: gradient distance per distance moved."""
    largest = readings.reduced("effective_smoothness", "max", readings.along)
    if largest.is_empty():
        return None
    edges = _edges(readings)
    unit = f"{readings.unit} per squared unit of weight, log scale" + ("; dots: 2 / learning rate" if edges else "")
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
            f"Mean over training of the largest value ({readings.unit} per squared unit of weight)",
        ),
        how_to_read=(
            "Effective smoothness β is the gradient distance divided by the distance moved: how fast the slope "
            "turns per unit of way. It is a function of the step size, never one number: networks with ReLU have "
            "kinks, and the smaller the step, the more each kink counts, so the lower panels open the list up. "
            f"{_edge_words(readings) if edges else ''}Where β · η is near 1 the "
            "gradient has simply changed by its own length, whatever the curvature. Always compare at equal loss "
            "(right): a network stuck on a plateau looks smooth as well."
        ),
        note=note(readings, readings.along + "effective_smoothness", readings.along),
        variants=readings.variants,
    )


def _edge_words(readings: Readings) -> str:
    specs = [variant.spec for variant in readings.variants if isinstance(variant.spec, RunSpec)]
    where = (
        "these networks are trained in that way"
        if specs and all(spec.model.kind == "deep_linear" for spec in specs)
        else "these networks train on mini-batches, so it is a landmark here and no limit"
    )
    edge = "The dotted line at 2 / learning rate is the edge of stability of plain full-batch gradient descent"
    return f"{edge}; {where}. "


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
        words = f"probes at losses from {number(shared[0], 2)} to {number(shared[1], 2)} {readings.unit}"
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
