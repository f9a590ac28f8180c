"""Figure 2: BatchNorm with noise after it, whose activations move at every step (Algorithm 1)."""

from __future__ import annotations

from functools import partial

from alidade.claims.claim import Claim, Runs, Seeds
from alidade.claims.comparisons import log_ratio, mean_over_layers, mean_over_training, paired
from alidade.core.probes import PlannedRun
from alidade.experiments.experiment import Experiment, Settings, planned

LEARNING_RATE = 0.1


def _share_of_the_gap(runs: Runs) -> Seeds:
    """How much of the way from the plain network's training accuracy to BatchNorm's the noisy one goes, per seed."""
    plain = runs.pick("none", LEARNING_RATE)

    def share(runs: Runs, noisy: str, batch: str) -> float | None:
        triple = [plain.get(runs.specs[noisy].seed), noisy, batch]
        means = [mean_over_training(runs, run, "train_accuracy") for run in triple if run]
        none, moved, full = means if len(means) == 3 else (None, None, None)
        if none is None or moved is None or full is None or full <= none:
            return None
        return (moved - none) / (full - none)

    missing = "no plain network of that seed, or BatchNorm is not ahead of it"
    found = paired(runs, "noisy", "batch", LEARNING_RATE, share, missing)
    return Seeds(found.values, (*found.runs, *(plain[seed] for seed in found.values)), found.reason)


def _movement(runs: Runs, noisy: str, plain: str) -> float | None:
    return log_ratio(*(mean_over_layers(runs, run, "activation_mean_change") for run in (noisy, plain)))


_TRAINS = Claim(
    id="noisy_norm_trains",
    experiment="noisy_norm",
    paper="Fig. 2: noisy BatchNorm trains nearly as fast as BatchNorm; accuracies .68 none, .88 batch, .84 noisy",
    hypothesis="noisy BatchNorm closes at least 75 % of the gap in mean training accuracy between none and BatchNorm",
    statistic="share of the gap in mean training accuracy between none and batch that noisy closes",
    threshold=0.75,
    per_seed=_share_of_the_gap,
    scale="linear",
)

_MOVES = Claim(
    id="noisy_norm_moves",
    experiment="noisy_norm",
    paper="Fig. 8a: the mean of an activation jumps by up to about 1 with noisy BatchNorm, by under .2 without a norm",
    hypothesis="the means of single activations move more between probes with noisy BatchNorm than without a norm",
    statistic="ratio noisy / none of the mean change of a unit's mean activation between successive probes",
    threshold=1.0,
    per_seed=partial(
        paired,
        first="noisy",
        second="none",
        learning_rate=LEARNING_RATE,
        value=_movement,
        missing="activations were not measured",
    ),
)


def _runs(settings: Settings) -> list[PlannedRun]:
    return planned(settings, ("none", "batch", "noisy"), LEARNING_RATE, with_lines=True, with_activations=True)


EXPERIMENT = Experiment(
    name="noisy_norm",
    paper="Fig. 2",
    question="Does BatchNorm still help when its activations are made to jump at every step?",
    runs=_runs,
    claims=(_TRAINS, _MOVES),
)
