"""Figure 3: internal covariate shift (Definition 2.1) with and without BatchNorm."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

from alidade.claims.claim import Claim, Runs
from alidade.claims.comparisons import log_ratio, median_over_probes, paired
from alidade.core.probes import PlannedRun
from alidade.core.spec import NormName
from alidade.experiments.experiment import (
    LEARNING_RATE,
    LINEAR_LEARNING_RATE,
    Experiment,
    LinearNetwork,
    Network,
    Settings,
    planned,
)
from alidade.experiments.probing import LINEAR_SHIFT_LAYERS, covariate_shift

Measure = Literal["l2", "relative", "cosine"]

RATES, LINEAR_RATES = (LEARNING_RATE, 0.01), (LINEAR_LEARNING_RATE, 1e-7)
#: The paper's layers 5 and 10 of 13, and the layers at the same heights of 8, by number of convolutions.
HEIGHTS = {"early": {13: "conv5", 8: "conv3"}, "late": {13: "conv10", 8: "conv6"}}

_VGG = "Section 2.2, Fig. 3a: BatchNorm does not reduce internal covariate shift, and often increases it"
_LINEAR = (
    "Section 2.2, Fig. 3b: the deep linear network has almost no shift without a norm (cosine near 1), with BatchNorm "
    "its gradients are almost uncorrelated; plotted so at learning rate 1e-7 only"
)


def _at(
    measure: Measure, where: Callable[[Runs, str], str | None], runs: Runs, first: str, second: str
) -> float | None:
    """Log ratio first / second of the median over probes, or their difference for the cosine."""
    quantity = f"covariate_shift_{measure}"
    a, b = (median_over_probes(runs, run, quantity, where(runs, run)) for run in (first, second))
    if measure == "cosine":
        return None if a is None or b is None else a - b
    return log_ratio(a, b)


def _height(height: str | None, runs: Runs, run: str) -> str | None:
    model = runs.specs[run].model
    return HEIGHTS[height][model.conv_layers] if height and model.kind == "vgg" else None


def _not_reduced(measure: Measure, height: str | None, rate: float) -> Claim:
    where = f"the {height} layer (of Fig. 3, or at its height)" if height else "all measured layers together"
    parts = [f"_{measure}"] if measure != "l2" or height else []
    parts += [f"_{height}"] if height else []
    parts += [f"_lr{rate:g}"] if rate != LEARNING_RATE else []
    cosine = measure == "cosine"
    # The cosine is 1 without any shift, so that more shift is less of it.
    first, second = ("none", "batch") if cosine else ("batch", "none")
    said = "the cosine of the gradients" if cosine else f"the {measure} internal covariate shift"
    return Claim(
        id="covariate_shift_not_reduced" + "".join(parts),
        experiment="covariate_shift",
        paper=_VGG,
        hypothesis=f"learning rate {rate:g}, {where}: with BatchNorm "
        + f"{said} is {'lower' if cosine else 'larger'} than without, so that BatchNorm does not reduce the shift",
        statistic=f"{'cosine, none minus batch' if cosine else f'ratio batch / none, {measure}'}: median over probes",
        threshold=0.0 if cosine else 1.0,
        scale="linear" if cosine else "log",
        per_seed=partial(
            paired, first=first, second=second, learning_rate=rate,
            value=partial(_at, measure, partial(_height, height)), missing="fewer than half of the probes are ok",
        ),
    )  # fmt: skip


def _linear(number: int, rate: float) -> Claim:
    layer = f"linear{number}"
    return Claim(
        id=f"deep_linear_shift_layer{number}_lr{rate:g}",
        experiment="covariate_shift",
        paper=_LINEAR,
        hypothesis=f"deep linear network, layer {number}, learning rate {rate:g}: the cosine without a norm is at "
        "least 0.5 above that with BatchNorm",
        statistic="cosine, none minus batch: median over probes",
        threshold=0.5,
        scale="linear",
        per_seed=partial(
            paired, first="none", second="batch", learning_rate=rate,
            value=partial(_at, "cosine", lambda runs, run: layer), missing="no cosine is defined",
        ),
    )  # fmt: skip


def _claims() -> tuple[Claim, ...]:
    measures: tuple[Measure, ...] = ("l2", "relative", "cosine")
    heights: tuple[str | None, ...] = (None, *HEIGHTS)
    vgg = (_not_reduced(measure, height, rate) for rate in RATES for height in heights for measure in measures)
    linear = (_linear(number, rate) for rate in LINEAR_RATES for number in LINEAR_SHIFT_LAYERS)
    return (*vgg, *linear)


def _runs(settings: Settings) -> list[PlannedRun]:
    norms: tuple[NormName, ...] = ("none", "batch")
    networks = [Network(norm, rate) for rate in RATES for norm in norms]
    linear = [LinearNetwork(norm, rate) for rate in LINEAR_RATES for norm in norms]
    return planned(settings, [*networks, *linear], covariate_shift)


EXPERIMENT = Experiment(
    name="covariate_shift",
    paper="Fig. 3",
    question="Does BatchNorm reduce internal covariate shift?",
    runs=_runs,
    claims=_claims(),
)
