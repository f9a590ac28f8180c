"""The Hessian along training: sharpness against the edge of stability, and the spectrum with its outliers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import polars as pl

from alidade.claims.spectra import AS_TRAINED, CLASSES, RUNNING
from alidade.core.curvature import NOT_CONVERGED
from alidade.core.records import OK
from alidade.core.spec import RunSpec, SurveySpec
from alidade.report.charts import Frame, Panel, curves, numbers, panel
from alidade.report.figure import Figure, note, spread_words
from alidade.report.outcomes import outcomes
from alidade.report.panels import over_loss, over_steps
from alidade.report.scales import linear_axis, log_axis
from alidade.report.series import Readings, over_training
from alidade.report.variants import Variant
from alidade.report.words import number

#: As the table has the statistics of a network as it is trained: none, those of the batch, or a mixture.
_OWN = (*AS_TRAINED, "mixed")
#: The foot of a density, as a share of its largest value: below the peak of one eigenvalue in some millions.
_FLOOR = 1e-7


class Edge(NamedTuple):
    """Where plain full-batch descent becomes unstable, in units of 1 / learning rate."""

    level: float
    solid: bool  # whether it is a threshold here, or only a reference
    words: str


def edge_of(variants: Sequence[Variant]) -> Edge:
    """2 for plain descent, 2 + 2m with heavy-ball momentum m (Cohen et al. 2021, eq. 1): the first variant's."""
    full = all(_is_full_batch(variant) for variant in variants)
    momentum = float(_option(variants[0], "momentum") or 0.0)
    if momentum and not _option(variants[0], "nesterov"):
        return Edge(2 + 2 * momentum, full, f"2 + 2m = {number(2 + 2 * momentum)} with momentum m = {momentum:g}")
    return Edge(2.0, full, "2")


def preconditioned_edge_of(variants: Sequence[Variant]) -> Edge:
    """(2 + 2 b1) / (1 - b1) for Adam (Cohen et al. 2022), 2 for RMSprop, on the preconditioned value."""
    betas = _option(variants[0], "betas")
    if isinstance(betas, list | tuple) and betas:
        level = (2 + 2 * float(betas[0])) / (1 - float(betas[0]))
        return Edge(level, False, f"(2 + 2β₁) / (1 − β₁) = {number(level)}")
    return Edge(2.0, False, "2")


def _is_full_batch(variant: Variant) -> bool:
    spec = variant.spec
    return isinstance(spec, RunSpec) and spec.batch_size == spec.data.train_examples


def _option(variant: Variant, name: str) -> Any:
    """An option of the optimizer of a training of the user's own."""
    return variant.spec.optimizer_defaults.get(name) if isinstance(variant.spec, SurveySpec) else None


def sharpness(readings: Readings) -> Figure | None:
    """The top eigenvalue and the curvature along the gradient, in units of 1 / learning rate."""
    top, along = (_times_rate(readings, _values(readings, name)) for name in ("top_eigenvalue", "batch_sharpness"))
    if top.is_empty():
        return None
    edge = edge_of(readings.variants)
    return Figure(
        id="sharpness",
        title="The Hessian’s top eigenvalue and the edge of stability",
        rows=tuple(_rows(readings, top, along, edge)),
        lead=numbers(
            readings.variants, over_training(readings, top), "Top eigenvalue × learning rate, mean over training"
        ),
        how_to_read=(
            "Along an eigenvector of the Hessian with eigenvalue λ a step of gradient descent multiplies the distance "
            f"by 1 − learning rate × λ, so above 2 it grows. {_edge_words(edge)} Batch sharpness is the curvature "
            "along the gradient of the same batch; it is never above the top eigenvalue. Running statistics are those "
            "of evaluation: the same weights then make another function with another Hessian. On ReLU networks all of "
            f"these are the Hessian between the kinks. {spread_words(readings)}"
        ),
        note=note(readings, "top_eigenvalue", None, _left_out(readings)),
        variants=readings.variants,
        remarks=outcomes(readings),
    )


def _rows(readings: Readings, top: pl.DataFrame, along: pl.DataFrame, edge: Edge) -> list[tuple[Panel, ...]]:
    levels, solid, mark = [edge.level], edge.solid, f"{'line' if edge.solid else 'dots'}: {edge.words}"
    title, words = "Top eigenvalue × learning rate", f"log scale; {mark}"
    first = (
        over_steps(readings, "sharpness-steps", title, words, top, references=levels, solid=solid),
        over_loss(readings, "sharpness-loss", f"{title}, at equal loss", words, top, references=levels, solid=solid),
    )
    second = []
    if not along.is_empty():
        title, y = "Batch sharpness × learning rate", linear_axis(-1.0, 3 * edge.level)
        second.append(over_steps(readings, "sharpness-batch", title, mark, along, y, levels, solid=solid))
    running = _times_rate(readings, _values(readings, "top_eigenvalue", RUNNING))
    if not running.is_empty():
        title = "Top eigenvalue × learning rate, running statistics"
        second.append(over_steps(readings, "sharpness-running", title, "log scale; dots: 2", running, references=[2.0]))
    adaptive = _times_rate(readings, _values(readings, "preconditioned_sharpness", (*_OWN, *RUNNING)))
    if not adaptive.is_empty():
        at = preconditioned_edge_of(readings.variants)
        title, words, id_ = "Preconditioned eigenvalue × learning rate", f"log scale; dots: {at.words}", "adaptive"
        second.append(over_steps(readings, f"sharpness-{id_}", title, words, adaptive, references=[at.level]))
    return [first, *([tuple(second)] if second else [])]


def _edge_words(edge: Edge) -> str:
    if edge.solid:
        return (
            "Here every step uses all data and nothing but the gradient: the line is the edge of stability, around "
            "which such trainings hover."
        )
    return "With mini-batches, momentum or an adaptive optimizer that is not the threshold: the dots are a reference."


