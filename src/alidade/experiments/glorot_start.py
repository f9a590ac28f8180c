"""A control: a plain network that does not train stands on a plateau, and a plateau looks smooth."""

from __future__ import annotations

from functools import partial

from alidade.claims.claim import Claim, Runs
from alidade.claims.comparisons import band_log_ratio, paired, untrained
from alidade.claims.quantities import BandSeries
from alidade.core.probes import AnyProbe, PlannedRun
from alidade.experiments.experiment import LEARNING_RATE, AnyNetwork, Experiment, Network, Settings, planned
from alidade.experiments.probing import evaluation, lines


def _smoother_where_untrained(quantity: str, runs: Runs, batch: str, plain: str) -> float | None:
    """Log ratio batch / none of mean loss bands; None where the plain network has trained."""
    if not untrained(runs, plain):
        return None
    return band_log_ratio(BandSeries(quantity, "width"), equal_loss=False)(runs, batch, plain)


def _claim(relative: bool) -> Claim:
    over = " over relative steps of 0.01 to 0.3" if relative else ""
    return Claim(
        id="plateau_looks_smooth" + ("_scale_free" if relative else ""),
        twin="" if relative else "plateau_looks_smooth_scale_free",
        experiment="glorot_start",
        paper="Not in the paper: its networks start from Glorot's weights; a narrow plain one then stays on a plateau",
        hypothesis=f"a plain network that does not train has a narrower loss band{over} than the one with BatchNorm "
        "that trains",
        statistic=f"ratio batch / none of the width of the loss band{over}, Glorot init, where the plain network has "
        "not trained",
        threshold=1.0,
        per_seed=partial(
            paired,
            first="batch",
            second="none",
            learning_rate=LEARNING_RATE,
            value=partial(_smoother_where_untrained, "relative_loss" if relative else "loss"),
            missing="the plain network trained, or a band is missing",
        ),
    )


def _probes(settings: Settings, network: AnyNetwork) -> tuple[AnyProbe, ...]:
    return (*evaluation(settings, network), *lines(settings, network))


def _runs(settings: Settings) -> list[PlannedRun]:
    return planned(settings, [Network(norm, init="glorot") for norm in ("none", "batch")], _probes)


EXPERIMENT = Experiment(
    name="glorot_start",
    paper="Control",
    question="Is a smooth landscape a good one?",
    runs=_runs,
    claims=(_claim(False), _claim(True)),
)
