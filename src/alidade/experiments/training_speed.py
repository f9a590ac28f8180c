"""Figure 1: training with and without BatchNorm, at the paper's learning rates and at the best of a small grid."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from math import inf

from alidade.claims.claim import Claim, Runs, Seeds
from alidade.claims.comparisons import last_value, log_ratio, mean_over_training, paired
from alidade.core.probes import PlannedRun
from alidade.core.spec import NormName
from alidade.experiments.experiment import LEARNING_RATE, Experiment, Network, Settings, planned
from alidade.experiments.probing import evaluation

LARGE_LEARNING_RATE = 0.5
GRID = (0.02, 0.05, LEARNING_RATE, 0.2, LARGE_LEARNING_RATE)
END = 0.8  # the last fifth of the steps


def _log_loss_ratio(runs: Runs, plain: str, batch: str) -> float | None:
    return log_ratio(*(mean_over_training(runs, run, "train_loss") for run in (plain, batch)))


def _end_accuracy_gain(runs: Runs, batch: str, plain: str) -> float | None:
    means = [mean_over_training(runs, run, "train_accuracy", END) for run in (batch, plain)]
    return None if means[0] is None or means[1] is None else means[0] - means[1]


def _test_accuracy_gain(runs: Runs, batch: str, plain: str) -> float | None:
    ends = [last_value(runs, run, "test_accuracy") for run in (batch, plain)]
    return None if ends[0] is None or ends[1] is None else ends[0] - ends[1]


def _each_at_its_best(runs: Runs) -> Seeds:
    """Log ratio none / batch of mean training losses, each network at the rate of the grid that is best for it."""
    plain, batch = (_best_runs(runs, norm) for norm in ("none", "batch"))
    shared = sorted(set(plain) & set(batch))
    values = {seed: _log_loss_ratio(runs, plain[seed], batch[seed]) for seed in shared}
    used = tuple(run for seed in shared for run in (plain[seed], batch[seed]))
    found = {seed: value for seed, value in values.items() if value is not None}
    return Seeds(found, used, "" if len(found) == len(shared) else "a training loss is not finite")


def _best_runs(runs: Runs, norm: str) -> Mapping[int, str]:
    """The runs, by seed, at the learning rate with the lowest training loss on average; none without a choice."""
    at = [picked for rate in GRID if (picked := runs.pick(norm, rate))]
    return min(at, key=lambda picked: _mean_loss(runs, picked)) if len(at) > 1 else {}


def _mean_loss(runs: Runs, picked: Mapping[int, str]) -> float:
    losses = [mean_over_training(runs, run, "train_loss") for run in picked.values()]
    return sum(inf if loss is None else loss for loss in losses) / len(losses)


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

_BEST = Claim(
    id="faster_training_best_rate",
    experiment="training_speed",
    paper="Fig. 1a compares at one learning rate; here each network has its own best one",
    hypothesis="without BatchNorm the mean training loss is larger, each network at its best learning rate of the grid",
    statistic=f"ratio none / batch of the mean training loss over all steps, each at its best of {GRID}",
    threshold=1.0,
    per_seed=_each_at_its_best,
)

_LARGER = Claim(
    id="larger_learning_rates",
    experiment="training_speed",
    paper="Fig. 1a: at learning rate 0.5 only the network with BatchNorm trains (.95 against .10 at the end)",
    hypothesis="at learning rate 0.5 BatchNorm ends at least 10 percentage points of training accuracy ahead",
    statistic="training accuracy over the last fifth: batch minus none, learning rate 0.5",
    threshold=0.1,
    per_seed=partial(
        paired, first="batch", second="none", learning_rate=LARGE_LEARNING_RATE, value=_end_accuracy_gain,
        missing="no training accuracy",
    ),
    scale="linear",
)  # fmt: skip


def _generalizes(augment: bool) -> Claim:
    return Claim(
        id="test_accuracy_augmented" if augment else "test_accuracy",
        experiment="training_speed",
        paper="Appendix A: with augmentation 92 % with BatchNorm, 88 % without"
        if augment
        else "Fig. 1b, Appendix A: test accuracy 83 % with BatchNorm, 80 % without",
        hypothesis="BatchNorm ends with a higher test accuracy" + (", with augmentation" if augment else ""),
        statistic="test accuracy at the end, batch minus none, learning rate 0.1"
        + (", with augmentation" if augment else ""),
        threshold=0.0,
        per_seed=partial(
            paired, first="batch", second="none", learning_rate=LEARNING_RATE, value=_test_accuracy_gain,
            missing="no test accuracy", augment=augment,
        ),
        scale="linear",
    )  # fmt: skip


def _runs(settings: Settings) -> list[PlannedRun]:
    norms: tuple[NormName, ...] = ("none", "batch")
    networks = [Network(norm, rate) for rate in GRID for norm in norms]
    networks += [Network(norm, augment=True) for norm in norms]
    return planned(settings, networks, evaluation)


def _runs_of_the_demo(settings: Settings) -> list[PlannedRun]:
    return planned(settings, (Network("none"), Network("batch")), evaluation)


EXPERIMENT = Experiment(
    name="training_speed",
    paper="Fig. 1a, 1b",
    question="Does BatchNorm train faster, and at larger learning rates?",
    runs=_runs,
    claims=(_FASTER, _BEST, _LARGER, _generalizes(False), _generalizes(True)),
)

#: The part of the experiment that the demo's 15 runs can decide.
IN_THE_DEMO = replace(EXPERIMENT, question="Does BatchNorm train faster?", runs=_runs_of_the_demo, claims=(_FASTER,))
