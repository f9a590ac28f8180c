"""The kinds of panel that figures are made of. Each is one Vega-Lite chart whose colours are CSS variables."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import altair as alt
import polars as pl
from altair.utils.schemapi import debug_mode

from alidade.report.scales import Axis
from alidade.report.theme import css
from alidade.report.variants import Drawn
from alidade.report.words import number

HEIGHT = 210
MARKS = 40
HOVER = "hover_"  # begins the name of a parameter that follows the pointer
STEP_TITLE = "training step →"
SIZE_TITLE = "step size η →"


def unchecked() -> AbstractContextManager[None]:
    """Charts are made without a check of every part against the schema, which takes most of the time of a page."""
    return debug_mode(False)


@dataclass(frozen=True)
class Panel:
    """One chart of a figure: its Vega-Lite specification, and its numbers in one sentence."""

    id: str
    title: str
    spec: Mapping[str, Any]
    alt: str


@dataclass(frozen=True)
class Frame:
    """What panels of one figure share: who is drawn, and the words around the axes."""

    id: str
    title: str
    subtitle: str  # the vertical axis in words, with its unit
    variants: Sequence[Drawn]
    x: Axis
    y: Axis
    x_title: str = STEP_TITLE
    title_colour: str = "ink"
    height: int = HEIGHT


def data(frame: pl.DataFrame, digits: int = 4) -> alt.InlineData:
    """A frame as compact inline CSV with numbers of ``digits`` significant digits."""
    floats = pl.selectors.float()
    text = frame.with_columns(floats.round_sig_figs(digits)).write_csv()
    parse = {name: "number" if kind.is_numeric() else "string" for name, kind in frame.schema.items()}
    return alt.InlineData(values=text, format=alt.CsvDataFormat(type="csv", parse=parse))


def panel(frame: Frame, layers: Sequence[alt.Chart], said: Numbers | str) -> Panel:
    """Put layers into one chart with the frame's title and size; ``said`` is its text alternative."""
    alt_text = said if isinstance(said, str) else said.text
    with alt.data_transformers.enable(consolidate_datasets=False):
        parts = [layer.to_dict(validate=False) for layer in layers]
    spec = {
        "layer": [{name: part[name] for name in _PARTS if name in part} for part in parts],
        "height": frame.height,
        "title": {"text": frame.title, "subtitle": frame.subtitle, "color": css(frame.title_colour)},
        "description": alt_text,
    }
    return Panel(frame.id, frame.title, _said_once(spec), alt_text)


#: What a layer is made of; the rest belongs to a chart that stands alone.
_PARTS = ("data", "mark", "encoding", "transform", "params")


def _said_once(spec: dict[str, Any]) -> dict[str, Any]:
    """The same chart with data that several layers share written once, under a name."""
    datasets: dict[str, str] = {}
    for part in (spec, *spec["layer"]):
        text = part.get("data", {}).get("values")
        if text:
            name = datasets.setdefault(text, f"d{len(datasets)}")
            part["data"] = {"name": name, "format": part["data"]["format"]}
    return {**spec, "datasets": {name: text for text, name in datasets.items()}}


