"""All figures by name."""

from __future__ import annotations

from collections.abc import Callable

from alidade.report.activation_figures import movement, ridgelines
from alidade.report.curvature_figures import sharpness, spectrum
from alidade.report.edge_figures import edge
from alidade.report.ends_figures import ends
from alidade.report.figure import Figure
from alidade.report.landscape_figures import gradient_band, loss_band
from alidade.report.rates_figures import learning_rates
from alidade.report.rescaling_figures import rescaling
from alidade.report.scale_free_figures import random_directions, twins
from alidade.report.series import Readings
from alidade.report.shift_figures import covariate_shift
from alidade.report.smoothness_figures import smoothness
from alidade.report.stepper import stepper
from alidade.report.theory_figures import along_training, theorems
from alidade.report.training_figures import noisy, training

#: What can be drawn, by name, in the order of a page without sections. Each returns None where data are missing.
FIGURES: dict[str, Callable[[Readings], Figure | None]] = {
    "training": training,
    "learning_rates": learning_rates,
    "rescaling": rescaling,
    "stepper": stepper,
    "loss_band": loss_band,
    "gradient_band": gradient_band,
    "smoothness": smoothness,
    "ends": ends,
    "edge": edge,
    "sharpness": sharpness,
    "spectrum": spectrum,
    "scale_free": twins,
    "random": random_directions,
    "noisy": noisy,
    "ridgelines": ridgelines,
    "movement": movement,
    "covariate_shift": covariate_shift,
    "theorem_4_1": along_training,
    "theorems": theorems,
}
