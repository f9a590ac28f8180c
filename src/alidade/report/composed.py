"""Panels and figures as one chart: what ``alidade.plot`` shows and ``alidade report --figures`` writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from alidade.report.charts import Panel, without_legend
from alidade.report.paper_layers import SIGNAL
from alidade.report.theme import css

if TYPE_CHECKING:
    from alidade.report.figure import Figure
    from alidade.report.variants import Drawn

_WIDTH = 300
_PER_ROW = 3  # panels of a figure beside each other
_LINE = 150  # characters of the fine print on one line
_ENTRY = 165  # room for one name in the legend
_GAP, _LETTER = 76, 6  # between panels, for the labels of their axes; of the small print, wide
_BREADTH = 3 * (_WIDTH + _GAP)
APART = {"scale": {"color": "independent", "strokeDash": "independent"}}

#: The slider lives on the page.
ON_THE_PAGE = ("stepper",)


def composed_figures(drawn: Sequence[Figure]) -> dict[str, Any]:
    """Figures below each other, in one flat list of rows: PDF allows only so many nested groups.

    What of the paper stands behind a figure shows, whatever the page's switch would begin with.
    """
    parts = [(figure, _filled(_short_rows(figure))) for figure in drawn]
    rows = [row for figure, part in parts for row in (_legend(figure), *part["vconcat"])]
    datasets = {name: values for _, part in parts for name, values in part["datasets"].items()}
    behind = any(figure.backdrop for figure in drawn)
    switch = {"params": [{"name": SIGNAL, "value": True}]} if behind else {}
    return {"vconcat": rows, "resolve": APART, "datasets": datasets, "spacing": 40, **switch}


def _short_rows(figure: Figure) -> list[Sequence[Panel]]:
    return [row[i : i + _PER_ROW] for row in figure.rows for i in range(0, len(row), _PER_ROW)]


def _legend(figure: Figure) -> dict[str, Any]:
    """The figure's title, its fine print, and a stroke and a name for every network."""
    left = _extent(figure.rows[0])
    title = {
        "text": f"{figure.title}: {figure.setting}" if figure.setting else figure.title,
        "subtitle": wrap(figure.note, _LINE),
        "fontSize": 17,
        "offset": 14,
        "dx": -left,
    }
    named = tuple({drawn.key: drawn for drawn, _, _ in figure.lead.entries}.values())
    shown = named if len(named) > 1 else ()
    layers = [layer for place, variant in enumerate(shown) for layer in _entry(place * _ENTRY, variant)]
    behind = [_words(len(shown) * _ENTRY, "pale: the paper’s curves", "ink-soft")] if figure.backdrop else []
    return {"layer": [*layers, *behind] or [_words(0, "", "ink")], "title": title, "width": 3 * _WIDTH, "height": 14}


def _entry(x: int, variant: Drawn) -> list[dict[str, Any]]:
    colour, dash = css(variant.colour), list(variant.dash)
    stroke = {"type": "rule", "color": colour, "strokeWidth": 2.4, "strokeDash": dash}
    where = {"x": {"value": x}, "x2": {"value": x + 26}, "y": {"value": 7}}
    return [
        {"data": {"values": [{}]}, "mark": stroke, "encoding": where},
        _words(x + 33, variant.label, variant.colour),
    ]


def _words(x: float, text: str, colour: str) -> dict[str, Any]:
    mark = {"type": "text", "align": "left", "baseline": "middle", "text": text, "color": css(colour), "fontSize": 12}
    return {"data": {"values": [{}]}, "mark": mark, "encoding": {"x": {"value": x}, "y": {"value": 7}}}


def composed(rows: Sequence[Sequence[Panel]], width: int = _WIDTH, spacing: int = 76) -> dict[str, Any]:
    """Rows of panels as one Vega-Lite chart, with one legend: that of the first panel that has one.

    ``spacing`` is the room for the labels of the vertical axes, where these do not ask for more.
    """
    with_legend = next((panel.id for row in rows for panel in row if _has_legend(panel.spec)), None)
    lines = [[_view(p, width) if p.id == with_legend else without_legend(_view(p, width)) for p in row] for row in rows]
    return _stacked(rows, lines, spacing)


def _filled(rows: Sequence[Sequence[Panel]]) -> dict[str, Any]:
    """Rows without legends whose panels share one breadth."""
    lines = []
    for row in rows:
        width = _BREADTH // len(row) - _GAP if len(row) > 1 else 2 * _WIDTH
        lines.append([_wrapped(without_legend(_view(panel, width)), width) for panel in row])
    return _stacked(rows, lines, _GAP)


def _wrapped(view: Mapping[str, Any], width: int) -> dict[str, Any]:
    """The view with its words about the vertical axis on lines that it has room for."""
    title = view["title"]
    return {**view, "title": {**title, "subtitle": wrap(title["subtitle"], width // _LETTER) or [""]}}


def _stacked(
    rows: Sequence[Sequence[Panel]], lines: Sequence[Sequence[Mapping[str, Any]]], spacing: int
) -> dict[str, Any]:
    stacked = [
        {"hconcat": views, "resolve": APART, "bounds": "flush", "spacing": _room(row, spacing)}
        for row, views in zip(rows, lines, strict=True)
    ]
    return {"vconcat": stacked, "resolve": APART, "datasets": _datasets([panel for row in rows for panel in row])}


def _room(row: Sequence[Panel], least: int) -> int:
    """Between panels: more where names stand along the vertical axis."""
    return max(least, 38 + _extent(row))


def _extent(row: Sequence[Panel]) -> int:
    """How far the labels of the vertical axes reach to the left."""
    extents = [
        channel["axis"].get("minExtent", 0)
        for panel in row
        for layer in panel.spec["layer"]
        if isinstance(channel := layer.get("encoding", {}).get("y", {}), dict) and channel.get("axis")
    ]
    return int(max(extents, default=0))


def _view(panel: Panel, width: int) -> dict[str, Any]:
    """A panel as part of a larger chart: its data go by names that no other panel uses."""
    view = {name: value for name, value in panel.spec.items() if name not in ("datasets", "params")}
    layers = [{**layer, **_renamed(layer, panel.id)} for layer in view["layer"]]
    return {**view, **_renamed(view, panel.id), "layer": layers, "width": width}


def _renamed(part: Mapping[str, Any], panel: str) -> dict[str, Any]:
    if "name" not in part.get("data", {}):
        return {}
    return {"data": {**part["data"], "name": f"{panel}-{part['data']['name']}"}}


def _datasets(panels: Sequence[Panel]) -> dict[str, Any]:
    return {f"{panel.id}-{name}": values for panel in panels for name, values in panel.spec["datasets"].items()}


def _has_legend(spec: Mapping[str, Any]) -> bool:
    channels = [channel for layer in spec["layer"] for channel in layer.get("encoding", {}).values()]
    return any(isinstance(channel, dict) and channel.get("legend") for channel in channels)
