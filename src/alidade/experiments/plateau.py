"""What the plateau of the effective smoothness at 2 / learning rate is: the edge of stability, or a saturation."""

from __future__ import annotations

from functools import partial

from alidade.claims.claim import Claim
from alidade.claims.comparisons import alone
from alidade.claims.plateaus import edge_share, saturation_log_ratio

_PAPER = "Fig. 4c, 10c, 12d, 13d: the effective smoothness of every network settles at 2 / learning rate"


def plateau_claims(experiment: str, norm: str, learning_rate: float, ending: str = "") -> tuple[Claim, Claim]:
    """Both readings for one network; neither is presumed, and both can be wrong."""
    edge = Claim(
        id=f"plateau_is_edge{ending}",
        experiment=experiment,
        paper=_PAPER,
        hypothesis=(
            f"{norm}: at the smallest step the signed directional curvature is 1.9 to 2.1 over the learning rate at "
            "more than half of the probes: the edge of stability"
        ),
        statistic="share of probes with directional curvature x learning rate in [1.9, 2.1] at the smallest step",
        threshold=0.5,
        scale="linear",
        per_seed=partial(
            alone, norm=norm, learning_rate=learning_rate, value=edge_share,
            missing="fewer than 5 probes at which the loss still falls",
        ),
    )  # fmt: skip
    saturation = Claim(
        id=f"plateau_is_saturation{ending}",
        experiment=experiment,
        paper=_PAPER,
        hypothesis=(
            f"{norm}: where the gradient is gone after half a step (distance / norm within 0.8 to 1.25), smaller "
            "steps show a smoothness at least twice as large: the list of steps set the level"
        ),
        statistic="ratio of the effective smoothness at the smallest step to that at half a learning rate, median over "
        "probes",
        threshold=2.0,
        per_seed=partial(
            alone, norm=norm, learning_rate=learning_rate, value=saturation_log_ratio,
            missing="fewer than 5 probes with a gradient distance near the gradient norm after half a step",
        ),
    )  # fmt: skip
    return edge, saturation
