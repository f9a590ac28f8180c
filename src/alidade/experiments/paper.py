"""Every claim's statistic, taken of the paper's own plots: what an estimate of ours stands beside."""

from __future__ import annotations

from math import exp

from alidade.claims.claim import Claim
from alidade.experiments import EXPERIMENTS
from alidade.report.paper_runs import paper_runs
from alidade.report.words import number

#: What no plot gives: a training loss at every step, single step sizes, and all layers together.
_NOT_PLOTTED = ("equal_loss", "plateau_is")
_NO_HESSIAN = "curvature"
_ALL_LAYERS = "covariate_shift_not_reduced"


def plotted() -> dict[str, float]:
    """Estimates by claim id, for the claims whose statistic can be read off the paper's figures.

    Ratios and differences are as in a verdict. The paper ran one seed, so they have no interval.

    >>> estimates = plotted()
    >>> round(estimates["loss_band"], 2), round(estimates["deep_linear_l1"], 2)
    (7.74, 4.92)
    """
    shown = (experiment for name, experiment in EXPERIMENTS.items() if name != _NO_HESSIAN)
    claims = (claim for experiment in shown for claim in experiment.claims if _is_plotted(claim.id))
    found = {claim.id: _estimate(claim) for claim in claims}
    return {claim: value for claim, value in found.items() if value is not None}


def as_markdown() -> str:
    """The estimates as a table for a document: claim, statistic, value, threshold, and whether it stands beyond."""
    claims = {claim.id: claim for experiment in EXPERIMENTS.values() for claim in experiment.claims}
    lines = ["| claim | statistic | in the plot | asked for | there? |", "| --- | --- | --- | --- | --- |"]
    for id_, value in plotted().items():
        claim = claims[id_]
        there = value > claim.threshold if claim.relation == ">" else value < claim.threshold
        asked = f"{claim.relation} {number(claim.threshold)}"
        lines.append(f"| `{id_}` | {claim.statistic} | {number(value)} | {asked} | {'yes' if there else 'no'} |")
    return "\n".join(lines) + "\n"


def _is_plotted(claim: str) -> bool:
    single_layer = not claim.startswith(_ALL_LAYERS) or "early" in claim or "late" in claim
    return single_layer and not any(words in claim for words in _NOT_PLOTTED)


def _estimate(claim: Claim) -> float | None:
    values = list(claim.per_seed(paper_runs()).values.values())
    if not values:
        return None
    return exp(values[0]) if claim.scale == "log" else values[0]
