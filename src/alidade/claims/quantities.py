"""What a claim compares: one number, or one series over the probed steps, from one run's rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from alidade.core.records import OK

#: The paper's lists of step sizes in units of the learning rate, by kind of network; a band is a function of its
#: list. The text says 30 for the last of the deep linear network, the plot shows 10^1.5.
PAPER_FACTORS: dict[str, tuple[float, ...]] = {
    "vgg": (0.5, 1.0, 2.0, 4.0),
    "deep_linear": (0.01, 0.1, 1.0, 10.0, 10**1.5),
}
#: Root-mean-square relative changes of a filter for the scale-free twin.
RELATIVE_STEPS = (0.01, 0.03, 0.1, 0.3)
#: The first tenth of the steps is left out of means over training: the paper's bands at step 0 are transients.
WARM_UP = 0.1
#: Step sizes are the same when they agree to nine digits.
SAME_SIZE = 5e-10
#: A run did not train if its loss over the last tenth of the steps is above this share of its median over the first.
STUCK = 0.8


@dataclass(frozen=True)
class BandSeries:
    """Reduces a line profile to one number per probed step: over a named list of step sizes."""

    quantity: str  # of the tidy table
    reduce: Literal["width", "max"]

    def of(self, rows: pl.DataFrame, step_sizes: Sequence[float]) -> dict[int, float]:
        """Of one run, by step; where a listed number is missing, not finite or below resolution there is none."""
        return self.by_run(rows.with_columns(run=pl.lit("")), step_sizes).get("", {})

    def by_run(self, rows: pl.DataFrame, step_sizes: Sequence[float]) -> dict[str, dict[int, float]]:
        """``of`` for each run, all in one go: of a large study thousands would be asked for one by one."""
        kept = rows.filter((pl.col("quantity") == self.quantity) & (pl.col("status") == OK))
        if kept.is_empty():
            return {}
        run = kept["run"].cast(pl.Categorical())
        code, step, size, value = (
            column.to_numpy() for column in (run.to_physical(), *kept["step", "step_size", "value"])
        )
        stride = int(step.max()) + 1
        probe = code.astype(np.int64) * stride + step
        probed = np.unique(probe)
        band = np.full((len(step_sizes), probed.size), np.nan)
        for place, listed in enumerate(step_sizes):
            mine = np.abs(size - listed) <= SAME_SIZE * abs(listed)
            band[place, np.searchsorted(probed, probe[mine])] = value[mine]
        complete = ~np.isnan(band).any(axis=0)
        band, probed = band[:, complete], probed[complete]
        reduced = band.max(axis=0) - band.min(axis=0) if self.reduce == "width" else band.max(axis=0)
        each = run.unique()
        ends = np.searchsorted(probed, (each.to_physical().to_numpy().astype(np.int64)[:, None] + [0, 1]) * stride)
        steps, numbers = (probed % stride).tolist(), reduced.tolist()
        return {
            name: dict(zip(steps[first:last], numbers[first:last], strict=True))
            for name, (first, last) in zip(each.to_list(), ends.tolist(), strict=True)
        }


def paper_step_sizes(learning_rate: float, network: str = "vgg") -> tuple[float, ...]:
    """The paper's list for a kind of network (Santurkar et al. 2018, Appendix A.2.2; read off Fig. 11).

    >>> paper_step_sizes(0.1)
    (0.05, 0.1, 0.2, 0.4)
    >>> [float(f"{size:.4g}") for size in paper_step_sizes(1e-6, "deep_linear")]
    [1e-08, 1e-07, 1e-06, 1e-05, 3.162e-05]
    """
    return tuple(factor * learning_rate for factor in PAPER_FACTORS[network])


def same_size(step_size: float) -> pl.Expr:
    """Whether a row's step size is this one, to nine digits."""
    return pl.col("step_size").round_sig_figs(9) == float(f"{step_size:.9g}")


def after_warm_up(series: dict[int, float], steps: int) -> dict[int, float]:
    """The part of a series after the first tenth of the training steps."""
    return {step: value for step, value in series.items() if step >= WARM_UP * steps}
