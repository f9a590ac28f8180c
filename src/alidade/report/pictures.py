"""Charts of single measurements: one line profile, a bare table, a list of verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import altair as alt
import polars as pl

from alidade.core.records import OK, LineProfile
from alidade.report.charts import SIZE_TITLE, Frame, Panel, curves, data, numbers, panel
from alidade.report.finding import is_ratio
from alidade.report.scales import Axis, linear_axis, log_axis
from alidade.report.theme import ALL_COLOURS, DASHES, css
from alidade.report.variants import Drawn

if TYPE_CHECKING:
    from alidade.claims.claim import Verdict

MOST_RUNS = len(ALL_COLOURS) * len(DASHES)


def profile_panels(profile: LineProfile) -> list[Panel]:
    """Loss, gradient distance and effective smoothness against the step size, as far as they are defined."""
    about = f"; {profile.provenance.coordinates} coordinates, along the {profile.provenance.direction}"
    candidates = [
        ("loss", "Loss", profile.losses, None),
        ("gradient_distance", "Gradient distance", profile.gradient_distances, None),
        ("effective_smoothness", "Effective smoothness", profile.effective_smoothness, OK),
    ]
    me = [Drawn("v0", "line profile", "norm-batch", DASHES[0])]
    panels: list[Panel] = []
    for id_, title, values, status in candidates:
        rows = pl.DataFrame({"x": profile.step_sizes, "m": values, "status": profile.status})
        drawn = rows.filter(pl.col("m").is_finite() & ((pl.col("status") == OK) | (status is None))).sort("x")
        if drawn.is_empty():
            continue
        drawn = drawn.select(pl.lit("v0").alias("v"), "x", "m", lo="m", hi="m")
        x, y = fitting_axis([*drawn["x"]]), fitting_axis([*drawn["m"]])
        words = _unit(profile.units[id_]) + (", log scale" if y.log else "") + (about if not panels else "")
        frame = Frame(f"profile-{id_}", title, words, me, x, y, SIZE_TITLE)
        panels.append(panel(frame, curves(frame, drawn, points=True), numbers(me, drawn.tail(1), title)))
    return panels


def table_panels(frame: pl.DataFrame) -> list[Panel]:
    """One panel per quantity over training steps, one line per run.

    Where a quantity has several numbers per step (step sizes, layers), the line is their median and the tint
    reaches from the smallest to the largest.
    """
    quantity = pl.col("quantity").cast(pl.String)
    hidden = quantity.str.ends_with("_seconds") | quantity.str.ends_with("resolution")
    rows = frame.filter((pl.col("status") == OK) & pl.col("value").is_finite() & ~hidden)
    runs = rows["run"].unique(maintain_order=True).to_list()[:MOST_RUNS]
    drawn = [
        Drawn(f"v{i}", str(run), ALL_COLOURS[i % len(ALL_COLOURS)], DASHES[i // len(ALL_COLOURS)])
        for i, run in enumerate(runs)
    ]
    keys = {item.label: item.key for item in drawn}
    kept = rows.filter(pl.col("run").is_in(runs)).with_columns(pl.col("run").replace_strict(keys).alias("v"))
    return [
        _quantity(drawn, name, kept.filter(pl.col("quantity") == name))
        for name in kept["quantity"].unique(maintain_order=True)
    ]


def _quantity(drawn: Sequence[Drawn], name: str, rows: pl.DataFrame) -> Panel:
    value = pl.col("value")
    lines = rows.group_by("v", pl.col("step").alias("x")).agg(
        value.median().alias("m"), value.min().alias("lo"), value.max().alias("hi")
    )
    lines = lines.sort("v", "x")
    steps = linear_axis(float(lines["x"].min()), float(max(lines["x"].max(), 1)))  # type: ignore[arg-type,type-var]
    y = fitting_axis([*lines["lo"], *lines["hi"]])
    title = name.replace("_", " ").capitalize()
    frame = Frame(f"table-{name}", title, _unit(rows["unit"][0]) + (", log scale" if y.log else ""), drawn, steps, y)
    last = lines.group_by("v", maintain_order=True).last()
    return panel(frame, curves(frame, lines), numbers(drawn, last, f"{title} at the last step"))


def _unit(unit: str) -> str:
    return "no unit" if unit == "1" else unit.replace("^2", "²")


def fitting_axis(values: Sequence[float]) -> Axis:
    """Logarithmic for positive values that span more than a factor of 20, else linear."""
    low, high = min(values), max(values)
    if low > 0 and high / low > 20:
        return log_axis(values)
    margin = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    return linear_axis(low - margin if low < 0 or low > 3 * margin else min(0.0, low), high + margin)


def verdict_panels(verdicts: Sequence[Verdict]) -> list[Panel]:
    """Estimates and intervals on the claims, ratios on a logarithmic axis and differences on a linear one."""
    kinds = [
        ("ratios", "Claims about ratios", [v for v in verdicts if is_ratio(v)]),
        ("differences", "Claims about differences", [v for v in verdicts if not is_ratio(v)]),
    ]
    extent = 7 * max(len(verdict.claim) for verdict in verdicts)
    return [_forest(id_, title, members, extent) for id_, title, members in kinds if members]


_VERDICT_COLOURS = {"supported": "yes", "refuted": "no", "undecided": "open"}


def _forest(id_: str, title: str, verdicts: Sequence[Verdict], extent: int) -> Panel:
    """One row per claim; ``extent`` is the room for their names, the same in both panels."""
    rows = pl.DataFrame(
        [
            (v.claim, v.estimate, *(v.interval or (v.estimate, v.estimate)), v.threshold, v.verdict)
            for v in verdicts
        ],
        schema={name: pl.String if name in ("claim", "verdict") else pl.Float64 for name in _FOREST},
        orient="row",
    )  # fmt: skip
    values = [x for name in ("estimate", "low", "high", "threshold") for x in rows[name].drop_nulls()]
    x = log_axis(values) if id_ == "ratios" else fitting_axis(values)
    names = list(dict.fromkeys(rows["claim"]))
    frame = Frame(id_, title, "estimate, 95 % interval; the rule is the threshold", [], x, x, height=26 * len(names))
    claims = alt.Axis(title=None, grid=True, labelLimit=400, minExtent=extent)
    base = alt.Chart(data(rows)).encode(y=alt.Y("claim:N", sort=names, axis=claims, scale=alt.Scale(domain=names)))
    colours = alt.Scale(domain=list(_VERDICT_COLOURS), range=[css(name) for name in _VERDICT_COLOURS.values()])
    tint = alt.Color("verdict:N", scale=colours, legend=alt.Legend(title=None))
    axis = alt.X("low:Q", scale=x.scale, axis=x.axis(title=None, grid=False))
    interval = base.mark_rule(strokeWidth=5, opacity=0.4, strokeCap="round").encode(x=axis, x2="high:Q", color=tint)
    dot = base.mark_point(size=60, opacity=1).encode(x=alt.X("estimate:Q", scale=x.scale), color=tint)
    threshold = base.mark_tick(color=css("ink"), thickness=1.2, bandSize=26).encode(
        x=alt.X("threshold:Q", scale=x.scale)
    )
    said = "; ".join(f"{v.claim} {v.verdict}" for v in verdicts)
    return panel(frame, [threshold, interval, dot], f"{title}: {said}.")


_FOREST = ("claim", "estimate", "low", "high", "threshold", "verdict")