def spectrum(readings: Readings) -> Figure | None:
    """The density of the eigenvalues at the last look, and the outliers along training."""
    ratios = {modes: _outlier_ratios(readings, modes) for modes in (_OWN, RUNNING)}
    if not readings.has("spectral_density"):
        return None
    densities = [
        _density(readings, "spectrum-own", "Density of eigenvalues, as trained", _OWN),
        _density(readings, "spectrum-running", "Density of eigenvalues, running statistics", RUNNING),
    ]
    outliers = [
        over_steps(
            readings, f"spectrum-ratio-{'running' if modes == RUNNING else 'own'}",
            _RATIO + (", running statistics" if modes == RUNNING else ", as trained"),
            "log scale; 1: no outlier", rows, points=True,
        )
        for modes, rows in ratios.items() if not rows.is_empty()
    ]  # fmt: skip
    if not ratios[_OWN].is_empty():
        title = f"{_RATIO} at equal loss"
        outliers.append(over_loss(readings, "spectrum-ratio-loss", title, "log scale", ratios[_OWN]))
    return Figure(
        id="spectrum",
        title="The spectrum of the Hessian and its outliers",
        rows=tuple(tuple(row) for row in ([d for d in densities if d], outliers) if row),
        lead=numbers(
            readings.variants,
            over_training(readings, ratios[_OWN]),
            f"{_RATIO}, as trained, mean over training",
        ),
        how_to_read=(
            "The density is the share of the eigenvalues per unit of eigenvalue, on a logarithmic scale: almost all "
            "lie in the bulk at 0. What stands apart on the right are outliers, often as many as there are classes. "
            "Stochastic Lanczos quadrature sees it through a few random vectors; the tint is two standard errors of "
            "their mean. The largest eigenvalue over the tenth says how far the outliers reach, whatever the scale of "
            "the loss: read it beside the loss, since outliers grow and shrink with it."
        ),
        note=note(readings, "spectral_density", None, ["densities of the first seed at the last look"]),
        variants=readings.variants,
        remarks=outcomes(readings),
    )


_RATIO = f"Largest ÷ {CLASSES}th eigenvalue"


def _density(readings: Readings, id_: str, title: str, modes: Sequence[str]) -> Panel | None:
    parts = [part for v in readings.variants if (part := _density_of(readings, v, modes)) is not None]
    if not parts:
        return None
    rows = pl.concat(parts)
    highest = float(rows["m"].max())  # type: ignore[arg-type]
    shown = rows.with_columns(pl.col("m", "lo", "hi").clip(_FLOOR * highest))
    x = linear_axis(float(shown["x"].min()), float(shown["x"].max()))  # type: ignore[arg-type]
    y = log_axis([_FLOOR * highest, *shown["hi"]])
    frame = Frame(id_, title, "w²/nat, log scale", readings.variants, x, y, "eigenvalue (nat/w²) →")
    ends = shown.sort("x").group_by("v", maintain_order=True).last()
    ends = ends.select("v", m="x", lo="x", hi="x")
    return panel(frame, curves(frame, shown), numbers(readings.variants, ends, f"{title}: right end"))


def _density_of(readings: Readings, variant: Variant, modes: Sequence[str]) -> pl.DataFrame | None:
    """The first seed's density at its last look: v, x, m, lo, hi."""
    own = (pl.col("run") == variant.runs[0]) & pl.col("statistics").is_in(list(modes)) & (pl.col("status") == OK)
    both = [readings.rows(f"spectral_density{end}", own) for end in ("", "_standard_error")]
    steps = pl.concat(both)["step"]
    if steps.is_empty():
        return None
    mean, error = (rows.filter(pl.col("step") == steps.max()) for rows in both)
    joined = mean.select(x="step_size", m="value").join(error.select(x="step_size", e="value"), on="x")
    return joined.sort("x").select(
        pl.lit(variant.key).alias("v"), "x", "m", lo=pl.col("m") - 2 * pl.col("e"), hi=pl.col("m") + 2 * pl.col("e")
    )


def _outlier_ratios(readings: Readings, modes: Sequence[str]) -> pl.DataFrame:
    first, last = (_values(readings, name, modes) for name in ("top_eigenvalue", f"eigenvalue_{CLASSES}"))
    both = first.join(last, on=["v", "seed", "x"], suffix="_last").filter(pl.col("y_last") > 0)
    return both.select("v", "seed", "x", pl.col("y") / pl.col("y_last"))


def _values(readings: Readings, quantity: str, modes: Sequence[str] = _OWN) -> pl.DataFrame:
    """Numbers that may be drawn, one per probed step: v, seed, x, y."""
    good = (pl.col("status") == OK) & pl.col("statistics").is_in(list(modes))
    rows = readings.rows(quantity, good & pl.col("value").is_finite())
    rows = rows.unique(["v", "seed", "step"], keep="first", maintain_order=True)
    return rows.select("v", "seed", pl.col("step").alias("x"), pl.col("value").alias("y")).sort("v", "seed", "x")


def _times_rate(readings: Readings, rows: pl.DataFrame) -> pl.DataFrame:
    rates = {variant.key: variant.learning_rate or float("nan") for variant in readings.variants}
    scaled = pl.col("y") * pl.col("v").replace_strict(rates, return_dtype=pl.Float64)
    return rows.with_columns(scaled).filter(pl.col("y").is_finite())


def _left_out(readings: Readings) -> list[str]:
    rows = readings.rows("top_eigenvalue", pl.col("status") == NOT_CONVERGED)
    return [f"{rows.height} eigenvalues that had not converged are not drawn"] if rows.height else []
