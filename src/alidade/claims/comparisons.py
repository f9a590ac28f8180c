"""The statistics that claims are made of: one paired value per seed."""

from __future__ import annotations

from collections.abc import Callable
from math import isfinite, log

import polars as pl

from alidade.claims.claim import Runs, Seeds
from alidade.claims.quantities import RELATIVE_STEPS, BandSeries, after_warm_up, paper_step_sizes
from alidade.claims.statistics import log_ratio_at_equal_loss, smoothed_loss

#: Below this fraction of probed steps with a band in both runs, a mean over training says too little.
SHARED_FRACTION = 0.5

PairValue = Callable[[Runs, str, str], float | None]


def paired(runs: Runs, first: str, second: str, learning_rate: float, value: PairValue, missing: str) -> Seeds:
    """``value(first's run, second's run)`` for each seed that both norms have at this learning rate."""
    a, b = runs.pick(first, learning_rate), runs.pick(second, learning_rate)
    shared = sorted(set(a) & set(b))
    found = {seed: value(runs, a[seed], b[seed]) for seed in shared}
    values = {seed: number for seed, number in found.items() if number is not None and isfinite(number)}
    left_out = len(shared) - len(values)
    reason = f"{left_out} of {len(shared)} seeds left out: {missing}" if left_out else ""
    return Seeds(values, tuple(run for seed in shared for run in (a[seed], b[seed])), reason)


def band_log_ratio(series: BandSeries, equal_loss: bool) -> PairValue:
    """Log ratio of two runs' band statistics: of their means over training, or at equal training loss.

    The means are over the steps at which both runs have a band; None where those are fewer than
    ``SHARED_FRACTION`` of the probed ones.
    """

    def at_equal_step(runs: Runs, first: str, second: str) -> float | None:
        bands = [after_warm_up(_band(runs, run, series), runs.specs[run].steps) for run in (first, second)]
        probed = [after_warm_up(_probed(runs, run, series), runs.specs[run].steps) for run in (first, second)]
        shared = bands[0].keys() & bands[1].keys()
        if len(shared) < SHARED_FRACTION * max(map(len, probed)):
            return None
        return log_ratio(*(_mean({step: band[step] for step in sorted(shared)}) for band in bands))

    def at_equal_loss(runs: Runs, first: str, second: str) -> float | None:
        return log_ratio_at_equal_loss(*(_against_loss(runs, run, series) for run in (first, second)))

    return at_equal_loss if equal_loss else at_equal_step


def log_ratio(first: float | None, second: float | None) -> float | None:
    """The logarithm of first / second; None where either is missing or not positive."""
    return log(first) - log(second) if first and second and first > 0 and second > 0 else None


def mean_over_training(runs: Runs, run: str, quantity: str, first_fraction: float = 0.0) -> float | None:
    """Mean of a training metric over the steps from ``first_fraction`` of the run on; None where one is missing."""
    spec = runs.specs[run]
    rows = _training(runs, run, quantity).filter(pl.col("step") >= first_fraction * spec.steps)
    return _mean(dict(zip(rows["step"].to_list(), rows["value"].to_list(), strict=True)))


def mean_over_layers(runs: Runs, run: str, quantity: str) -> float | None:
    """Mean of a quantity over layers and probes; None where it was not measured or is not finite."""
    values = runs.rows(run).filter(pl.col("quantity") == quantity)["value"].to_list()
    return _mean(dict(enumerate(values)))


def _training(runs: Runs, run: str, quantity: str) -> pl.DataFrame:
    return runs.rows(run).filter(pl.col("quantity") == quantity).select("step", "value")


def _band(runs: Runs, run: str, series: BandSeries) -> dict[int, float]:
    relative = series.quantity.startswith("relative_")
    sizes = RELATIVE_STEPS if relative else paper_step_sizes(runs.specs[run].optimizer.learning_rate)
    return series.of(runs.rows(run), sizes)


def _probed(runs: Runs, run: str, series: BandSeries) -> dict[int, float]:
    """The steps at which the quantity was measured, whatever came out."""
    steps = runs.rows(run).filter(pl.col("quantity") == series.quantity)["step"].unique()
    return dict.fromkeys(steps.to_list(), 0.0)


def _against_loss(runs: Runs, run: str, series: BandSeries) -> list[tuple[float, float]]:
    losses = smoothed_loss(_training(runs, run, "train_loss"))
    last = max(losses, default=0)
    return [(losses.get(step, losses[last]), value) for step, value in _band(runs, run, series).items()]


def _mean(series: dict[int, float]) -> float | None:
    values = list(series.values())
    return sum(values) / len(values) if values and all(map(isfinite, values)) else None
