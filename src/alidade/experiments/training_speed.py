"""Figure 1: training with and without BatchNorm, at the paper's learning rate and at five times it."""

from __future__ import annotations

from functools import partial

from alidade.claims.claim import Claim, Runs, Seeds
from alidade.claims.comparisons import log_ratio, mean_over_training, paired
from alidade.core.probes import PlannedRun
from alidade.experiments.experiment import Experiment, Settings, planned

LEARNING_RATE, LARGE_LEARNING_RATE = 0.1, 0.5
END = 0.8  # the last fifth of the steps


def _log_loss_ratio(runs: Runs, plain: str, batch: str) -> float | None:
    return log_ratio(*(mean_over_training(runs, run, "train_loss") for run in (plain, batch)))


def _end_accuracy_gain(runs: Runs, batch: str, plain: str) -> float | None:
    means = [mean_over_training(runs, run, "train_accuracy", END) for run in (batch, plain)]
    return None if means[0] is None or means[1] is None else means[0] - means[1]


def _compare_large(runs: Runs) -> Seeds:
    return paired(runs, "batch", "none", LARGE_LEARNING_RATE, _end_accuracy_gain, "no training accuracy")


_FASTER = Claim(
    id="faster_training",
    experiment="training_speed",
    paper="Fig. 1a: at learning rate 0.1 the network with BatchNorm is ahead (.83 against .49 after 1000 steps)",
    hypothesis="without BatchNorm the mean training loss over the run is larger",
    statistic="ratio none / batch of the mean training loss over all steps, learning rate 0.1",
    threshold=1.0,
    per_seed=partial(
        paired, first="none", second="batch", learning_rate=LEARNING_RATE, value=_log_loss_ratio,
        missing="a training loss is not finite",
    ),
)  # fmt: skip

_LARGER = Claim(
    id="larger_learning_rates",
    experiment="training_speed",
    paper="Fig. 1a: at learning rate 0.5 only the network with BatchNorm trains (.95 against .10 at the end)",
    hypothesis="at learning rate 0.5 BatchNorm ends at least 10 percentage points of training accuracy ahead",
    statistic="training accuracy over the last fifth: batch minus none, learning rate 0.5",
    threshold=0.1,
    per_seed=_compare_large,
    scale="linear",
)


def _runs(settings: Settings) -> list[PlannedRun]:
    both = (LEARNING_RATE, LARGE_LEARNING_RATE)
    return [run for rate in both for run in planned(settings, ("none", "batch"), rate, with_lines=False)]


def _runs_of_the_demo(settings: Settings) -> list[PlannedRun]:
    return planned(settings, ("none", "batch"), LEARNING_RATE, with_lines=False)


EXPERIMENT = Experiment(
    name="training_speed",
    paper="Fig. 1a, 1b",
    question="Does BatchNorm train faster, and at larger learning rates?",
    runs=_runs,
    claims=(_FASTER, _LARGER),
)

#: The part of the experiment that the demo's 15 runs can decide.
IN_THE_DEMO = Experiment(
    name="training_speed",
    paper="Fig. 1a, 1b",
    question="Does BatchNorm train faster?",
    runs=_runs_of_the_demo,
    claims=(_FASTER,),
)
