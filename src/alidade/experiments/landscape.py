"""Figures 4 and 11: the loss and the gradient along the gradient, with and without BatchNorm."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from alidade.claims.claim import Claim, Runs, Seeds
from alidade.claims.comparisons import band_log_ratio, paired
from alidade.claims.quantities import BandSeries
from alidade.core.probes import AnyProbe, PlannedRun
from alidade.experiments.bands import Contrast
from alidade.experiments.experiment import LEARNING_RATE, AnyNetwork, Experiment, Network, Settings, planned
from alidade.experiments.plateau import plateau_claims
from alidade.experiments.probing import evaluation, lines, random_lines, theorem

_SAYS = {
    "loss_band": "Fig. 4a: the loss varies far less along the gradient with BatchNorm; mean widths 1.54 and 0.25",
    "gradient_band": "Fig. 4b: gradients change less: by close to two orders of magnitude (text), at most 10 x (plot)",
    "effective_smoothness": "Fig. 4c: the effective beta-smoothness is much lower; late in training 20 for both",
}
_FREE = "_scale_free"
_RANDOM = "Section 3.1: along random directions the landscape behaves similarly (no figure)"


def _random(id_: str, series: BandSeries, words: str) -> tuple[Claim, Claim]:
    """In raw and in relative coordinates; there a random direction has the length of the gradient's too."""
    free = BandSeries(f"random_relative_{series.quantity.removeprefix('random_')}", series.reduce)
    forms = (("", series, "steps of 1/2 to 4 learning rates"), (_FREE, free, "relative steps of 0.01 to 0.3"))
    raw, twin = (
        Claim(
            id=id_ + ending,
            twin="" if ending else id_ + _FREE,
            experiment="landscape",
            paper=_RANDOM,
            hypothesis=f"without BatchNorm the {words} along a random direction, over {over}, is larger than with it",
            statistic=f"ratio none / batch of the {words} along a random direction as long as the gradient ({over})",
            threshold=1.0,
            per_seed=partial(_if_measured, form),
        )
        for ending, form, over in forms
    )
    return raw, twin


def _if_measured(series: BandSeries, runs: Runs) -> Seeds:
    """No run bears on the claim where none was probed along random directions."""
    if all(runs.of(run, series.quantity).is_empty() for run in runs.specs):
        return Seeds({}, ())
    value, missing = band_log_ratio(series, equal_loss=False), "fewer than half of the probes are finite in both runs"
    return paired(runs, "none", "batch", LEARNING_RATE, value, missing)


def _claims() -> tuple[Claim, ...]:
    contrast = Contrast("landscape", "none", "batch", LEARNING_RATE)
    return (
        *(claim for band, says in _SAYS.items() for claim in contrast.forms(band, band, says)),
        *_random("loss_band_random", BandSeries("random_loss", "width"), "width of the loss band"),
        *_random("gradient_band_random", BandSeries("random_gradient_distance", "max"), "largest gradient distance"),
        *plateau_claims("landscape", "batch", LEARNING_RATE),
        *plateau_claims("landscape", "none", LEARNING_RATE, "_none"),
    )


def _probes(settings: Settings, network: AnyNetwork) -> tuple[AnyProbe, ...]:
    looks = (evaluation, lines, random_lines, theorem)
    return tuple(probe for look in looks for probe in look(settings, network))


def _runs(settings: Settings) -> list[PlannedRun]:
    return planned(settings, (Network("none"), Network("batch")), _probes)


def _probes_of_the_demo(settings: Settings, network: AnyNetwork) -> tuple[AnyProbe, ...]:
    return tuple(probe for look in (evaluation, lines, theorem) for probe in look(settings, network))


def _runs_of_the_demo(settings: Settings) -> list[PlannedRun]:
    return planned(settings, (Network("none"), Network("batch")), _probes_of_the_demo)


EXPERIMENT = Experiment(
    name="landscape",
    paper="Fig. 4, Fig. 11",
    question="Does the loss, and its gradient, change less along the gradient with BatchNorm?",
    runs=_runs,
    claims=_claims(),
)

#: The part of the experiment that fits into the demo's time.
IN_THE_DEMO = replace(EXPERIMENT, runs=_runs_of_the_demo)
