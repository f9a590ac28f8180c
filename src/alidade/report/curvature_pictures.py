"""Charts of single measurements of curvature: eigenvalues with their residuals, a trace, a density."""

from __future__ import annotations

import altair as alt
import polars as pl

from alidade.core.curvature import Curvature, SpectralDensity, TopEigenvalues, Trace
from alidade.core.records import OK, Provenance
from alidade.report.charts import Frame, Numbers, Panel, curves, data, panel, x_of, y_of
from alidade.report.scales import Axis, linear_axis, log_axis
from alidade.report.theme import DASHES, css
from alidade.report.variants import Drawn
from alidade.report.words import number

#: The foot of a density, as a share of its largest value: below the peak of one eigenvalue in some millions.
_FLOOR = 1e-7
_ME = Drawn("v0", "Hessian", "norm-batch", DASHES[0])


def curvature_panels(measured: TopEigenvalues | Trace | SpectralDensity | Curvature) -> list[Panel]:
    """One panel; none where nothing may be drawn."""
    if isinstance(measured, SpectralDensity):
        return _density(measured)
    if isinstance(measured, TopEigenvalues):
        return _eigenvalues(measured)
    if measured.status != OK:
        return []
    if isinstance(measured, Trace):
        title, unit, error = "Trace of the Hessian", "nat/w²", measured.standard_error
        words = f"{_plain(unit)}; bar: two standard errors, from {measured.matvecs} products, {measured.method}"
        return _intervals("trace", title, words, measured.provenance, [("tr H", measured.value, 2 * error)])
    title = measured.quantity.replace("_", " ").capitalize()
    return _intervals("curvature", title, _plain(measured.unit), measured.provenance, [("", measured.value, 0.0)])


def _eigenvalues(top: TopEigenvalues) -> list[Panel]:
    """Each eigenvalue lies within its bar; what is not converged is left out, and said to be."""
    numbered = enumerate(zip(top.eigenvalues, top.residuals, top.status, strict=True), 1)
    rows = [(f"λ{place}", float(value), float(residual)) for place, (value, residual, s) in numbered if s == OK]
    left_out = len(top.status) - len(rows)
    said = f"; {left_out} not converged and not drawn" if left_out else ""
    words = f"{_plain(top.unit)}; bar: ± residual, {top.matvecs} products{said}"
    title = f"{top.quantity.replace('_', ' ').capitalize()}s, {top.which}"
    return _intervals("eigenvalues", title, words, top.provenance, rows) if rows else []


def _intervals(
    id_: str, title: str, words: str, at: Provenance, entries: list[tuple[str, float, float]]
) -> list[Panel]:
    """One dot with its bar per number, on a row each."""
    table = [(name, value, value - error, value + error) for name, value, error in entries]
    rows = pl.DataFrame(table, schema=["name", "m", "lo", "hi"], orient="row")
    low, high = min(0.0, *rows["lo"]), max(0.0, *rows["hi"])
    pad = 0.06 * (high - low) or 1.0
    x = linear_axis(low - pad * (low < 0), high + pad * (high > 0))
    frame = Frame(id_, title, f"{words}{_conditions(at)}", [_ME], x, x, "", height=max(70, 26 * len(entries)))
    order = [name for name, *_ in entries]
    y = alt.Y("name:N", sort=order, axis=alt.Axis(title=None, labelPadding=12), scale=alt.Scale(domain=order))
    base, tint = alt.Chart(data(rows)), css(_ME.colour)
    bar = base.mark_rule(strokeWidth=2, color=tint).encode(y=y, x=x_of(frame, "lo:Q"), x2="hi:Q")
    dot = base.mark_point(size=55, opacity=1, color=tint).encode(y=y, x=x_of(frame, "m:Q"))
    said = Numbers(title, tuple((Drawn(n, n or title, _ME.colour, DASHES[0]), number(v), "") for n, v, _ in entries))
    return [panel(frame, [bar, dot], said)]


def _density(spectrum: SpectralDensity) -> list[Panel]:
    floor = _FLOOR * float(spectrum.density.max())
    if spectrum.problem is not None or not floor > 0:
        return []
    error = 2 * spectrum.standard_error
    mean = {"x": spectrum.grid, "m": spectrum.density, "lo": spectrum.density - error, "hi": spectrum.density + error}
    rows = (
        pl.DataFrame(mean).filter(pl.col("m") > floor).with_columns(pl.lit("v0").alias("v"), pl.col("lo").clip(floor))
    )
    x, y = linear_axis(float(spectrum.grid[0]), float(spectrum.grid[-1])), log_axis([floor, *rows["hi"]])
    count = spectrum.outliers.size
    words = f"w²/nat, log scale; tint: two standard errors; dots at the foot: {count} outliers"
    title = "Density of the Hessian’s eigenvalues"
    axis = "eigenvalue (nat/w²) →"
    frame = Frame("density", title, f"{words}{_conditions(spectrum.provenance)}", [_ME], x, y, axis)
    ends = tuple((Drawn(n, n, _ME.colour, DASHES[0]), number(float(v)), "") for n, v in _ends(spectrum))
    layers = [*curves(frame, rows), *_outliers(frame, spectrum, y)]
    return [panel(frame, layers, Numbers(title, ends))]


def _ends(spectrum: SpectralDensity) -> list[tuple[str, float]]:
    found = [("smallest node", float(spectrum.nodes.min())), ("largest node", float(spectrum.nodes.max()))]
    return [*found, ("outliers", float(spectrum.outliers.size))]


def _outliers(frame: Frame, spectrum: SpectralDensity, y: Axis) -> list[alt.Chart]:
    if not spectrum.outliers.size:
        return []
    rows = pl.DataFrame({"x": spectrum.outliers, "y": y.domain[0]})
    return [
        alt.Chart(data(rows))
        .mark_point(size=45, opacity=1, color=css("ink"))
        .encode(x=x_of(frame), y=y_of(frame, "y:Q"))
    ]


def _plain(unit: str) -> str:
    return "no unit" if unit == "1" else unit.replace("^2", "²")


def _conditions(at: Provenance) -> str:
    statistics = "" if at.statistics == "none" else f"; {at.statistics} statistics"
    return f"{statistics}; {at.dtype}"
