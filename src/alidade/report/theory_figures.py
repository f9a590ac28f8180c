"""The theorems on the page: left side over right side for each form, and Theorem 4.1 along real training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import polars as pl

from alidade.report.charts import STEP_TITLE, Frame, Numbers, Panel, data, panel, x_of, y_of
from alidade.report.figure import Figure, note
from alidade.report.panels import step_axis
from alidade.report.scales import Axis, log_axis
from alidade.report.series import Readings
from alidade.report.theme import css
from alidade.report.words import number

#: Left over right side is drawn from here to there; what lies outside ends at the edge.
LOWEST, HIGHEST = -1.0, 3.0
ROW_HEIGHT = 30
FACTOR, SHARES = "theorem_4_1_ratio", ("theorem_4_1_mean", "theorem_4_1_alignment")
SHARE = "share of the squared gradient, log scale"


def theorems(readings: Readings) -> Figure | None:
    """Distribution of left / right side of every statement of which some form fails."""
    theory = readings.study.theory
    if not theory:
        return None
    rows = _contested(theory["rows"])
    failing = sum(row["verdict"] == "fails" for row in theory["rows"])
    said = f"{failing} of {len(theory['rows'])} statements and forms fail on {theory['instances']} networks each"
    return Figure(
        id="theorems",
        title="The theorems, as printed and as they hold",
        rows=((_distribution(rows, said),),),
        lead=Numbers(said, ()),
        how_to_read=(
            "Each row is one form of a statement, checked on random and adversarial networks: the line spans 98 % of "
            "them, the bar half of them, the dot is the median of left side over right side. An identity holds when "
            "all of it sits on 1, a bound when none of it lies above 1 (a negative right side turns that round, so the "
            "colour is decided by the slack, not by this ratio). Rows in "
            "green hold, rows in red fail; what leaves the frame ends at its edge. Only statements with a failing "
            "form are drawn; all the others hold to rounding."
        ),
        note=f"seed {theory['seed']} · float64 · {theory['instances']} networks per statement",
        variants=(),
    )


def _contested(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Rows of statements (up to the first comma) of which at least one form fails."""
    failing = {row["statement"].split(",")[0] for row in rows if row["verdict"] == "fails"}
    return [row for row in rows if row["statement"].split(",")[0] in failing and row["quantiles"]]


def _distribution(rows: Sequence[Mapping[str, Any]], said: str) -> Panel:
    names = ("p01", "p25", "p50", "p75", "p99")
    frame = pl.DataFrame(
        {
            "name": [f"{row['statement']} · {row['form']}" for row in rows],
            "verdict": [row["verdict"] for row in rows],
            "row": [float(place) + 0.72 for place in range(len(rows))],
            "label": [float(place) + 0.32 for place in range(len(rows))],
            **{n: [min(max(row["quantiles"][n], LOWEST), HIGHEST) for row in rows] for n in names},
        }
    )
    x = alt.Scale(domain=[LOWEST, HIGHEST], nice=False)
    y = alt.Scale(domain=[0, len(rows)], reverse=True, nice=False)
    tint = alt.Color(
        "verdict:N", scale=alt.Scale(domain=["holds", "fails"], range=[css("yes"), css("no")]), legend=None
    )
    base = alt.Chart(data(frame))
    at = alt.Y("row:Q", scale=y, axis=None)
    title = "left side ÷ right side →"
    tips = [alt.Tooltip("name:N", title="form"), alt.Tooltip("p50:Q", title="median", format=".4~g")]
    one = alt.Chart(data(pl.DataFrame({"one": [1.0]}))).mark_rule(
        color=css("ink"), strokeDash=[1, 4], strokeCap="round"
    )
    layers = [
        one.encode(x=alt.X("one:Q", scale=x, axis=alt.Axis(title=title, values=[-1, 0, 1, 2, 3]))),
        base.mark_text(align="left", x=0, color=css("ink"), fontSize=11).encode(
            text="name:N", y=alt.Y("label:Q", scale=y, axis=None)
        ),
        base.mark_rule(strokeWidth=1.5).encode(x=alt.X("p01:Q", scale=x), x2="p99:Q", y=at, color=tint),
        base.mark_rule(strokeWidth=5, opacity=0.45).encode(x=alt.X("p25:Q", scale=x), x2="p75:Q", y=at, color=tint),
        base.mark_point(size=42, opacity=1).encode(x=alt.X("p50:Q", scale=x), y=at, color=tint, tooltip=tips),
    ]
    unused = Axis((0, 1), (), log=False)
    about = "every form of the contested statements"
    height = ROW_HEIGHT * len(rows)
    drawn = Frame("theorems-ratio", "Left over right side", about, (), unused, unused, height=height)
    return panel(drawn, layers, f"{said}.")


