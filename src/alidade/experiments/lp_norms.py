"""Figures 5a, 6 and 12: normalizing by other norms smooths the landscape, and fixes no distribution."""

from __future__ import annotations

from functools import partial

from alidade.claims.claim import Claim, Runs, Seeds
from alidade.claims.comparisons import band_log_ratio, log_ratio, mean_over_layers, paired
from alidade.claims.quantities import BandSeries
from alidade.core.probes import AnyProbe, PlannedRun
from alidade.core.spec import NormName
from alidade.experiments.bands import BANDS, Contrast
from alidade.experiments.experiment import LEARNING_RATE, AnyNetwork, Experiment, Network, Settings, planned
from alidade.experiments.probing import activations, evaluation, lines

LP_NORMS: tuple[NormName, ...] = ("l1", "l2", "linf")
_SMOOTHS = "Fig. 5a, 12: L1, L2 and Linf normalization train and smooth like BatchNorm; mean bands 1.54, .28, .21, .15"
_SHIFTS = "Fig. 6: the lp norms do not fix the moments of activations, and still help"


def _least_smoothing(quantity: str, runs: Runs) -> Seeds:
    """Per seed the smallest of the three log ratios none / lp of mean loss bands."""
    value = band_log_ratio(BandSeries(quantity, "width"), equal_loss=False)
    missing = "fewer than half of the probes are finite in both runs"
    found = [paired(runs, "none", norm, LEARNING_RATE, value, missing) for norm in LP_NORMS]
    shared = set.intersection(*(set(seeds.values) for seeds in found))
    values = {seed: min(seeds.values[seed] for seeds in found) for seed in sorted(shared)}
    used = tuple(dict.fromkeys(run for seeds in found for run in seeds.runs))
    return Seeds(values, used, next((seeds.reason for seeds in found if seeds.reason), ""))


def _variance_moves(runs: Runs, lp: str, batch: str) -> float | None:
    """Log ratio of the change of a unit's variance between probes, each in units of the variance."""

    def moved(run: str) -> float | None:
        change, level = (mean_over_layers(runs, run, f"activation_{name}") for name in ("variance_change", "variance"))
        return change / level if change is not None and level else None

    return log_ratio(moved(lp), moved(batch))


def _shifts(norm: str) -> Claim:
    return Claim(
        id=f"lp_norms_fix_no_distribution_{norm}",
        experiment="lp_norms",
        paper=_SHIFTS,
        hypothesis=f"behind {norm} the variance of a unit moves more between probes than behind BatchNorm",
        statistic=f"ratio {norm} / batch of the change of a unit's variance between probes, over the variance",
        threshold=1.0,
        per_seed=partial(
            paired,
            first=norm,
            second="batch",
            learning_rate=LEARNING_RATE,
            value=_variance_moves,
            missing="activations are missing or not finite",
        ),
    )


def _all(relative: bool) -> Claim:
    over = " over relative steps of 0.01 to 0.3" if relative else ""
    return Claim(
        id="lp_norms_smooth" + ("_scale_free" if relative else ""),
        twin="" if relative else "lp_norms_smooth_scale_free",
        experiment="lp_norms",
        paper=_SMOOTHS,
        hypothesis=f"without a norm the loss band{over} is wider than with each of the three lp norms",
        statistic=f"ratio none / lp of the width of the loss band{over}, mean over training, the smallest of the three "
        "norms",
        threshold=1.0,
        per_seed=partial(_least_smoothing, "relative_loss" if relative else "loss"),
    )


def _claims() -> tuple[Claim, ...]:
    contrasts = {norm: Contrast("lp_norms", "none", norm, LEARNING_RATE) for norm in LP_NORMS}
    each = (
        claim
        for norm, contrast in contrasts.items()
        for band in BANDS
        for claim in contrast.forms(f"lp_norms_smooth_{norm}_{band}", band, _SMOOTHS, equal_loss=False)
    )
    return (_all(False), _all(True), *each, *map(_shifts, LP_NORMS))


def _probes(settings: Settings, network: AnyNetwork) -> tuple[AnyProbe, ...]:
    looks = (evaluation, lines, activations)
    return tuple(probe for look in looks for probe in look(settings, network))


def _runs(settings: Settings) -> list[PlannedRun]:
    return planned(settings, [Network(norm) for norm in ("none", "batch", *LP_NORMS)], _probes)


EXPERIMENT = Experiment(
    name="lp_norms",
    paper="Fig. 5a, Fig. 6, Fig. 12",
    question="Is it the fixed distribution, or do norms that fix none smooth the landscape too?",
    runs=_runs,
    claims=_claims(),
)
