"""Declarations of the paper's experiments: which runs, which probes, which claims. No loops, no torch."""

from __future__ import annotations

from alidade.claims.claim import Runs, Verdict, judge
from alidade.core.errors import CallError
from alidade.experiments import (
    activations,
    covariate_shift,
    curvature,
    deep_linear,
    glorot_start,
    landscape,
    lp_norms,
    noisy_norm,
    rescaling_control,
    theorems,
    training_speed,
)
from alidade.experiments.experiment import Experiment
from alidade.store import Study

#: In the order in which a report tells the story.
EXPERIMENTS: dict[str, Experiment] = {
    module.EXPERIMENT.name: module.EXPERIMENT
    for module in (
        training_speed,
        activations,
        noisy_norm,
        covariate_shift,
        rescaling_control,
        landscape,
        glorot_start,
        lp_norms,
        deep_linear,
        curvature,
        theorems,
    )
}

#: The paper in miniature.
DEMO: tuple[Experiment, ...] = (training_speed.IN_THE_DEMO, landscape.IN_THE_DEMO, noisy_norm.IN_THE_DEMO)


def experiments_named(name: str) -> tuple[Experiment, ...]:
    """One experiment, or all of them under the name "all".

    Raises:
        CallError: an unknown name; the message lists the known ones.
    """
    if name == "all":
        return tuple(EXPERIMENTS.values())
    if name not in EXPERIMENTS:
        raise CallError(f"NAME: expected one of {', '.join(EXPERIMENTS)} or all, got {name!r}")
    return (EXPERIMENTS[name],)


def judge_study(study: Study) -> list[Verdict]:
    """Verdicts on the claims of the study's experiments; a claim that no run of the study bears on is left out."""
    named = list(study.manifest.get("experiments") or EXPERIMENTS)
    runs = {name: Runs(study.frame, study.runs_of(name)) for name in EXPERIMENTS if name in named}
    pairs = [(claim, found) for name, found in runs.items() for claim in EXPERIMENTS[name].claims]
    return [verdict for verdict in judge(pairs) if verdict.runs]
