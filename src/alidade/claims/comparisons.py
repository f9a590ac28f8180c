"""The statistics that claims are made of: one paired value per seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import isfinite, log

import numpy as np
import polars as pl

from alidade.claims.claim import Runs, Seeds
from alidade.claims.quantities import (
    RELATIVE_STEPS,
    STUCK,
    WARM_UP,
    BandSeries,
    after_warm_up,
    paper_step_sizes,
    same_size,
)
from alidade.claims.statistics import log_ratio_at_equal_loss, smoothed_losses
from alidade.core.records import BELOW_RESOLUTION, OK

#: Below this fraction of probed steps with a band in both runs, a mean over training says too little.
SHARED_FRACTION = 0.5

PairValue = Callable[[Runs, str, str], float | None]
RunValue = Callable[[Runs, str], float | None]


def paired(
    runs: Runs,
    first: str,
    second: str,
    learning_rate: float,
    value: PairValue,
    missing: str,
    augment: bool = False,
) -> Seeds:
    """``value(first's run, second's run)`` for each seed that both norms have at this learning rate."""
    a, b = (runs.pick(norm, learning_rate, augment) for norm in (first, second))
    shared = sorted(set(a) & set(b))
    found = {seed: value(runs, a[seed], b[seed]) for seed in shared}
    return _of_seeds(found, tuple(run for seed in shared for run in (a[seed], b[seed])), missing)


def alone(runs: Runs, norm: str, learning_rate: float, value: RunValue, missing: str) -> Seeds:
    """``value(run)`` for each seed of one norm at this learning rate."""
    picked = runs.pick(norm, learning_rate)
    found = {seed: value(runs, picked[seed]) for seed in sorted(picked)}
    return _of_seeds(found, tuple(picked[seed] for seed in found), missing)


def _of_seeds(found: Mapping[int, float | None], runs: tuple[str, ...], missing: str) -> Seeds:
    values = {seed: number for seed, number in found.items() if number is not None and isfinite(number)}
    left_out = len(found) - len(values)
    reason = f"{left_out} of {len(found)} seeds left out: {missing}" if left_out else ""
    return Seeds(values, runs, reason)


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


def untrained(runs: Runs, run: str) -> bool:
    """Whether the loss stayed where it began: its last tenth above ``STUCK`` times the median of its first tenth."""
    rows = _training(runs, run, "train_loss")
    early = rows.filter(pl.col("step") < WARM_UP * runs.specs[run].steps)["value"].to_numpy()
    late = mean_over_training(runs, run, "train_loss", 1 - WARM_UP)
    return late is not None and early.size > 0 and bool(late > STUCK * np.median(early))


def last_value(runs: Runs, run: str, quantity: str) -> float | None:
    """The last number of a quantity that was measured along the run; None without one that is finite."""
    rows = _training(runs, run, quantity).sort("step")
    value = rows["value"].to_list()[-1:]
    return value[0] if value and isfinite(value[0]) else None


def median_over_probes(
    runs: Runs, run: str, quantity: str, layer: str | None = None, step_size: float | None = None
) -> float | None:
    """Median of a quantity after the first tenth of the steps; None where fewer than half of its numbers are ok.

    Numbers below their resolution stand in the ranks where they were measured: to leave out the small ones only
    would raise the median.
    """
    wanted = [pl.col("step") >= WARM_UP * runs.specs[run].steps]
    if layer is not None:
        wanted.append(pl.col("layer") == layer)
    if step_size is not None:
        wanted.append(same_size(step_size))
    rows = runs.of(run, quantity).filter(*wanted)
    if rows.is_empty() or rows.filter(pl.col("status") == OK).height < SHARED_FRACTION * rows.height:
        return None
    return float(np.median(rows.filter(pl.col("status").is_in([OK, BELOW_RESOLUTION]))["value"].to_numpy()))


def mean_over_probes(runs: Runs, run: str, quantity: str, geometric: bool = False) -> float | None:
    """Mean of the ok numbers of a quantity over layers and probes; None where fewer than half of its numbers are ok.

    ``geometric``: the mean of the logarithms of those above 0.
    """
    rows = runs.of(run, quantity)
    good = rows.filter(pl.col("status") == OK)
    if good.height < SHARED_FRACTION * rows.height:
        return None
    values = good["value"].to_numpy()
    values = np.log(values[values > 0]) if geometric else values
    return float(values.mean()) if values.size else None


def mean_over_layers(runs: Runs, run: str, quantity: str) -> float | None:
    """Mean of a quantity over layers and probes; None where it was not measured or is not finite."""
    values = runs.of(run, quantity)["value"].to_list()
    return _mean(dict(enumerate(values)))


def _training(runs: Runs, run: str, quantity: str) -> pl.DataFrame:
    return runs.of(run, quantity).select("step", "value")


def _band(runs: Runs, run: str, series: BandSeries) -> dict[int, float]:
    spec = runs.specs[run]
    relative = "relative_" in series.quantity
    sizes = RELATIVE_STEPS if relative else paper_step_sizes(spec.optimizer.learning_rate, spec.model.kind)
    by_run = runs.once((series, sizes), lambda: series.by_run(runs.cut.of(series.quantity), sizes))
    return by_run.get(run, {})


def _probed(runs: Runs, run: str, series: BandSeries) -> dict[int, float]:
    """The steps at which the quantity was measured, whatever came out."""
    return dict.fromkeys(runs.of(run, series.quantity)["step"].to_list(), 0.0)


def _against_loss(runs: Runs, run: str, series: BandSeries) -> list[tuple[float, float]]:
    of_all = runs.once("smoothed_losses", lambda: smoothed_losses(runs.cut.of("train_loss")))
    losses = of_all.get(run)
    if not losses:
        return []
    last = max(losses)
    return [(losses.get(step, losses[last]), value) for step, value in _band(runs, run, series).items()]


def _mean(series: dict[int, float]) -> float | None:
    values = list(series.values())
    return sum(values) / len(values) if values and all(map(isfinite, values)) else None
