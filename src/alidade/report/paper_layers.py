"""How curves of the paper are drawn into a chart of ours: behind everything, pale, and only while it shows them.

The chart gets a parameter ``paper``. While it is false nothing of the paper is drawn and the axes are those of our
numbers; while it is true the vertical axis takes in the paper's as well.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import polars as pl

from alidade.report.charts import Panel, data
from alidade.report.scales import Axis, linear_axis, log_axis
from alidade.report.theme import css
from alidade.report.variants import Drawn

#: Name of the chart's parameter, which the page's switch sets, and of the data that it shows.
SIGNAL = "paper"
#: Opacity of lines and of bands.
_LINE, _BAND = 0.4, 0.2
#: Of the paper's values on a logarithmic axis this share at either end may leave the frame: plain networks explode.
_OUTLYING = 0.02


def with_curves(panel: Panel, rows: pl.DataFrame, variants: Sequence[Drawn], reach: pl.DataFrame, shown: bool) -> Panel:
    """The panel with ``rows`` behind its layers.

    Args:
        panel: a chart whose layers share both axes.
        rows: v, x and y of lines, or v, x, low and high of bands; further columns are kept for filters. There may be
            none, for the sake of the axis.
        variants: whose colours are used.
        reach: the values that the vertical axis takes in; panels that share an axis give the same ones.
        shown: whether the curves show before anyone touches the switch.
    """
    x, y = _axes(panel.spec)
    fields = ("low", "high") if "low" in rows.columns else ("y",)
    if y["scale"]["type"] == "log":
        rows, reach = (part.filter(pl.min_horizontal(fields) > 0) for part in (rows, reach))
    inline = data(rows, digits=4)
    source = {"name": SIGNAL, "format": inline.to_dict()["format"]}
    tint = {"field": "v", "type": "nominal", "legend": None, "scale": _colours(variants)}
    drawn = [_layer(source, x, y, fields, tint, [SIGNAL, *_chosen(panel.spec, rows)])]
    spec = _widened({**panel.spec, "layer": [*drawn, *panel.spec["layer"]]}, _wide(y["scale"], reach))
    return replace(
        panel,
        spec={
            **spec,
            "datasets": {**panel.spec["datasets"], SIGNAL: inline.values},
            "params": [*panel.spec.get("params", ()), {"name": SIGNAL, "value": shown}],
        },
    )


def _axes(spec: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The encodings of both axes, from the first layer that has them."""
    for layer in spec["layer"]:
        encoding = layer["encoding"]
        if "scale" in encoding.get("x", {}) and "scale" in encoding.get("y", {}):
            return dict(encoding["x"]), dict(encoding["y"])
    raise ValueError("expected a layer with a scale on both axes")


def _layer(
    source: dict[str, Any],
    x: dict[str, Any],
    y: dict[str, Any],
    fields: Sequence[str],
    tint: dict[str, Any],
    filters: Sequence[str],
) -> dict[str, Any]:
    mark = {"type": "line", "strokeWidth": 1.1, "opacity": _LINE}
    encoding = {"x": {**x, "field": "x"}, "y": {**y, "field": fields[0]}, "color": tint}
    if len(fields) > 1:
        mark = {"type": "area", "opacity": 1, "fillOpacity": _BAND, "strokeOpacity": _LINE, "strokeWidth": 0.7}
        encoding |= {"y2": {"field": fields[1]}, "stroke": tint}
    return {
        "data": source,
        "transform": [{"filter": condition} for condition in filters],
        "mark": {**mark, "clip": True, "tooltip": False},
        "encoding": encoding,
    }


def _colours(variants: Sequence[Drawn]) -> dict[str, Any]:
    return {"domain": [v.key for v in variants], "range": [css(v.colour) for v in variants]}


def _chosen(spec: Mapping[str, Any], rows: pl.DataFrame) -> list[str]:
    """The filter of a chart whose slider chooses the training step: its own layers have it already."""
    if "s" not in rows.columns:
        return []
    filters = [t["filter"] for layer in spec["layer"] for t in layer.get("transform", ()) if "filter" in t]
    return [next(text for text in filters if isinstance(text, str) and text.startswith("datum.s "))]


def _wide(scale: Mapping[str, Any], reach: pl.DataFrame) -> Axis | None:
    """The axis that takes in the paper's values too; None where ours does already."""
    low, high = scale["domain"]
    values = pl.concat([reach[name] for name in ("y", "low", "high") if name in reach.columns])
    if scale["type"] == "log":
        ends = [values.quantile(_OUTLYING), values.quantile(1 - _OUTLYING)]
    else:
        ends = [values.min(), values.max()]  # type: ignore[list-item]
    if ends[0] is None or ends[1] is None or (low <= ends[0] and ends[1] <= high):
        return None
    both = (min(low, ends[0]), max(high, ends[1]))
    return log_axis(both) if scale["type"] == "log" else linear_axis(*both)


def _widened(spec: dict[str, Any], wide: Axis | None) -> dict[str, Any]:
    """The chart whose vertical axis depends on the switch."""
    if wide is None:
        return spec
    layers = [{**layer, "encoding": _with_axis(layer["encoding"], wide)} for layer in spec["layer"]]
    return {**spec, "layer": layers}


def _with_axis(encoding: Mapping[str, Any], wide: Axis) -> dict[str, Any]:
    y = encoding.get("y", {})
    if "scale" not in y or "axis" not in y:
        return dict(encoding)
    domain = [_either(b, a) for a, b in zip(y["scale"]["domain"], wide.domain, strict=True)]
    there = wide.axis().to_dict()
    axis = {
        **y["axis"],
        "values": _either(there["values"], y["axis"]["values"]),
        "labelExpr": f"{SIGNAL} ? {there['labelExpr']} : {y['axis']['labelExpr']}",
    }
    return {**encoding, "y": {**y, "scale": {**y["scale"], "domain": domain}, "axis": axis}}


def _either(there: object, here: object) -> dict[str, str]:
    return {"expr": f"{SIGNAL} ? {json.dumps(there)} : {json.dumps(here)}"}
