"""Charts of measurements that have one number per layer: covariate shift, scalars, activations, Theorem 4.1."""

from __future__ import annotations

import altair as alt
import polars as pl

from alidade.core.records import OK, Measured, Row
from alidade.report.charts import Frame, Panel, data, panel
from alidade.report.pictures import fitting_axis
from alidade.report.theme import css

ROW_HEIGHT = 20


def layer_panels(measured: Measured) -> list[Panel]:
    """One panel per quantity, one dot per layer from the first (top) to the last; only what has status "ok"."""
    rows = [row for row in measured.rows(0) if row.layer is not None and row.status == OK]
    by_quantity: dict[str, list[Row]] = {}
    for row in rows:
        by_quantity.setdefault(row.quantity, []).append(row)
    return [_dots(quantity, found) for quantity, found in by_quantity.items()]


def _dots(quantity: str, rows: list[Row]) -> Panel:
    table = pl.DataFrame({"layer": [row.layer for row in rows], "value": [row.value for row in rows]})
    names = list(dict.fromkeys(table["layer"]))
    x = fitting_axis(table["value"].to_list())
    unit = rows[0].unit.replace("^2", "²")
    words = ("no unit" if unit == "1" else unit) + (", log scale" if x.log else "")
    title = quantity.replace("_", " ").capitalize()
    frame = Frame(quantity.replace("_", "-"), title, words, (), x, x, height=ROW_HEIGHT * len(names))
    y = alt.Y("layer:N", sort=names, axis=alt.Axis(title=None, grid=True, labelLimit=200))
    dots = alt.Chart(data(table)).mark_point(size=55, opacity=1, color=css("norm-batch"))
    tips = [alt.Tooltip("layer:N"), alt.Tooltip("value:Q", title=title, format=".4~g")]
    drawn = dots.encode(x=alt.X("value:Q", scale=x.scale, axis=x.axis(title=None, grid=True)), y=y, tooltip=tips)
    said = "; ".join(f"{layer} {value:.4g}" for layer, value in table.iter_rows())
    return panel(frame, [drawn], f"{title}: {said}.")
