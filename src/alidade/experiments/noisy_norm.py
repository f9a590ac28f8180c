"""Figure 2: BatchNorm with noise after it, whose activations move at every step (Algorithm 1)."""

from __future__ import annotations

from alidade.claims.claim import Claim, Runs, Seeds
from alidade.claims.comparisons import mean_over_training, paired
from alidade.core.spec import PlannedRun
from alidade.experiments.experiment import Experiment, Settings, planned

LEARNING_RATE = 0.1


def _closer_to_batch(runs: Runs) -> Seeds:
    """Training accuracy of the noisy network above the midpoint of plain and BatchNorm network, seed by seed."""
    plain = runs.pick("none", LEARNING_RATE)

    def above_midpoint(runs: Runs, noisy: str, batch: str) -> float | None:
        triple = [plain.get(runs.specs[noisy].seed), noisy, batch]
        means = [mean_over_training(runs, run, "train_accuracy") for run in triple if run]
        return means[1] - (means[0] + means[2]) / 2 if len(means) == 3 and None not in means else None  # type: ignore[operator]

    found = paired(runs, "noisy", "batch", LEARNING_RATE, above_midpoint, "no plain network of that seed")
    return Seeds(found.values, (*found.runs, *(plain[seed] for seed in found.values)), found.reason)


_TRAINS = Claim(
    id="noisy_norm_trains",
    experiment="noisy_norm",
    paper="Fig. 2: noisy BatchNorm trains nearly as fast as BatchNorm; accuracies .68 none, .88 batch, .84 noisy",
    hypothesis="with noisy BatchNorm the mean training accuracy is nearer to that of BatchNorm than to that of no norm",
    statistic="mean training accuracy: noisy minus the midpoint of none and batch",
    threshold=0.0,
    per_seed=_closer_to_batch,
    scale="linear",
)


def _runs(settings: Settings) -> list[PlannedRun]:
    return planned(settings, ("none", "batch", "noisy"), LEARNING_RATE, with_lines=True)


EXPERIMENT = Experiment(
    name="noisy_norm",
    paper="Fig. 2",
    question="Does BatchNorm still help when its activations are made to jump at every step?",
    runs=_runs,
    claims=(_TRAINS,),
)
