"""Figures 5b, 10 and 13: the same on 25 linear layers, where nothing but the norms is not linear."""

from __future__ import annotations

from functools import partial

from alidade.claims.claim import Claim, Runs, Seeds
from alidade.claims.comparisons import last_value, log_ratio, paired
from alidade.core.probes import AnyProbe, PlannedRun
from alidade.core.spec import NormName
from alidade.experiments.bands import Contrast
from alidade.experiments.experiment import (
    LINEAR_LEARNING_RATE,
    AnyNetwork,
    Experiment,
    LinearNetwork,
    Settings,
    planned,
)
from alidade.experiments.plateau import plateau_claims
from alidade.experiments.probing import lines

NORMS: tuple[NormName, ...] = ("none", "batch", "l1", "l2", "linf")
_FIG_5 = "Fig. 5b: final losses none 1661, Linf 986, L2 481, BatchNorm 479, L1 97"
_SAYS = {
    "loss_band": "Fig. 10a: the loss varies less along the gradient with BatchNorm",
    "gradient_band": "Fig. 10b: gradients change less with BatchNorm",
    "effective_smoothness": "Fig. 10c: the effective smoothness is lower with BatchNorm; late 2e6 for both",
}
_STEPS = "steps of 1/100 to 10^1.5 learning rates"


def _end_ratio(runs: Runs, first: str, second: str) -> float | None:
    return log_ratio(*(last_value(runs, run, "train_loss") for run in (first, second)))


def _worst_of_three(runs: Runs) -> Seeds:
    """Log ratio of Linf's final loss to the largest of those of L1, L2 and BatchNorm, per seed."""
    found = [
        paired(runs, "linf", norm, LINEAR_LEARNING_RATE, _end_ratio, "a final loss is not finite")
        for norm in ("l1", "l2", "batch")
    ]
    shared = set.intersection(*(set(seeds.values) for seeds in found))
    values = {seed: min(seeds.values[seed] for seeds in found) for seed in sorted(shared)}
    used = tuple(dict.fromkeys(run for seeds in found for run in seeds.runs))
    return Seeds(values, used, next((seeds.reason for seeds in found if seeds.reason), ""))


def _ends(id_: str, first: str, second: str, hypothesis: str, paper: str) -> Claim:
    return Claim(
        id=id_,
        experiment="deep_linear",
        paper=paper,
        hypothesis=hypothesis,
        statistic=f"ratio {first} / {second} of the final loss",
        threshold=1.0,
        per_seed=partial(
            paired,
            first=first,
            second=second,
            learning_rate=LINEAR_LEARNING_RATE,
            value=_end_ratio,
            missing="a final loss is not finite",
        ),
    )


_MIDDLE = Claim(
    id="deep_linear_three_norms_ahead",
    experiment="deep_linear",
    paper=_FIG_5,
    hypothesis="L1, L2 and BatchNorm all end at a lower loss than Linf",
    statistic="ratio of the final loss: Linf / the largest of L1, L2 and batch",
    threshold=1.0,
    per_seed=_worst_of_three,
)


def _claims() -> tuple[Claim, ...]:
    contrast = Contrast("deep_linear", "none", "batch", LINEAR_LEARNING_RATE, _STEPS)
    bands = (claim for band, says in _SAYS.items() for claim in contrast.forms(f"deep_linear_{band}", band, says))
    plateaus = (
        claim
        for norm in NORMS
        for claim in plateau_claims("deep_linear", norm, LINEAR_LEARNING_RATE, f"_deep_linear_{norm}")
    )
    l1 = "Section 3.3, Fig. 5b: on the deep linear network L1 does even better than BatchNorm (97 against 479)"
    return (
        _ends("deep_linear_l1", "batch", "l1", "L1 normalization ends at a lower loss than BatchNorm", l1),
        _ends(
            "deep_linear_batch", "none", "batch", "without a norm the final loss is larger than with BatchNorm", _FIG_5
        ),
        _MIDDLE,
        _ends("deep_linear_linf", "none", "linf", "without a norm the final loss is larger than with Linf", _FIG_5),
        *bands,
        *plateaus,
    )


def _probes(settings: Settings, network: AnyNetwork) -> tuple[AnyProbe, ...]:
    return lines(settings, network)


def _runs(settings: Settings) -> list[PlannedRun]:
    return planned(settings, [LinearNetwork(norm) for norm in NORMS], _probes)


EXPERIMENT = Experiment(
    name="deep_linear",
    paper="Fig. 5b, Fig. 10, Fig. 13",
    question="Does the picture hold where the network itself is linear?",
    runs=_runs,
    claims=_claims(),
)
