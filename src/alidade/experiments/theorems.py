"""Section 4: what Theorem 4.1 says about real layers along a real training."""

from __future__ import annotations

from functools import partial

from alidade.claims.claim import Claim, Runs
from alidade.claims.comparisons import alone, mean_over_probes
from alidade.core.probes import AnyProbe, PlannedRun
from alidade.experiments.experiment import LEARNING_RATE, AnyNetwork, Experiment, Network, Settings, planned
from alidade.experiments.probing import evaluation, theorem

_PAPER = "Theorem 4.1: with BatchNorm the gradient shrinks by gamma^2 / sigma^2 and by two terms more"


def _removed(runs: Runs, run: str) -> float | None:
    parts = [mean_over_probes(runs, run, f"theorem_4_1_{name}") for name in ("mean", "alignment")]
    return None if parts[0] is None or parts[1] is None else parts[0] + parts[1]


_LOWERS = Claim(
    id="theorem_4_1_lowers_the_gradient",
    experiment="theorems",
    paper=_PAPER,
    hypothesis="BatchNorm layers pass back a gradient of smaller squared norm than they receive, on average",
    statistic="ratio of squared gradient norms, input of a BatchNorm layer / its output, geometric mean",
    threshold=1.0,
    relation="<",
    per_seed=partial(
        alone, norm="batch", learning_rate=LEARNING_RATE,
        value=partial(mean_over_probes, quantity="theorem_4_1_ratio", geometric=True),
        missing="the terms were not measured",
    ),
)  # fmt: skip

_ADDITIVE = Claim(
    id="theorem_4_1_terms_matter",
    experiment="theorems",
    paper="Theorem 4.1: the additive reduction is there even if gamma = sigma, and grows with the dimension",
    hypothesis="the two subtracted terms remove more than a tenth of the squared gradient",
    statistic="share of the squared gradient that the mean and alignment terms remove, mean over layers and probes",
    threshold=0.1,
    scale="linear",
    per_seed=partial(
        alone, norm="batch", learning_rate=LEARNING_RATE, value=_removed, missing="the terms were not measured",
    ),
)  # fmt: skip


def _probes(settings: Settings, network: AnyNetwork) -> tuple[AnyProbe, ...]:
    return (*evaluation(settings, network), *theorem(settings, network))


def _runs(settings: Settings) -> list[PlannedRun]:
    return planned(settings, (Network("batch"),), _probes)


EXPERIMENT = Experiment(
    name="theorems",
    paper="Section 4",
    question="Do the theorems hold, and do their terms matter in a real network?",
    runs=_runs,
    claims=(_LOWERS, _ADDITIVE),
)
