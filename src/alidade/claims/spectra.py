"""Readings of one run's Hessian: outliers, the top eigenvalue against 2 / learning rate, and Fig. 4c beside both."""

from __future__ import annotations

from collections.abc import Sequence
from math import log

import numpy as np
import polars as pl

from alidade.claims.claim import Runs
from alidade.claims.comparisons import SHARED_FRACTION
from alidade.claims.plateaus import FEWEST_PROBES, measured
from alidade.claims.quantities import WARM_UP, BandSeries, paper_step_sizes
from alidade.core.records import OK

#: Classes of the data, and so the number of outliers that is looked for (Sagun et al. 2017; Ghorbani et al. 2019).
CLASSES = 10
#: Statistics in which a network without running ones, or with those of the batch, was trained.
AS_TRAINED = ("none", "batch")
RUNNING = ("running",)
#: At the edge of stability: lambda_1 x learning rate within a tenth of 2.
AT_THE_EDGE = (1.8, 2.2)
#: A curvature is that of the Hessian where their ratio is within this of 1.
SAME = 0.1


def outlier_log_ratio(runs: Runs, run: str, statistics: Sequence[str] = AS_TRAINED) -> float | None:
    """Mean over probes of log(lambda_1 / lambda_10), which no factor on the loss changes (Ghorbani et al. 2019).

    After the first tenth of the steps. None where fewer than half of the probes have both, above 0.
    """
    last = _by_step(runs, run, f"eigenvalue_{CLASSES}", statistics)
    first = _by_step(runs, run, "top_eigenvalue", statistics)
    probed = _probed(runs, run, f"eigenvalue_{CLASSES}", statistics)
    ratios = [log(first[step] / last[step]) for step in sorted(first.keys() & last.keys()) if last[step] > 0]
    return float(np.mean(ratios)) if ratios and len(ratios) >= SHARED_FRACTION * probed else None


def running_over_batch(runs: Runs, run: str) -> float | None:
    """How much larger lambda_1 / lambda_10 is under running statistics than under those of the batch, as a log."""
    running, batch = outlier_log_ratio(runs, run, RUNNING), outlier_log_ratio(runs, run, ("batch",))
    return running - batch if running is not None and batch is not None else None


def sharpness_log(runs: Runs, run: str) -> float | None:
    """Logarithm of the median of lambda_1 x learning rate; None where half of the probes have none above 0."""
    scaled = _scaled_sharpness(runs, run)
    return log(float(np.median(scaled))) if scaled else None


def share_at_the_edge(runs: Runs, run: str) -> float | None:
    """Share of probes with lambda_1 x learning rate in ``AT_THE_EDGE``; None with fewer than five of them."""
    scaled = np.array(_scaled_sharpness(runs, run) or ())
    if scaled.size < FEWEST_PROBES:
        return None
    return float(np.mean((scaled >= AT_THE_EDGE[0]) & (scaled <= AT_THE_EDGE[1])))


def smoothness_over_curvature(runs: Runs, run: str) -> float | None:
    """Median log ratio of Fig. 4c's number, over the paper's list, to the size of the Hessian along the gradient."""
    spec = runs.specs[run]
    sizes = paper_step_sizes(spec.optimizer.learning_rate, spec.model.kind)
    smooth = BandSeries("effective_smoothness", "max").of(runs.of(run, "effective_smoothness"), sizes)
    exact = _by_step(runs, run, "batch_sharpness", AS_TRAINED)
    ratios = [log(smooth[s] / abs(exact[s])) for s in sorted(smooth.keys() & exact.keys()) if exact[s] and smooth[s]]
    return float(np.median(ratios)) if len(ratios) >= FEWEST_PROBES else None


def share_in_the_limit(runs: Runs, run: str) -> float | None:
    """Share of probes whose directional curvature at the smallest step is that of the Hessian, within a tenth."""
    curvature = measured(runs, run, "directional_curvature")
    smallest = curvature.smallest_resolved()
    exact = _by_step(runs, run, "batch_sharpness", AS_TRAINED)
    if smallest is None:
        return None
    near_zero = curvature.at(smallest)
    pairs = [(value, exact[step]) for step, value in near_zero.items() if exact.get(step)]
    if len(pairs) < FEWEST_PROBES:
        return None
    return float(np.mean([abs(near / limit - 1) <= SAME for near, limit in pairs]))


def _scaled_sharpness(runs: Runs, run: str) -> list[float] | None:
    found = [value for value in _by_step(runs, run, "top_eigenvalue", AS_TRAINED).values() if value > 0]
    if not found or len(found) < SHARED_FRACTION * _probed(runs, run, "top_eigenvalue", AS_TRAINED):
        return None
    return [value * runs.specs[run].optimizer.learning_rate for value in found]


def _by_step(runs: Runs, run: str, quantity: str, statistics: Sequence[str]) -> dict[int, float]:
    """The ok numbers after the warm-up; of two probes at one step the first in the table speaks."""
    rows = _rows(runs, run, quantity, statistics).filter(pl.col("status") == OK)
    return dict(reversed(list(rows.select("step", "value").iter_rows())))


def _probed(runs: Runs, run: str, quantity: str, statistics: Sequence[str]) -> int:
    return _rows(runs, run, quantity, statistics)["step"].n_unique()


def _rows(runs: Runs, run: str, quantity: str, statistics: Sequence[str]) -> pl.DataFrame:
    late = pl.col("step") >= WARM_UP * runs.specs[run].steps
    wanted = pl.col("statistics").is_in(list(statistics)) & late
    return runs.of(run, quantity).filter(wanted).sort("step", maintain_order=True)
