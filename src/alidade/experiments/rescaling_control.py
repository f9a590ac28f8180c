"""A control that the paper lacks: one function under several scales of the weights that BatchNorm divides out."""

from __future__ import annotations

from functools import partial

from alidade.claims.claim import Claim, Runs
from alidade.claims.comparisons import alone, log_ratio, median_over_probes
from alidade.core.probes import PlannedRun
from alidade.experiments.experiment import LEARNING_RATE, Experiment, Network, Settings, planned
from alidade.experiments.probing import rescaling

SMALL, LARGE = 0.25, 4.0
_PAPER = (
    "Not in the paper: the weights before each BatchNorm, times 1/4 to 4, give the same network; a raw contrast that "
    "they can make says nothing about it (Dinh et al. 2017)"
)


def _small_over_large(quantity: str, step_size: float | None, runs: Runs, run: str) -> float | None:
    ends = [median_over_probes(runs, run, f"rescaled_{f:g}_{quantity}", step_size=step_size) for f in (SMALL, LARGE)]
    return log_ratio(*ends)


def _distance(quantity: str, step_size: float | None, runs: Runs, run: str) -> float | None:
    """The larger of the ratio and its inverse, in logs."""
    ratio = _small_over_large(quantity, step_size, runs, run)
    return None if ratio is None else abs(ratio)


_RAW = Claim(
    id="rescaling_control",
    experiment="rescaling_control",
    paper=_PAPER,
    hypothesis="quartered weights show an effective smoothness at least 10 times that of quadrupled ones",
    statistic="ratio of the median effective smoothness at the step of one learning rate: weights x 1/4 to x 4",
    threshold=10.0,
    per_seed=partial(
        alone, norm="batch", learning_rate=LEARNING_RATE,
        value=partial(_small_over_large, "effective_smoothness", LEARNING_RATE), missing="no finite profile",
    ),
)  # fmt: skip


def _unmoved(id_: str, quantity: str, step_size: float | None, words: str) -> Claim:
    return Claim(
        id=id_,
        experiment="rescaling_control",
        paper=_PAPER,
        hypothesis=f"{words} is the same, within a factor of 1.05, under quartered and quadrupled weights",
        statistic=f"ratio of the larger to the smaller of {words}, weights x 1/4 and x 4, median over probes",
        threshold=1.05,
        relation="<",
        per_seed=partial(
            alone, norm="batch", learning_rate=LEARNING_RATE,
            value=partial(_distance, quantity, step_size), missing="no finite profile",
        ),
    )  # fmt: skip


def _runs(settings: Settings) -> list[PlannedRun]:
    return planned(settings, (Network("batch"),), rescaling)


EXPERIMENT = Experiment(
    name="rescaling_control",
    paper="Control",
    question="How much of a contrast in raw units can be made by scaling weights that BatchNorm ignores?",
    runs=_runs,
    claims=(
        _RAW,
        _unmoved("rescaling_control_loss", "loss", 0.0, "the loss"),
        _unmoved(
            "rescaling_control_scale_free", "relative_gradient_distance", 0.1,
            "the relative gradient distance at a relative step of 0.1",
        ),
    ),
)  # fmt: skip
