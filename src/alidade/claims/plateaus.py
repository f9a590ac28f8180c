"""Readings of one run's line profiles about the plateau of the effective smoothness at 2 / learning rate."""

from __future__ import annotations

from collections.abc import Sequence
from math import log

import numpy as np
import polars as pl

from alidade.claims.claim import Runs
from alidade.claims.quantities import WARM_UP, BandSeries, after_warm_up, paper_step_sizes, same_size
from alidade.core.records import OK
from alidade.core.spec import RunSpec

#: "At the edge" means: smoothness x learning rate within these.
EDGE = (1.9, 2.1)
#: The gradient is gone after half a step where distance / norm is within these.
GONE = (0.8, 1.25)
#: A loss falls from one probe to the next if by more than this share.
FALLS = 1e-6
FEWEST_PROBES = 5


def edge_share(runs: Runs, run: str) -> float | None:
    """Share of probes with signed directional curvature x learning rate in ``EDGE`` at the smallest step size.

    Where the whole data set is the batch only probes count from which the loss falls to the next one: at a
    stationary point there is no step to speak of. None with fewer than five such probes.
    """
    spec = runs.specs[run]
    smallest = smallest_resolved(runs, run, "directional_curvature")
    if smallest is None:
        return None
    at = profile_rows(runs, run, "directional_curvature").filter(same_size(smallest))
    if spec.model.kind == "deep_linear":
        at = at.filter(pl.col("step").is_in(_falling(runs, run)))
    return _share_at_the_edge(at["value"].to_list(), spec)


def smoothness_share(runs: Runs, run: str) -> float | None:
    """Share of probes whose effective smoothness x learning rate, largest over the paper's list, lies in ``EDGE``.

    The number of Fig. 10c and 13d, over the probes of ``edge_share``; None with fewer than five.
    """
    spec = runs.specs[run]
    sizes = paper_step_sizes(spec.optimizer.learning_rate, spec.model.kind)
    largest = after_warm_up(
        BandSeries("effective_smoothness", "max").of(runs.of(run, "effective_smoothness"), sizes), spec.steps
    )
    counted = set(_falling(runs, run)) if spec.model.kind == "deep_linear" else set(largest)
    return _share_at_the_edge([beta for step, beta in largest.items() if step in counted], spec)


def _share_at_the_edge(values: Sequence[float], spec: RunSpec) -> float | None:
    if len(values) < FEWEST_PROBES:
        return None
    scaled = np.asarray(values) * spec.optimizer.learning_rate
    return float(np.mean((scaled >= EDGE[0]) & (scaled <= EDGE[1])))


def saturation_log_ratio(runs: Runs, run: str) -> float | None:
    """Median log ratio of the smoothness at the smallest step size to that at half a learning rate.

    Over the probes at which half a step leaves nothing of the gradient (distance / norm within ``GONE``); None with
    fewer than five. At the edge of stability the ratio is 1, in a saturation it is the ratio of the step sizes.
    """
    half = runs.specs[run].optimizer.learning_rate / 2
    smallest = smallest_resolved(runs, run, "effective_smoothness")
    if smallest is None:
        return None
    smoothness = profile_rows(runs, run, "effective_smoothness")
    distance, norm = profile_rows(runs, run, "gradient_distance"), profile_rows(runs, run, "gradient_norm")
    table = (
        smoothness.filter(same_size(half)).select("step", large="value")
        .join(smoothness.filter(same_size(smallest)).select("step", small="value"), on="step")
        .join(distance.filter(same_size(half)).select("step", distance="value"), on="step")
        .join(norm.select("step", norm="value"), on="step")
        .filter((pl.col("distance") / pl.col("norm")).is_between(*GONE))
    )  # fmt: skip
    if table.height < FEWEST_PROBES:
        return None
    return float(np.median(np.log(table["small"].to_numpy() / table["large"].to_numpy())))


def _measured(runs: Runs, run: str, quantity: str) -> pl.DataFrame:
    def measured() -> pl.DataFrame:
        late = pl.col("step") >= WARM_UP * runs.specs[run].steps
        rows = runs.of(run, quantity).filter(late).with_columns(pl.col("step_size").round_sig_figs(9))
        return rows.unique(["step", "step_size"]).sort("step")

    return runs.once(("measured", run, quantity), measured)


def profile_rows(runs: Runs, run: str, quantity: str) -> pl.DataFrame:
    """The ok rows of a quantity of the line profiles after the first tenth of the steps."""
    return _measured(runs, run, quantity).filter(pl.col("status") == OK)


def smallest_resolved(runs: Runs, run: str, quantity: str) -> float | None:
    """The smallest step size that most probes resolve: where only large values stand out, these would speak for all."""
    resolved = (pl.col("status") == OK).mean().alias("resolved")
    sizes = _measured(runs, run, quantity).filter(pl.col("step_size") > 0).group_by("step_size").agg(resolved)
    return min(sizes.filter(pl.col("resolved") >= 0.5)["step_size"].to_list(), default=None)


def _falling(runs: Runs, run: str) -> list[int]:
    """Probed steps whose loss is larger than that of the next probed step."""
    at_start = profile_rows(runs, run, "loss").filter(pl.col("step_size") == 0)
    steps, losses = at_start["step"].to_list(), at_start["value"].to_list()
    pairs = zip(steps, losses, losses[1:], strict=False)
    return [step for step, now, then in pairs if now > 0 and then > 0 and log(now / then) > FALLS]
