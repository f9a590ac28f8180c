"""What the paper's plots show, in numbers: each from the digitized curves, by the statistic of the claim beside it."""

from __future__ import annotations

from collections.abc import Iterable

import polars as pl

from alidade.claims.quantities import WARM_UP
from alidade.report.paper_curves import STEPS, paper_curves
from alidade.report.words import factor, listed, number, plain

#: Means at the end are over the last fifth of the steps, as the claims take them.
END = 0.8
VGG_RATE, LARGE_RATE, SMALL_RATE = 0.1, 0.5, 0.01
DLN_RATE, SMALL_DLN_RATE = 1e-6, 1e-7
_NORMS = {"none": "none", "batch": "BatchNorm", "noisy": "noisy", "l1": "L1", "l2": "L2", "linf": "L∞"}
_SMOOTHED = ("none", "batch", "l1", "l2", "linf")


def series(
    quantity: str, norm: str, rate: float = VGG_RATE, layer: int | None = None, figure: int | None = None
) -> pl.DataFrame:
    """One curve as step and value, from the given figure or the first that shows it.

    >>> series("loss_max", "none").filter(step=1000)["value"].item()
    8.1328
    """
    rows = paper_curves().filter(pl.col("layer").eq_missing(layer), quantity=quantity, norm=norm, learning_rate=rate)
    chosen = pl.col("figure").min() if figure is None else pl.lit(figure)
    return rows.filter(pl.col("figure") == chosen).select("step", "value")


def mean_since(rows: pl.DataFrame, fraction: float, rate: float = VGG_RATE) -> float:
    """Mean of a curve from this fraction of the training on.

    >>> round(mean_since(series("train_accuracy", "none", 0.5), 0.8), 3)
    0.095
    """
    return _number(_since(rows, fraction, rate).mean())


def band_mean(quantity: str, norm: str, rate: float = VGG_RATE) -> float:
    """What the claims compare: mean width of the loss band, mean upper edge of the gradient band, mean smoothness.

    >>> [round(band_mean("loss", norm), 3) for norm in ("none", "batch")]
    [1.534, 0.198]
    """
    if quantity == "effective_smoothness":
        return mean_since(series(quantity, norm, rate), WARM_UP, rate)
    high = series(f"{quantity}_max", norm, rate)
    if quantity == "loss":
        low = series("loss_min", norm, rate)
        high = high.join(low, on="step", suffix="_low").with_columns(pl.col("value") - pl.col("value_low"))
    return mean_since(high, WARM_UP, rate)


def at(rows: pl.DataFrame, step: int) -> float:
    """The value of a curve at a step."""
    return _number(rows.filter(step=step)["value"].first())


def faster_training() -> str:
    """Fig. 1a."""
    early, end = (
        [at(series("train_accuracy", norm), step) for norm in ("none", "batch")] for step in (1_000, STEPS["vgg"])
    )
    return (
        f"training accuracy after 1 000 steps {_percent(early[0])} without and {_percent(early[1])} with BatchNorm; "
        f"at the end {_percent(end[0])} and {_percent(end[1])} (no loss is plotted)"
    )


def accuracy_on_test_images() -> str:
    """Fig. 1b."""
    plain, batch = (at(series("test_accuracy", norm), STEPS["vgg"]) for norm in ("none", "batch"))
    return f"at the end {_percent(plain)} without and {_percent(batch)} with BatchNorm: {_points(batch - plain)}"


def larger_learning_rates() -> str:
    """Fig. 1a at learning rate 0.5."""
    plain, batch = (mean_since(series("train_accuracy", norm, LARGE_RATE), END) for norm in ("none", "batch"))
    return (
        f"at learning rate 0.5, training accuracy over the last fifth {_percent(plain)} without and "
        f"{_percent(batch)} with BatchNorm: {_points(batch - plain)}"
    )


def noisy_norm_trains() -> str:
    """Fig. 2, left."""
    plain, noisy, batch = (
        mean_since(series("train_accuracy", norm, figure=2), 0.0) for norm in ("none", "noisy", "batch")
    )
    return (
        f"mean training accuracy {_percent(plain)} without, {_percent(noisy)} with noisy and {_percent(batch)} with "
        f"plain BatchNorm: noisy closes {_percent((noisy - plain) / (batch - plain))} of the gap"
    )


def noisy_norm_moves() -> str:
    """Fig. 8a, layers 2, 9 and 13."""
    noisy, plain = (
        _mean(mean_since(series("mean_change", norm, layer=layer), 0.0) for layer in (2, 9, 13))
        for norm in ("noisy", "none")
    )
    return (
        f"between logged steps the mean of an activation changes by {number(noisy, 2)} with noisy BatchNorm and "
        f"{number(plain, 2)} without a norm: {factor(noisy / plain)} times as much"
    )


def batch_norm_steadies() -> str:
    """Fig. 8a, layers 2, 9 and 13."""
    parts = []
    for moment in ("mean", "variance"):
        plain, batch = (
            _mean(mean_since(series(f"{moment}_change", norm, layer=layer), 0.0) for layer in (2, 9, 13))
            for norm in ("none", "batch")
        )
        parts.append(f"{moment} {number(plain, 2)} without a norm and {number(batch, 2)} with BatchNorm")
    return "mean change of one activation's moments between logged steps: " + ", ".join(parts)


def covariate_shift() -> str:
    """Fig. 3a: medians after the first tenth."""
    return _shifts([(VGG_RATE, 5), (VGG_RATE, 10), (SMALL_RATE, 5), (SMALL_RATE, 10)])


