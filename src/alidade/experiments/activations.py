"""Figures 1c, 2, 6, 8 and 9: the distributions of activations along training."""

from __future__ import annotations

from functools import partial

from alidade.claims.claim import Claim, Runs
from alidade.claims.comparisons import log_ratio, mean_over_layers, paired
from alidade.core.probes import PlannedRun
from alidade.experiments.experiment import LEARNING_RATE, Experiment, LinearNetwork, Network, Settings, planned
from alidade.experiments.probing import activations


def _change(quantity: str, runs: Runs, plain: str, batch: str) -> float | None:
    return log_ratio(*(mean_over_layers(runs, run, quantity) for run in (plain, batch)))


def _steadier(moment: str) -> Claim:
    return Claim(
        id=f"batch_norm_steadies_{moment}s",
        experiment="activations",
        paper="Fig. 8a: with BatchNorm the moments of an activation hardly change, without they do by under .2",
        hypothesis=f"without BatchNorm the {moment} of a unit's activation moves more between probes",
        statistic=f"ratio none / batch of the change of a unit's {moment} between successive probes",
        threshold=1.0,
        per_seed=partial(
            paired,
            first="none",
            second="batch",
            learning_rate=LEARNING_RATE,
            value=partial(_change, f"activation_{moment}_change"),
            missing="activations are missing or not finite",
        ),
    )


def _runs(settings: Settings) -> list[PlannedRun]:
    networks = [Network(norm) for norm in ("none", "batch", "noisy", "l1", "l2", "linf")]
    return planned(settings, [*networks, LinearNetwork("none"), LinearNetwork("batch")], activations)


EXPERIMENT = Experiment(
    name="activations",
    paper="Fig. 1c, Fig. 2, Fig. 6, Fig. 8, Fig. 9",
    question="Does BatchNorm make the distributions of activations steadier?",
    runs=_runs,
    claims=(_steadier("mean"), _steadier("variance")),
)
