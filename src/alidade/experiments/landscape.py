"""Figures 4 and 11: the loss and the gradient along the gradient, with and without BatchNorm."""

from __future__ import annotations

from functools import partial

from alidade.claims.claim import Claim
from alidade.claims.comparisons import band_log_ratio, paired
from alidade.claims.quantities import BandSeries
from alidade.core.probes import PlannedRun
from alidade.experiments.experiment import Experiment, Settings, planned

LEARNING_RATE = 0.1

#: id, where the paper shows it, what is compared, and its words.
_COMPARED = (
    ("loss_band", "Fig. 4a", BandSeries("loss", "width"), "width of the loss band"),
    ("gradient_band", "Fig. 4b", BandSeries("gradient_distance", "max"), "largest gradient distance"),
    ("effective_smoothness", "Fig. 4c", BandSeries("effective_smoothness", "max"), "largest effective smoothness"),
)
_SAYS = {
    "loss_band": "the loss varies far less along the gradient with BatchNorm; plotted mean widths 1.54 and 0.25",
    "gradient_band": "gradients change less: by close to two orders of magnitude (text), at most 10 x (plot)",
    "effective_smoothness": "the effective beta-smoothness is much lower; late in training the plot shows 20 for both",
}


def _claims() -> tuple[Claim, ...]:
    return tuple(
        _claim(id_, figure, series, words, relative, equal_loss)
        for id_, figure, series, words in _COMPARED
        for relative in (False, True)
        for equal_loss in (False, True)
    )


def _claim(id_: str, figure: str, series: BandSeries, words: str, relative: bool, equal_loss: bool) -> Claim:
    twin = BandSeries(f"relative_{series.quantity}", series.reduce) if relative else series
    coordinates = "relative steps of 0.01 to 0.3" if relative else "steps of 1/2 to 4 learning rates"
    where = "at equal training loss" if equal_loss else "mean over training after the first tenth"
    missing = (
        "no loss that both runs visit with 5 probes each"
        if equal_loss
        else "fewer than half of the probes are finite in both runs"
    )
    ending = "_equal_loss" if equal_loss else ""
    return Claim(
        id=id_ + ("_scale_free" if relative else "") + ending,
        twin="" if relative else f"{id_}_scale_free{ending}",
        experiment="landscape",
        paper=f"{figure}: {_SAYS[id_]}",
        hypothesis=f"without BatchNorm the {words} over {coordinates} is larger than with it, {where}",
        statistic=f"ratio none / batch of the {words} ({coordinates}; {where})",
        threshold=1.0,
        per_seed=partial(
            paired,
            first="none",
            second="batch",
            learning_rate=LEARNING_RATE,
            value=band_log_ratio(twin, equal_loss),
            missing=missing,
        ),
    )


def _runs(settings: Settings) -> list[PlannedRun]:
    return planned(settings, ("none", "batch"), LEARNING_RATE, with_lines=True)


EXPERIMENT = Experiment(
    name="landscape",
    paper="Fig. 4, Fig. 11",
    question="Does the loss, and its gradient, change less along the gradient with BatchNorm?",
    runs=_runs,
    claims=_claims(),
)
