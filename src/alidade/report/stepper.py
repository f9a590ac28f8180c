"""The line profile at one training step: what the slider of the page moves through."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import polars as pl

from alidade.report.charts import SIZE_TITLE, Frame, Numbers, Panel, colour, curves, dash, data, panel, x_of, y_of
from alidade.report.figure import Figure, note, spread_words
from alidade.report.outcomes import smoothing_window
from alidade.report.panels import step_axis
from alidade.report.scales import Axis, log_axis
from alidade.report.series import UPDATE, Readings, over_seeds, thinned
from alidade.report.theme import css
from alidade.report.words import number

MOST_STEPS = 80
#: Name of the Vega signal that the slider sets.
SIGNAL = "step"


def stepper(readings: Readings) -> Figure | None:
    """Loss and gradient distance against the step size, at the step that the slider chooses."""
    loss = _profile(readings, "loss")
    if loss.is_empty():
        return None
    distance = _profile(readings, "gradient_distance")
    steps = sorted(loss["s"].unique().to_list())
    start = min(steps, key=lambda step: abs(step - steps[-1] / 4))
    base = over_seeds(readings.base(readings.along), geometric=True).rename({"x": "s"})
    base = base.filter(pl.col("s").is_in(steps)).select("v", "s", "m")
    readout, x = _readout(readings, loss, base, steps, start), _sizes(loss)
    panels = [
        _view(
            readings,
            "profile-loss",
            "Loss after the step",
            f"{readings.unit}, log scale; dashes: where it stands",
            loss,
            base,
            x,
            start,
        )
    ]
    if not distance.is_empty():
        unit = f"{readings.unit} per unit of weight, log scale"
        panels.append(_view(readings, "profile-gradient", "Gradient distance", unit, distance, None, x, start))
    return Figure(
        id="stepper",
        title=f"Stand at a step and look along {'its way' if readings.along == UPDATE else 'the gradient'}",
        rows=((_overview(readings, start),), tuple(panels)),
        lead=_describe(readings, readout),
        how_to_read=(
            "Move the slider, or press play, to choose a training step. The left view shows the loss that a gradient "
            "step of size η would lead to; a curve that dips below its dashed line is a step that helps, one that "
            "climbs above it overshoots. The right view shows how much the gradient has changed on the way there. The "
            f"axes stay where they are, so that curves move and the ground does not. {spread_words(readings)}"
        ),
        note=note(readings, readings.along + "loss", None),
        variants=readings.variants,
        stepper=readout,
    )


def _profile(readings: Readings, quantity: str) -> pl.DataFrame:
    """Mean and spread over seeds: v, s (training step), x (step size), m, lo, hi."""
    rows = readings.ok(readings.along + quantity).filter(pl.col("eta") > 0).rename({"x": "s", "eta": "x"})
    return thinned(over_seeds(rows, geometric=True, by=("v", "s", "x")), MOST_STEPS, "s")


def _sizes(loss: pl.DataFrame) -> Axis:
    sizes = sorted(loss["x"].unique())
    return log_axis(sizes, ticks=sizes if len(sizes) <= 8 else None)


def _view(
    readings: Readings,
    id_: str,
    title: str,
    subtitle: str,
    rows: pl.DataFrame,
    base: pl.DataFrame | None,
    x: Axis,
    start: int,
) -> Panel:
    tints = [rows["lo"].quantile(0.02), rows["hi"].quantile(0.98)]  # single outlying seeds may leave the frame
    values = [*rows["m"], *tints, *(base["m"] if base is not None else [])]
    frame = Frame(id_, title, subtitle, readings.variants, x, log_axis(values), SIZE_TITLE, height=260)
    here = f"datum.s == {SIGNAL}"
    chosen = alt.Chart(data(rows)).transform_filter(here)
    tint, dashes = colour(readings.variants), dash(readings.variants)
    layers = [
        chosen.mark_area(opacity=0.16, clip=True).encode(x=x_of(frame), y=y_of(frame, "lo:Q"), y2="hi:Q", color=tint),
        chosen.mark_line(clip=True).encode(x=x_of(frame), y=y_of(frame, "m:Q"), color=tint, **dashes),
        chosen.mark_point(size=40, opacity=1).encode(
            x=x_of(frame), y=y_of(frame, "m:Q"), color=tint,
            tooltip=[alt.Tooltip("x:Q", title="step size η"), alt.Tooltip("m:Q", title=title, format=".3~g")],
        ),
    ]  # fmt: skip
    if base is not None:
        level = alt.Chart(data(base)).transform_filter(here).mark_rule(strokeDash=[5, 4], strokeWidth=1.4)
        layers.append(level.encode(y=y_of(frame, "m:Q"), color=tint))
    made = panel(frame, layers, f"{title} against the step size; the slider chooses the training step.")
    return _with_signal(made, start)


def _with_signal(made: Panel, start: int) -> Panel:
    return Panel(made.id, made.title, {**made.spec, "params": [{"name": SIGNAL, "value": start}]}, made.alt)


def _overview(readings: Readings, start: int) -> Panel:
    """The training loss with a rule at the chosen step: where on the way one stands."""
    rows = thinned(over_seeds(readings.level(smoothing_window(readings)), geometric=True))
    y = log_axis([*rows["lo"], *rows["hi"]])
    frame = Frame(
        "profile-overview", "Training loss", f"{readings.unit}, log scale; the rule marks the chosen step",
        readings.variants, step_axis(readings), y, x_title="", height=72,
    )  # fmt: skip
    here = alt.Chart(data(pl.DataFrame({"k": [0]}))).transform_calculate(x=SIGNAL)
    rule = here.mark_rule(color=css("ink"), strokeWidth=1.5).encode(x=x_of(frame))
    words = "Training loss over steps, with a rule at the step that the slider chooses."
    return _with_signal(panel(frame, [*curves(frame, rows)[:2], rule], words), start)


def _readout(
    readings: Readings, loss: pl.DataFrame, base: pl.DataFrame, steps: Sequence[int], start: int
) -> dict[str, Any]:
    """What stands beside the slider: per variant and step the loss here, and after the step of the training."""
    before = {(row["v"], row["s"]): row["m"] for row in base.to_dicts()}
    after = _after_the_step(readings, loss)
    cells = {
        variant.key: [_change(before.get((variant.key, step)), after.get((variant.key, step))) for step in steps]
        for variant in readings.variants
    }
    return {"steps": list(steps), "start": steps.index(start), "cells": cells, "signal": SIGNAL}


def _change(before: float | None, after: float | None) -> str:
    return " → ".join("–" if value is None else number(value) for value in (before, after))


def _after_the_step(readings: Readings, rows: pl.DataFrame) -> dict[tuple[str, int], float]:
    """The mean at the step that training takes (the learning rate along the gradient, 1 along the update)."""
    found: dict[tuple[str, int], float] = {}
    for variant in readings.variants:
        size = 1.0 if readings.along == UPDATE else variant.learning_rate or 0.0
        near = (pl.col("x") - size).abs() < 1e-6 * size
        own = rows.filter((pl.col("v") == variant.key) & near)
        found |= {(row["v"], row["s"]): row["m"] for row in own.to_dicts()}
    return found


def _describe(readings: Readings, readout: dict[str, Any]) -> Numbers:
    """The slider's first position in words; the page keeps the numbers up to date."""
    entries = tuple((variant, readout["cells"][variant.key][readout["start"]], "") for variant in readings.variants)
    step = "the optimizer’s step" if readings.along == UPDATE else "one step of η = learning rate"
    return Numbers(f"Loss here → after {step} ({readings.unit})", entries)