def along_training(readings: Readings) -> Figure | None:
    """Theorem 4.1 layer by layer: the gradient below BatchNorm over the one above, and the two terms that lower it."""
    layers = _per_layer(readings, FACTOR)
    if layers.is_empty():
        return None
    shares = [_per_layer(readings, name) for name in SHARES]
    ends = layers.group_by("layer", maintain_order=True).agg(pl.col("m").mean())
    words = "; ".join(f"{layer} {number(value)}" for layer, value in zip(ends["layer"], ends["m"], strict=True))
    return Figure(
        id="theorem-training",
        title="Theorem 4.1 along training",
        rows=(
            (
                _lines(readings, "theorem-ratio", "Squared gradient, before ÷ behind", "log scale", layers),
                _lines(readings, "theorem-mean", "Removed by the mean term", SHARE, shares[0]),
                _lines(readings, "theorem-alignment", "Removed by the alignment term", SHARE, shares[1]),
            ),
        ),
        lead=Numbers(f"Mean over training by layer: {words}", ()),
        how_to_read=(
            "Each line is one BatchNorm layer, from the first (light) to the last (dark), mean over seeds. Left: the "
            "squared gradient at the layer's input divided by the one at its output; below 1 the layer lowers the "
            "Lipschitz constant there. It is gamma² / sigma² times what the two other panels leave: the share taken "
            "away because BatchNorm ignores a shift of its input (mean term), and because it ignores a rescaling "
            "(alignment term). The identity holds to rounding, so nothing else contributes."
        ),
        note=note(readings, FACTOR),
        variants=(),
    )  # fmt: skip


def _per_layer(readings: Readings, quantity: str) -> pl.DataFrame:
    """Mean over seeds by layer and step of the plain BatchNorm network: layer, place, x, m."""
    everything = readings.rows(quantity, pl.col("status") == "ok")
    measured = [variant for variant in readings.variants if variant.key in set(everything["v"])]
    chosen = [variant.key for variant in measured if variant.norm == "batch"] or [v.key for v in measured]
    rows = everything.filter(pl.col("v").is_in(chosen[:1]))
    if rows.is_empty():
        return pl.DataFrame(schema={"layer": pl.String, "place": pl.Float64, "x": pl.Int64, "m": pl.Float64})
    order = {layer: float(place) for place, layer in enumerate(rows["layer"].unique(maintain_order=True))}
    means = rows.group_by("layer", "step", maintain_order=True).agg(pl.col("value").mean().alias("m"))
    return means.with_columns(
        pl.col("layer").replace_strict(order, return_dtype=pl.Float64).alias("place"), pl.col("step").alias("x")
    ).select("layer", "place", "x", "m")


def _lines(readings: Readings, id_: str, title: str, subtitle: str, rows: pl.DataFrame) -> Panel:
    frame = Frame(id_, title, subtitle, (), step_axis(readings), log_axis(rows["m"]), STEP_TITLE)
    last = max(rows["place"], default=1.0) or 1.0
    faded = rows.with_columns((0.25 + 0.75 * pl.col("place") / last).alias("weight"))
    line = alt.Chart(data(faded)).mark_line(color=css("norm-batch"), clip=True)
    tips = [alt.Tooltip("layer:N"), alt.Tooltip("x:Q", title="step"), alt.Tooltip("m:Q", title=title, format=".3~g")]
    drawn = line.encode(
        x=x_of(frame), y=y_of(frame, "m:Q"), detail="layer:N", tooltip=tips,
        opacity=alt.Opacity("weight:Q", scale=None, legend=None),
    )  # fmt: skip
    return panel(frame, [drawn], f"{title}: one line per BatchNorm layer along training.")
