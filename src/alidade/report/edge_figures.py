"""What the plateau of effective smoothness at 2 / learning rate is: the edge of stability, or saturation."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import polars as pl

from alidade.claims.quantities import WARM_UP
from alidade.report.charts import Frame, Panel, curves, data, numbers, panel, reference, x_of, y_of
from alidade.report.figure import Figure, note
from alidade.report.outcomes import outcomes
from alidade.report.panels import over_steps
from alidade.report.scales import Axis, linear_axis, log_axis
from alidade.report.series import Readings, over_seeds, over_training, per_seed, since
from alidade.report.theme import css

EDGE = 2.0
RATIO_TITLE = "step size ÷ learning rate →"
_CURVATURE = linear_axis(-1.0, 5.0)


def edge(readings: Readings) -> Figure | None:
    """Effective smoothness and directional curvature in units of 1 / learning rate, along training and by step size."""
    if readings.along or not readings.has("directional_curvature"):
        return None
    largest = _times_rate(readings, readings.reduced("effective_smoothness", "max"))
    smooth, curvature = (
        _times_rate(readings, readings.ok(name).filter(pl.col("eta") > 0))
        for name in ("effective_smoothness", "directional_curvature")
    )
    if largest.is_empty() or curvature.is_empty():
        return None
    smallest = curvature.filter(pl.col("eta") == pl.col("eta").min().over("v")).select("v", "seed", "x", "y")
    return Figure(
        id="edge",
        title="The plateau at 2 / learning rate: edge of stability or saturation",
        rows=_rows(readings, largest, smooth, curvature, smallest),
        lead=numbers(
            readings.variants,
            over_training(readings, smallest, geometric=False),
            "Directional curvature × learning rate at the smallest step size, mean over training",
        ),
        how_to_read=(
            "Two things can hold effective smoothness at 2 / learning rate. At the edge of stability the curvature "
            "along the gradient is itself 2 / learning rate: the signed directional curvature (right) then tends to 2 "
            "as the step size shrinks. Saturation is different: a step that wipes out the gradient has a gradient "
            "distance of one gradient norm whatever the curvature, so β is 1 / step size, and the largest over a list "
            "is 1 / its smallest step; points then lie on the falling dotted line of the lower left panel, and the "
            "plateau says how the list was chosen. Which one it is may differ between networks."
        ),
        note=note(readings, "directional_curvature", "", ["lower row: mean over training after the first tenth"]),
        variants=readings.variants,
        remarks=outcomes(readings),
    )


def _rows(
    readings: Readings, largest: pl.DataFrame, smooth: pl.DataFrame, curvature: pl.DataFrame, smallest: pl.DataFrame
) -> tuple[tuple[Panel, ...], ...]:
    """Along training, and step size by step size."""
    flat = "1 / learning rate; dots: 2"
    along = (
        over_steps(readings, "edge-smoothness", "Effective smoothness × learning rate, largest over the list",
                   "log scale; dots: 2", largest, references=[EDGE]),
        over_steps(readings, "edge-curvature", "Curvature × learning rate at the smallest step size",
                   flat, smallest, _CURVATURE, references=[EDGE]),
    )  # fmt: skip
    sizes = (
        _per_size(readings, "edge-smoothness-by-size", "Effective smoothness × learning rate, per step size", smooth),
        _per_size(readings, "edge-curvature-by-size", "Curvature × learning rate, per step size", curvature,
                  _CURVATURE),
    )  # fmt: skip
    return (along, sizes)


def _times_rate(readings: Readings, rows: pl.DataFrame) -> pl.DataFrame:
    """Values times the learning rate of their network; step sizes, where there are any, in units of it."""
    rates = {variant.key: variant.learning_rate or float("nan") for variant in readings.variants}
    rate = pl.col("v").replace_strict(rates, return_dtype=pl.Float64)
    scaled = rows.with_columns(pl.col("y") * rate)
    if "eta" in rows.columns:
        scaled = scaled.with_columns((pl.col("eta") / rate).round_sig_figs(4))
    return scaled


def _per_size(readings: Readings, id_: str, title: str, rows: pl.DataFrame, y: Axis | None = None) -> Panel:
    late = since(readings, rows, WARM_UP).rename({"eta": "size"})
    means = per_seed(late, geometric=y is None, by=("v", "seed", "size"))
    drawn = over_seeds(means.rename({"size": "x"}), geometric=y is None)
    sizes = sorted(drawn["x"].unique())
    x = log_axis(sizes, ticks=sizes if len(sizes) <= 8 else None)
    words = "dots: 2" + ("" if y else ", and the falling line of saturation; log scale")
    vertical = y or log_axis([*drawn["lo"], *drawn["hi"], EDGE])
    frame = Frame(id_, title, words, readings.variants, x, vertical, RATIO_TITLE)
    layers = [*reference(frame, [EDGE]), *([] if y else _saturation(frame, sizes)), *curves(frame, drawn, points=True)]
    first = drawn.sort("x").group_by("v", maintain_order=True).first()
    return panel(frame, layers, numbers(readings.variants, first, f"{title}, at the smallest step size"))


def _saturation(frame: Frame, sizes: Sequence[float]) -> list[alt.Chart]:
    """1 / step size: where β lies when the gradient at the end of the step has nothing of the first one left."""
    rows = pl.DataFrame({"x": sizes, "y": [1 / size for size in sizes]})
    line = alt.Chart(data(rows)).mark_line(
        strokeDash=[1, 4], strokeCap="round", strokeWidth=1.8, color=css("ink"), clip=True
    )
    return [line.encode(x=x_of(frame), y=y_of(frame, "y:Q"))]
