"""Figure 2: BatchNorm with noise after it, whose activations move at every step (Algorithm 1)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from alidade.claims.claim import Claim, Runs, Seeds
from alidade.claims.comparisons import log_ratio, mean_over_layers, mean_over_training, paired
from alidade.core.probes import AnyProbe, PlannedRun
from alidade.experiments.experiment import LEARNING_RATE, AnyNetwork, Experiment, Network, Settings, planned
from alidade.experiments.probing import activations, evaluation, lines, theorem

END = 0.8  # the last fifth of the steps
CHANCE = 0.1  # accuracy of a guess among ten classes


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


def _share_of_the_gain(runs: Runs, noise: str, plain: str) -> float | None:
    """How much of the plain network's gain in training accuracy above chance is left under the noise."""
    means = [mean_over_training(runs, run, "train_accuracy", END) for run in (noise, plain)]
    moved, full = (None if mean is None else mean - CHANCE for mean in means)
    return None if moved is None or full is None or full <= 0 else moved / full


def _movement(runs: Runs, noisy: str, plain: str) -> float | None:
    return log_ratio(*(mean_over_layers(runs, run, "activation_mean_change") for run in (noisy, plain)))


_TRAINS = Claim(
    id="noisy_norm_trains",
    experiment="noisy_norm",
    paper="Fig. 2: noisy BatchNorm trains nearly as fast; steps 1000 to 3000: .68 none, .88 batch, .84 noisy",
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
        missing="activations are missing or not finite",
    ),
)


_NOISE = Claim(
    id="noise_without_norm",
    experiment="noisy_norm",
    paper="Section 2.1: the same noise without BatchNorm prevents training entirely (no figure)",
    hypothesis="under the noise a plain network keeps less than a quarter of its gain in training accuracy over chance",
    statistic="share of the plain network's gain in training accuracy over chance, last fifth, that the noise leaves",
    threshold=0.25,
    relation="<",
    per_seed=partial(
        paired, first="noise", second="none", learning_rate=LEARNING_RATE, value=_share_of_the_gain,
        missing="the plain network learned nothing",
    ),
    scale="linear",
)  # fmt: skip


def _probes(settings: Settings, network: AnyNetwork) -> tuple[AnyProbe, ...]:
    looks = (evaluation,) if network.norm == "noise" else (evaluation, lines, theorem, activations)
    return tuple(probe for look in looks for probe in look(settings, network))


def _runs(settings: Settings) -> list[PlannedRun]:
    return planned(settings, (Network("none"), Network("batch"), Network("noisy"), Network("noise")), _probes)


def _runs_of_the_demo(settings: Settings) -> list[PlannedRun]:
    return planned(settings, (Network("none"), Network("batch"), Network("noisy")), _probes)


EXPERIMENT = Experiment(
    name="noisy_norm",
    paper="Fig. 2",
    question="Does BatchNorm still help when its activations are made to jump at every step?",
    runs=_runs,
    claims=(_TRAINS, _MOVES, _NOISE),
)

#: The part of the experiment that the demo's 15 runs can decide.
IN_THE_DEMO = replace(EXPERIMENT, runs=_runs_of_the_demo, claims=(_TRAINS, _MOVES))
