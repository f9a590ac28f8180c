"""Charts of a loss surface (heat map, contours, trajectory) and of the line between two checkpoints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import altair as alt
import numpy as np
import polars as pl

from alidade.core.errors import CallError
from alidade.core.records import OK, Floats
from alidade.core.surface import Interpolation, LossSurface
from alidade.report.charts import Frame, Panel, curves, data, panel
from alidade.report.pictures import fitting_axis
from alidade.report.scales import Axis, linear_axis, linear_ticks, log_ticks
from alidade.report.theme import DASHES, css
from alidade.report.variants import Drawn
from alidade.report.words import number

SURFACE_SIZE = 420
#: A loss is drawn on a logarithmic scale where its largest value exceeds its smallest by this factor.
LOG_RANGE = 20.0
LEVELS = 12
_STATE_SIZE = 26
#: Cells reach a little under the next one, or the paper would show between them.
_LAP = 1.2

_AXES = {
    "random": ("along a random direction", "along another"),
    "given": ("along the first direction", "along the second"),
    "pca": ("first principal component", "second"),
    "checkpoints": ("from the first to the second checkpoint", "across"),
}

Segment = tuple[float, float, float, float]


def surface_panels(surface: LossSurface) -> list[Panel]:
    """One picture: the loss as colour, contours, and the trajectory from its first state (ring) to its last (disc)."""
    fine = surface.losses[surface.status == OK]
    if not fine.size:
        raise CallError("plot: expected a surface with at least one finite loss, got none")
    low, high = float(fine.min()), float(fine.max())
    log = low > 0 and high / low > LOG_RANGE
    x, y = _linear(surface.x), _linear(surface.y)
    frame = Frame("surface", "Loss", _words(surface, log), (), x, y, height=SURFACE_SIZE)
    layers = [_cells(surface, x, y, log)]
    segments = [(level, *segment) for level in _levels(low, high, log) for segment in contour(surface, level, log)]
    if segments:
        layers.append(_contours(segments, x, y))
    said = f"Loss from {number(low)} to {number(high)} over the plane; {number(surface.loss)} at the origin."
    return [panel(frame, layers + _path(surface, x, y), said)]


def interpolation_panels(line: Interpolation) -> list[Panel]:
    """The loss against the fraction of the way."""
    rows = pl.DataFrame({"x": line.fractions, "m": line.losses, "status": line.status}).filter(pl.col("status") == OK)
    if rows.is_empty():
        raise CallError("plot: expected an interpolation with at least one finite loss, got none")
    drawn = rows.select(pl.lit("v0").alias("v"), "x", "m", lo="m", hi="m")
    me = [Drawn("v0", "interpolation", "norm-batch", DASHES[0])]
    y = fitting_axis([*rows["m"]])
    words = (
        f"nat{', log scale' if y.log else ''}; {line.provenance.statistics} statistics; barrier {number(line.barrier)}"
    )
    x = linear_axis(0.0, 1.0)
    frame = Frame("interpolation", "Loss between two checkpoints", words, me, x, y, "fraction of the way →")
    said = f"Loss from {number(line.losses[0])} to {number(line.losses[-1])}, barrier {number(line.barrier)}."
    return [panel(frame, curves(frame, drawn, points=True), said)]


def _linear(values: Floats) -> Axis:
    """From the outer edge of the first cell to that of the last."""
    half = (values[1] - values[0]) / 2
    return linear_axis(float(values[0] - half), float(values[-1] + half))


def _words(surface: LossSurface, log: bool) -> str:
    """The unit and what the picture cannot show by itself, in one line."""
    parts = ["nat" + (", log scale" if log else "")]
    if surface.normalize == "filter":
        parts.append("1 on an axis: each filter moved by its own norm")
    if surface.explained_variance is not None:
        shares = " + ".join(f"{100 * share:.0f} %" for share in surface.explained_variance)
        parts.append(f"{shares} of the trajectory's variance")
    if (surface.status != OK).any():
        parts.append("blank: not finite")
    return "; ".join(parts)


def _cells(surface: LossSurface, x: Axis, y: Axis, log: bool) -> alt.Chart:
    """One rectangle per point of the grid, with the point in its middle."""
    dx, dy = (float(axis[1] - axis[0]) / 2 for axis in (surface.x, surface.y))
    a, b = np.meshgrid(surface.x, surface.y, indexing="ij")
    table = pl.DataFrame({"x": a.ravel(), "y": b.ravel(), "loss": surface.losses.ravel()})
    table = table.filter(pl.col("loss").is_finite()).with_columns(
        x0=pl.col("x") - dx, x1=pl.col("x") + _LAP * dx, y0=pl.col("y") - dy, y1=pl.col("y") + _LAP * dy
    )
    first, second = _AXES[surface.directions]
    scale = alt.Scale(type="log" if log else "linear", scheme="viridis", reverse=True, nice=False, zero=False)
    legend = alt.Legend(title=None, type="gradient", orient="right", gradientLength=SURFACE_SIZE - 20, format=".3~g")
    tips = [alt.Tooltip("x:Q", format=".3~g"), alt.Tooltip("y:Q", format=".3~g"), alt.Tooltip("loss:Q", format=".4~g")]
    chart: alt.Chart = (
        alt.Chart(data(table, digits=6))
        .mark_rect(clip=True)
        .encode(
            x=alt.X("x0:Q", scale=x.scale, axis=x.axis(title=f"{first} →", titleAnchor="end")),
            x2="x1:Q",
            y=alt.Y("y0:Q", scale=y.scale, axis=y.axis(title=f"{second} →", titleAnchor="end")),
            y2="y1:Q",
            color=alt.Color("loss:Q", scale=scale, legend=legend),
            tooltip=tips,
        )
    )
    return chart


def _contours(segments: Sequence[tuple[float, ...]], x: Axis, y: Axis) -> alt.Chart:
    table = pl.DataFrame(segments, schema=["loss", "x", "y", "x2", "y2"], orient="row")
    chart: alt.Chart = (
        alt.Chart(data(table, digits=5))
        .mark_rule(color=css("paper"), strokeWidth=0.8, opacity=0.75, strokeCap="round")
        .encode(
            x=alt.X("x:Q", scale=x.scale), x2="x2:Q", y=alt.Y("y:Q", scale=y.scale), y2="y2:Q",
            tooltip=[alt.Tooltip("loss:Q", title="contour", format=".3~g")],
        )
    )  # fmt: skip
    return chart


def _path(surface: LossSurface, x: Axis, y: Axis) -> list[alt.Chart]:
    """The trajectory inside the picture, its first and last state marked; or a cross at the origin without one."""
    states = surface.trajectory if len(surface.trajectory) else np.zeros((1, 2))
    losses = surface.trajectory_losses if len(surface.trajectory) else np.array([surface.loss])
    table = pl.DataFrame({"x": states[:, 0], "y": states[:, 1], "loss": losses, "state": np.arange(len(states))})
    table = table.with_columns(pl.when(pl.col("loss").is_finite()).then(pl.col("loss")).alias("loss"))
    base = alt.Chart(data(table, digits=6)).encode(
        x=alt.X("x:Q", scale=x.scale), y=alt.Y("y:Q", scale=y.scale), order=alt.Order("state:Q")
    )
    dots = base.encode(tooltip=[alt.Tooltip("state:Q"), alt.Tooltip("loss:Q", title="its own loss", format=".4~g")])
    ink, paper = css("ink"), css("paper")
    if len(states) == 1:
        return [dots.mark_point(shape="cross", size=70, filled=True, color=ink, stroke=paper, strokeWidth=1, clip=True)]
    halo = base.mark_line(color=paper, strokeWidth=3.4, opacity=0.8, clip=True)
    line = base.mark_line(color=ink, strokeWidth=1.6, clip=True)
    marks = dots.mark_point(size=_STATE_SIZE, opacity=1, color=ink, stroke=paper, strokeWidth=0.8, clip=True)
    start = base.transform_filter("datum.state == 0").mark_point(
        size=95, opacity=1, color=paper, stroke=ink, strokeWidth=1.8, clip=True
    )
    last = base.transform_filter(f"datum.state == {len(states) - 1}").mark_point(
        size=95, opacity=1, color=ink, stroke=paper, strokeWidth=1.2, clip=True
    )
    return [halo, line, marks, start, last]


def _levels(low: float, high: float, log: bool) -> tuple[float, ...]:
    """Losses at which to draw a contour, evenly spread on the scale of the colours."""
    if not high > low:
        return ()
    if not log:
        return tuple(level for level in linear_ticks(low, high, LEVELS) if low < level < high)
    decades = [level for level in log_ticks(low, high) if low < level < high]
    if len(decades) > LEVELS // 2:
        return tuple(decades)
    spread = np.geomspace(low, high, LEVELS + 2)[1:-1]
    return tuple(float(level) for level in spread)


def contour(surface: LossSurface, level: float, log: bool = False) -> Iterator[Segment]:
    """Pieces (x, y, x2, y2) of the line where the interpolated loss, or its logarithm, is at the level.

    Each cell is cut into four triangles around its mean, and each of them has one piece or none. Cells with a loss
    that is not finite have none.
    """
    z = np.log(surface.losses / level) if log else surface.losses - level
    for i, (x0, x1) in enumerate(pairwise(surface.x)):
        for j, (y0, y1) in enumerate(pairwise(surface.y)):
            values = (z[i, j], z[i + 1, j], z[i + 1, j + 1], z[i, j + 1])
            if not np.isfinite(values).all() or min(values) > 0 or max(values) <= 0:
                continue
            corners = [*zip((x0, x1, x1, x0), (y0, y0, y1, y1), values, strict=True)]
            centre = ((x0 + x1) / 2, (y0 + y1) / 2, sum(values) / 4)
            for first, second in pairwise([*corners, corners[0]]):
                yield from _crossing(first, second, centre)


Point = tuple[float, float, float]


def _crossing(*triangle: Point) -> Iterator[Segment]:
    """The piece inside one triangle: from the one of its sides that changes sign to the other."""
    ends: list[tuple[float, float]] = []
    for (x, y, z), (x2, y2, z2) in pairwise([*triangle, triangle[0]]):
        if (z > 0) != (z2 > 0):
            part = z / (z - z2)
            ends.append((float(x + part * (x2 - x)), float(y + part * (y2 - y))))
    if len(ends) == 2:
        yield (*ends[0], *ends[1])