def without_legend(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The same chart for a page that names the colours itself."""
    layers = [
        {**layer, "encoding": {name: _bare(channel) for name, channel in layer.get("encoding", {}).items()}}
        for layer in spec["layer"]
    ]
    return {**spec, "layer": layers}


def _bare(channel: Any) -> Any:
    return {**channel, "legend": None} if isinstance(channel, dict) and "legend" in channel else channel


def colour(variants: Sequence[Drawn]) -> alt.Color:
    """The fixed colour of each variant, with its name in the legend of an export."""
    scale = alt.Scale(domain=[v.key for v in variants], range=[css(v.colour) for v in variants])
    legend = alt.Legend(title=None, labelExpr=_names(variants)) if len(variants) > 1 else None
    return alt.Color("v:N", scale=scale, legend=legend)


def dash(variants: Sequence[Drawn]) -> dict[str, alt.StrokeDash]:
    """Dashes tell variants of one norm apart; nothing where all are solid."""
    if len({v.dash for v in variants}) < 2:
        return {}
    scale = alt.Scale(domain=[v.key for v in variants], range=[list(v.dash) for v in variants])
    return {"strokeDash": alt.StrokeDash("v:N", scale=scale, legend=alt.Legend(title=None, labelExpr=_names(variants)))}


def _names(variants: Sequence[Drawn]) -> str:
    return f"{json.dumps({v.key: v.label for v in variants}, ensure_ascii=False)}[datum.label]"


def x_of(frame: Frame, field: str = "x:Q") -> alt.X:
    """The horizontal axis."""
    anchor = "start" if frame.x.falling else "end"  # Vega anchors to the scale's range, which then runs backwards
    overlap = "greedy" if frame.x.log else "parity"  # evenly spaced labels stay so
    axis = frame.x.axis(title=frame.x_title or None, labelOverlap=overlap, titleAnchor=anchor)
    return alt.X(field, scale=frame.x.scale, axis=axis)


def y_of(frame: Frame, field: str) -> alt.Y:
    """The vertical axis; its words stand in the subtitle."""
    return alt.Y(field, scale=frame.y.scale, axis=frame.y.axis(title=None, minExtent=38))


def curves(frame: Frame, rows: pl.DataFrame, points: bool = False) -> list[alt.Chart]:
    """Mean lines over the spread between seeds, with a rule that follows the pointer."""
    base = alt.Chart(data(rows))
    tint, dashes = colour(frame.variants), dash(frame.variants)
    spread = base.mark_area(opacity=0.16, clip=True).encode(x=x_of(frame), y=y_of(frame, "lo:Q"), y2="hi:Q", color=tint)
    line = base.mark_line(clip=True).encode(x=x_of(frame), y=y_of(frame, "m:Q"), color=tint, **dashes)
    layers = [spread, line]
    if points:
        layers.append(base.mark_point(size=34, opacity=1).encode(x=x_of(frame), y=y_of(frame, "m:Q"), color=tint))
    return [*layers, *_follow(frame, base)]


def _follow(frame: Frame, base: alt.Chart) -> list[alt.Chart]:
    """A rule at the position nearest to the pointer, with all variants' means in the tooltip."""
    name = HOVER + frame.id.replace("-", "_")
    hover = alt.selection_point(
        name=name, fields=["x"], nearest=True, on="pointerover", clear="pointerout", empty=False
    )
    values = [
        alt.Tooltip(f"{v.key}:Q", title=v.label, format=".1%" if frame.y.percent else ".3~g") for v in frame.variants
    ]
    words = frame.x_title.removesuffix(" →")
    rule = (
        base.transform_pivot("v", value="m", groupby=["x"])
        .mark_rule(color=css("ink-soft"), strokeWidth=1)
        .encode(
            x=x_of(frame),
            opacity=alt.when(hover).then(alt.value(0.6)).otherwise(alt.value(0)),
            tooltip=[alt.Tooltip("x:Q", title=words, format=".3~g"), *values],
        )
        .add_params(hover)
    )
    dots = (
        base.mark_point(size=40, opacity=1)
        .encode(x=x_of(frame), y=y_of(frame, "m:Q"), color=colour(frame.variants))
        .transform_filter(hover)
    )
    return [rule, dots]


def band(frame: Frame, rows: pl.DataFrame, base_line: pl.DataFrame, variant: Drawn) -> list[alt.Chart]:
    """A band between two mean edges, fainter out to the extreme seeds, and a line inside (v, x, m).

    ``rows`` holds x, bottom, low, high, top: the smallest and the mean lower edge, the mean and the largest upper.
    """
    tint = css(variant.colour)
    base = alt.Chart(data(rows))
    outer = base.mark_area(opacity=0.17, color=tint, clip=True).encode(
        x=x_of(frame), y=y_of(frame, "bottom:Q"), y2="top:Q"
    )
    inner = base.mark_area(opacity=0.42, color=tint, clip=True).encode(
        x=x_of(frame), y=y_of(frame, "low:Q"), y2="high:Q"
    )
    if base_line.is_empty():
        return [outer, inner]
    line = alt.Chart(data(base_line)).mark_line(color=tint, strokeWidth=1.8, clip=True)
    return [outer, inner, line.encode(x=x_of(frame), y=y_of(frame, "m:Q"))]


def at_equal_loss(frame: Frame, probes: pl.DataFrame, bins: pl.DataFrame) -> list[alt.Chart]:
    """Every probe as a faint point at its training loss, and the mean within bins of the loss as a line."""
    tint, dashes = colour(frame.variants), dash(frame.variants)
    points = alt.Chart(data(probes.select("v", "x", "y"), digits=3)).mark_point(size=14, opacity=0.22, clip=True)
    base = alt.Chart(data(bins))
    line = base.mark_line(point=alt.OverlayMarkDef(size=30), clip=True).encode(
        x=x_of(frame), y=y_of(frame, "m:Q"), color=tint, **dashes,
        tooltip=[
            alt.Tooltip("x:Q", title="training loss", format=".3~g"),
            alt.Tooltip("m:Q", title=frame.title, format=".3~g"),
            alt.Tooltip("n:Q", title="probes"),
        ],
    )  # fmt: skip
    return [points.encode(x=x_of(frame), y=y_of(frame, "y:Q"), color=tint), line]


def strips(frame: Frame, per_seed: pl.DataFrame, means: pl.DataFrame) -> list[alt.Chart]:
    """One dot per seed on a row per variant, and a bar at the mean; the values run along the horizontal axis."""
    names = _names(frame.variants).replace("datum.label", "datum.value")
    order = [v.key for v in frame.variants]
    rows = alt.Axis(title=None, labelExpr=names, labelColor=css("ink"), labelLimit=170, minExtent=112, labelPadding=12)
    y = alt.Y("v:N", sort=order, axis=rows, scale=alt.Scale(domain=order))
    tint = colour(frame.variants)
    dots = alt.Chart(data(per_seed)).mark_point(size=60, opacity=0.62)
    bar = alt.Chart(data(means)).mark_tick(thickness=2.5, size=20, orient="vertical", opacity=1)
    tips = [alt.Tooltip("seed:Q", title="seed"), alt.Tooltip("y:Q", title=frame.title, format=".3~g")]
    return [
        bar.encode(y=y, x=x_of(frame, "m:Q"), color=tint),
        dots.encode(y=y, x=x_of(frame, "y:Q"), color=tint, tooltip=tips),
    ]


def refused(frame: Frame, marks: pl.DataFrame) -> list[alt.Chart]:
    """Crosses along the top where a number was not finite, hollow rings along the foot where rounding rules."""
    layers = []
    for kind, shape, y in (("infinite", "cross", 3), ("small", "circle", frame.height - 3)):
        rows = _apart(frame, marks.filter(pl.col("kind") == kind).select("v", "x").unique(maintain_order=True))
        if not rows.is_empty():
            mark = alt.Chart(data(rows)).mark_point(shape=shape, size=18, filled=shape == "cross", strokeWidth=1.2)
            angle = {"angle": alt.value(45)} if shape == "cross" else {}
            layers.append(mark.encode(x=x_of(frame), y=alt.value(y), color=colour(frame.variants), **angle))
    return layers


def _apart(frame: Frame, marks: pl.DataFrame) -> pl.DataFrame:
    """At most ``MARKS`` marks of a variant along a linear axis: a run that broke down early is a row, not a bar."""
    low, high = frame.x.domain
    if frame.x.log or not high > low:
        return marks
    place = ((pl.col("x") - low) / (high - low) * MARKS).floor()
    return (
        marks.sort("v", "x")
        .with_columns(place.alias("place"))
        .unique(["v", "place"], keep="first")
        .drop("place")
        .sort("v", "x")
    )


def reference(frame: Frame, values: Sequence[float], solid: bool = False) -> list[alt.Chart]:
    """Horizontal lines, dotted unless they are a threshold; the subtitle says what they are."""
    low, high = frame.y.domain
    rows = pl.DataFrame({"y": [value for value in values if low < value < high]}, schema={"y": pl.Float64})
    if rows.is_empty():
        return []
    dash = [1, 0] if solid else [1, 4]
    rule = alt.Chart(data(rows)).mark_rule(strokeDash=dash, strokeCap="round", strokeWidth=1.8, color=css("ink"))
    return [rule.encode(y=y_of(frame, "y:Q"))]


@dataclass(frozen=True)
class Numbers:
    """What a panel or a figure says in numbers: one per variant, with its spread over seeds."""

    about: str
    entries: tuple[tuple[Drawn, str, str], ...]  # variant, number, spread ("" for one seed)

    @property
    def text(self) -> str:
        """The numbers as a sentence: the text alternative of a chart."""
        if not self.entries:
            return f"{self.about}: no number may be drawn."
        parts = [
            f"{variant.label} {value}" + (f" ({spread})" if spread else "") for variant, value, spread in self.entries
        ]
        return f"{self.about}: {'; '.join(parts)}."


def numbers(variants: Sequence[Drawn], rows: pl.DataFrame, about: str, percent: bool = False) -> Numbers:
    """Each variant's mean and extremes; ``rows`` holds v, m, lo, hi, one row per variant."""

    def write(value: float) -> str:
        return f"{100 * value:.1f} %" if percent else number(value)

    entries = []
    for variant in variants:
        for row in rows.filter(pl.col("v") == variant.key).to_dicts():
            spread = f"{write(row['lo'])} to {write(row['hi'])}" if row["lo"] < row["hi"] else ""
            entries.append((variant, write(row["m"]), spread))
    return Numbers(about, tuple(entries))
