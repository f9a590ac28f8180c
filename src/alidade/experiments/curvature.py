"""The Hessian on the way: outliers with and without BatchNorm, the edge of stability, and what Fig. 4c measures."""

from __future__ import annotations

from functools import partial

from alidade.claims.claim import Claim, Runs
from alidade.claims.comparisons import alone, paired
from alidade.claims.spectra import (
    outlier_log_ratio,
    running_over_batch,
    share_at_the_edge,
    share_in_the_limit,
    sharpness_log,
    smoothness_over_curvature,
)
from alidade.core.probes import AnyProbe, PlannedRun
from alidade.experiments.experiment import (
    LEARNING_RATE,
    LINEAR_LEARNING_RATE,
    AnyNetwork,
    Experiment,
    LinearNetwork,
    Network,
    Settings,
    planned,
)
from alidade.experiments.probing import curvature, evaluation, lines, spectrum

#: Ending of a claim's id, norm, learning rate.
_IMAGES = (("_none", "none", LEARNING_RATE), ("_batch", "batch", LEARNING_RATE))
_LINEAR = (
    ("_deep_linear_none", "none", LINEAR_LEARNING_RATE),
    ("_deep_linear_batch", "batch", LINEAR_LEARNING_RATE),
)
_GHORBANI = "Not in the paper; Ghorbani, Krishnan & Xiao 2019, section 4: BatchNorm removes the outliers"
_COHEN = "Not in the paper; Cohen et al. 2021: full-batch gradient descent settles where lambda_1 is 2 / learning rate"
_FIG_4C = "Fig. 4c, 10c: the effective smoothness stands for the Lipschitz constant of the gradient"
_FEW_PROBES = "fewer than half of the probes converged"
_FEW_SHARED = "fewer than 5 steps with both a line profile and the Hessian"


def _outlier_gap(runs: Runs, first: str, second: str) -> float | None:
    values = [outlier_log_ratio(runs, run) for run in (first, second)]
    return values[0] - values[1] if values[0] is not None and values[1] is not None else None


_OUTLIERS = Claim(
    id="outliers_suppressed",
    experiment="curvature",
    paper=_GHORBANI,
    hypothesis="without BatchNorm lambda_1 / lambda_10 is larger than with it, under the statistics of the batch",
    statistic="ratio none / batch of lambda_1 / lambda_10, geometric mean over the probes after the first tenth",
    threshold=1.0,
    per_seed=partial(
        paired, first="none", second="batch", learning_rate=LEARNING_RATE, value=_outlier_gap, missing=_FEW_PROBES
    ),
)
_RUNNING = Claim(
    id="outliers_return_running",
    experiment="curvature",
    paper="Not in the paper; Ghorbani, Krishnan & Xiao 2019, section 4: not so with the statistics of the population",
    hypothesis="BatchNorm suppresses outliers less under running statistics than under those of the batch",
    statistic="ratio running / batch statistics of lambda_1 / lambda_10 in the network with BatchNorm",
    threshold=1.0,
    per_seed=partial(
        alone, norm="batch", learning_rate=LEARNING_RATE, value=running_over_batch, missing=_FEW_PROBES
    ),
)  # fmt: skip


def _sharpness(ending: str, norm: str, rate: float) -> Claim:
    return Claim(
        id=f"sharpness_above_edge{ending}",
        experiment="curvature",
        paper=_COHEN + "; with mini-batches 2 is a reference only",
        hypothesis=f"{norm}: the top eigenvalue of the mini-batch's Hessian is above 2 / learning rate",
        statistic="ratio of lambda_1 to 1 / learning rate, median over the probes after the first tenth",
        threshold=2.0,
        per_seed=partial(alone, norm=norm, learning_rate=rate, value=sharpness_log, missing=_FEW_PROBES),
    )


def _edge(ending: str, norm: str, rate: float) -> Claim:
    return Claim(
        id=f"edge_of_stability{ending}",
        experiment="curvature",
        paper=_COHEN,
        hypothesis=f"{norm}: lambda_1 is 1.8 to 2.2 over the learning rate at more than half of the probes",
        statistic="share of the probes after the first tenth with lambda_1 x learning rate in [1.8, 2.2]",
        threshold=0.5,
        scale="linear",
        per_seed=partial(
            alone, norm=norm, learning_rate=rate, value=share_at_the_edge, missing="fewer than 5 probes converged"
        ),
    )


def _fig_4c(ending: str, norm: str, rate: float) -> tuple[Claim, Claim]:
    """Fig. 4c's number beside the Hessian along the gradient; and whether smaller steps lead from one to the other."""
    apart = Claim(
        id=f"smoothness_beyond_curvature{ending}",
        experiment="curvature",
        paper=_FIG_4C,
        hypothesis=f"{norm}: Fig. 4c's number is more than twice the Hessian's curvature along the gradient",
        statistic="ratio of Fig. 4c's number, over the paper's list, to |g'Hg| / g'g, median over probes",
        threshold=2.0,
        per_seed=partial(
            alone, norm=norm, learning_rate=rate, value=smoothness_over_curvature, missing=_FEW_SHARED
        ),
    )  # fmt: skip
    limit = Claim(
        id=f"curvature_in_the_limit{ending}",
        experiment="curvature",
        paper=_FIG_4C,
        hypothesis=(
            f"{norm}: at the smallest step the directional curvature of the line profile is the Hessian's, within "
            "10 %, at more than half of the probes: no kink lies on the way"
        ),
        statistic="share of probes whose directional curvature at the smallest step is g'Hg / g'g within 10 %",
        threshold=0.5,
        scale="linear",
        per_seed=partial(alone, norm=norm, learning_rate=rate, value=share_in_the_limit, missing=_FEW_SHARED),
    )
    return apart, limit


def _probes(settings: Settings, network: AnyNetwork) -> tuple[AnyProbe, ...]:
    looks = (evaluation, lines, curvature, spectrum)
    return tuple(probe for look in looks for probe in look(settings, network))


def _runs(settings: Settings) -> list[PlannedRun]:
    networks = (Network("none"), Network("batch"), LinearNetwork("none"), LinearNetwork("batch"))
    return planned(settings, networks, _probes)


EXPERIMENT = Experiment(
    name="curvature",
    paper="Fig. 4c, Fig. 10c, and later work",
    question="What does the Hessian itself say: its outliers, its top eigenvalue, its value along the step?",
    runs=_runs,
    claims=(
        _OUTLIERS,
        _RUNNING,
        *(_sharpness(*network) for network in _IMAGES),
        *(_edge(*network) for network in _LINEAR),
        *(claim for network in (*_IMAGES, *_LINEAR) for claim in _fig_4c(*network)),
    ),
)