def deep_linear_shift() -> str:
    """Fig. 3b: medians after the first tenth."""
    return _shifts([(DLN_RATE, 9), (DLN_RATE, 17), (SMALL_DLN_RATE, 9), (SMALL_DLN_RATE, 17)])


def _shifts(places: Iterable[tuple[float, int]]) -> str:
    said = "medians after the first tenth of training, without | with BatchNorm; "
    return said + "; ".join(_shift(rate, layer) for rate, layer in places)


def _shift(rate: float, layer: int) -> str:
    parts = []
    for name, quantity in (("l2", "ics_l2"), ("cosine", "ics_cosine")):
        curves = [series(quantity, norm, rate, layer) for norm in ("none", "batch")]
        if not curves[0].is_empty():
            medians = [number(_median(curve, WARM_UP, rate), 2) for curve in curves]
            parts.append(f"{name} {' | '.join(medians)}")
    return f"layer {layer}, learning rate {plain(rate)}: {', '.join(parts)}"


def loss_band() -> str:
    """Fig. 4a."""
    return _two("loss", "mean width of the loss band after the first tenth of training")


def gradient_band() -> str:
    """Fig. 4b."""
    both = series("gradient_distance_max", "none").join(series("gradient_distance_max", "batch"), on="step")
    late = both.filter(pl.col("step") >= WARM_UP * STEPS["vgg"])
    ratios = late["value"] / late["value_right"]
    usual, largest = _number(ratios.quantile(0.9)), _number(ratios.max())
    return (
        _two("gradient_distance", "mean of the largest gradient distance after the first tenth")
        + f"; step by step at most {factor(usual)} at nine probes of ten, {factor(largest)} at one"
    )


def effective_smoothness() -> str:
    """Fig. 4c."""
    late = [number(_median(series("effective_smoothness", norm), END), 4) for norm in ("none", "batch")]
    return (
        _two("effective_smoothness", "mean after the first tenth")
        + f"; medians over the last fifth {late[0]} and {late[1]}: 2 / learning rate for both"
    )


def _two(quantity: str, words: str) -> str:
    plain, batch = (band_mean(quantity, norm) for norm in ("none", "batch"))
    return f"{words} {number(plain)} without and {number(batch)} with BatchNorm: a factor {number(plain / batch)}"


def lp_norms() -> str:
    """Fig. 12b and 12c: none / norm."""
    parts = []
    for quantity, words in (("loss", "width of the loss band"), ("gradient_distance", "largest gradient distance")):
        plain = band_mean(quantity, "none")
        ratios = [
            f"{_NORMS[norm]} {factor(plain / band_mean(quantity, norm))}" for norm in ("batch", "l1", "l2", "linf")
        ]
        parts.append(f"{words}, none / norm: {', '.join(ratios)}")
    return "; ".join(parts) + " (means after the first tenth)"


def deep_linear_ends() -> str:
    """Fig. 5b and 13a: the loss at the end."""
    ends = [(_number(series("train_loss", norm, DLN_RATE, figure=13)["value"].last()), norm) for norm in _SMOOTHED]
    return "loss at the end: " + ", ".join(f"{_NORMS[norm]} {number(value)}" for value, norm in sorted(ends))


def deep_linear_bands() -> str:
    """Fig. 10 and 13: medians over training, because the plain network's largest values say little about the rest."""
    names = {
        "loss_max": "largest loss along the gradient",
        "gradient_distance_max": "largest gradient distance",
        "effective_smoothness": "effective smoothness",
    }
    said = []
    for quantity, words in names.items():
        medians = [number(_median(series(quantity, n, DLN_RATE), WARM_UP, DLN_RATE)) for n in ("none", "batch")]
        said.append(f"median {words} {medians[0]} without and {medians[1]} with BatchNorm")
    return f"{deep_linear_ends()}; {'; '.join(said)}"


def plateau() -> str:
    """Fig. 12d, 13d: effective smoothness times learning rate over the last fifth."""
    parts = []
    for words, rate, figure in (("VGG", VGG_RATE, 12), ("deep linear", DLN_RATE, 13)):
        curves = {norm: series("effective_smoothness", norm, rate, figure=figure) for norm in _SMOOTHED}
        levels = [f"{_NORMS[norm]} {rate * _median(curve, END, rate):.3f}" for norm, curve in curves.items()]
        parts.append(f"{words}: {listed(levels)}")
    return "median of smoothness × learning rate over the last fifth; " + "; ".join(parts)


def _median(rows: pl.DataFrame, fraction: float, rate: float = VGG_RATE) -> float:
    return _number(_since(rows, fraction, rate).median())


def _since(rows: pl.DataFrame, fraction: float, rate: float) -> pl.Series:
    steps = STEPS["vgg" if rate >= SMALL_RATE else "dln"]
    return rows.filter(pl.col("step") >= fraction * steps)["value"]


def _mean(values: Iterable[float]) -> float:
    listed_values = list(values)
    return sum(listed_values) / len(listed_values)


def _number(value: object) -> float:
    if not isinstance(value, int | float):
        raise ValueError(f"expected a curve with points there, got {value!r}")
    return float(value)


def _percent(value: float) -> str:
    return f"{100 * value:.1f}\u00a0%"


def _points(value: float) -> str:
    return f"{100 * value:+.1f} percentage points".replace("-", "−")
