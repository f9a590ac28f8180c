"""Internal covariate shift of single layers along training, and of all layers at a glance (Fig. 3 of the paper)."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from alidade.core.spec import RunSpec
from alidade.report.charts import Frame, Panel, curves, numbers, panel, reference
from alidade.report.figure import Figure, note, spread_words
from alidade.report.layer_names import depths, layer_words, shown_layers
from alidade.report.outcomes import smoothing_window
from alidade.report.panels import over_steps
from alidade.report.scales import Axis, linear_axis, log_axis
from alidade.report.series import Readings, over_seeds, since

PREFIX = "covariate_shift_"
IDEAL_COSINE = 1.0
_COSINE = linear_axis(-1.05, 1.05)
#: The layers that the paper plots, or those at the same depth of a network with 8 convolutions.
_PAPER = {"deep_linear": (9, 17), "vgg": (5, 10), "vgg8": (3, 6)}


@dataclass(frozen=True)
class _Kind:
    """One way of counting the shift."""

    name: str
    title: str
    unit: str
    y: Axis | None = None


def covariate_shift(readings: Readings) -> Figure | None:
    """l2, relative l2 and cosine of two or so layers along training; all layers on top, where they were measured."""
    layers = readings.layers(PREFIX + "l2")
    if not layers:
        return None
    kinds = _kinds(readings)
    chosen = shown_layers(layers, _wanted(readings))
    rows = [tuple(_along(readings, kind, layer) for kind in kinds) for layer in chosen]
    level = readings.level(smoothing_window(readings))
    overview = [_by_layer(readings, kind, layers) for kind in kinds[1:]] if len(layers) > 3 else []
    first = over_steps(readings, "shift-loss", "Training loss", f"{readings.unit}, log scale", level)
    late = since(readings, readings.ok(PREFIX + "cosine", chosen[-1]), 0.5)
    return Figure(
        id="covariate-shift",
        title="How much the layers before it change a layer’s gradient",
        rows=((first, *overview), *rows),
        lead=numbers(
            readings.variants,
            over_seeds(late.group_by("v", "seed").agg(pl.col("y").median()), geometric=False, by=("v",)),
            f"Median cosine in the second half of training, {layer_words(chosen[-1])}",
        ),
        how_to_read=(
            "For one layer the gradient is taken twice on the same batch: before the step, and after the step of only "
            "the layers in front of it. Without internal covariate shift both are the same: the distance is 0 (below "
            "any logarithmic axis) and the cosine 1 (dotted line). The relative distance, over the gradient’s own "
            "length, is the one to compare between networks whose gradients differ in length; above 1 the change is "
            "larger than the gradient itself. A negative cosine means that the earlier layers overstepped: together "
            f"with the loss on top it is a sign of training at the edge of stability. {spread_words(readings)}"
        ),
        note=note(readings, PREFIX + "l2"),
        variants=readings.variants,
    )  # fmt: skip


def _kinds(readings: Readings) -> tuple[_Kind, ...]:
    return (
        _Kind("l2", "gradient distance", f"{readings.unit} per unit of weight, log scale; ideal: 0"),
        _Kind("relative", "relative distance", "in gradient norms, log scale; ideal: 0"),
        _Kind("cosine", "cosine", "dots: the ideal, 1", _COSINE),
    )


def _wanted(readings: Readings) -> tuple[int, ...]:
    spec = readings.variants[0].spec
    if not isinstance(spec, RunSpec):
        return ()
    small = spec.model.kind == "vgg" and spec.model.conv_layers == 8
    return _PAPER["vgg8" if small else spec.model.kind]


def _along(readings: Readings, kind: _Kind, layer: str) -> Panel:
    values = readings.ok(PREFIX + kind.name, layer).select("v", "seed", "x", "y")
    id_ = f"shift-{kind.name}-{layer_words(layer).replace(' ', '')}"
    title = f"{layer_words(layer).capitalize()}: {kind.title}"
    ideal = [IDEAL_COSINE] if kind.y else []
    return over_steps(readings, id_, title, kind.unit, values, kind.y, references=ideal)


def _by_layer(readings: Readings, kind: _Kind, layers: list[str]) -> Panel:
    """Median over training against the layer's number."""
    places = depths(layers)
    rows = readings.rows(PREFIX + kind.name, pl.col("status") == "ok")
    medians = (
        rows.with_columns(pl.col("layer").replace_strict(places, default=None, return_dtype=pl.Int64).alias("x"))
        .group_by("v", "seed", "x")
        .agg(pl.col("value").median().alias("y"))
    )
    drawn = over_seeds(medians.drop_nulls("x"), geometric=kind.y is None)
    x = linear_axis(min(places.values()) - 0.3, max(places.values()) + 0.3)
    y = kind.y or log_axis([*drawn["lo"], *drawn["hi"]])
    title = f"All layers: {kind.title}"
    frame = Frame(f"shift-layers-{kind.name}", title, kind.unit, readings.variants, x, y, "layer →")
    layered = [*curves(frame, drawn, points=True), *reference(frame, [IDEAL_COSINE] if kind.y else [])]
    middle = drawn.group_by("v", maintain_order=True).agg(pl.col(name).median() for name in ("m", "lo", "hi"))
    return panel(frame, layered, numbers(readings.variants, middle, f"{title}, median over layers"))
