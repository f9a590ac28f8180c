"""All figures of a study, in the order in which the page tells them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from alidade.report.figure import Figure
from alidade.report.landscape_figures import gradient_band, loss_band, smoothness, twins
from alidade.report.series import Readings
from alidade.report.stepper import stepper
from alidade.report.theory_figures import along_training, theorems
from alidade.report.training_figures import noisy, training

if TYPE_CHECKING:
    from alidade.store import Study

#: What can be drawn, by name. Each returns None where the study lacks its data.
FIGURES: dict[str, Callable[[Readings], Figure | None]] = {
    "training": training,
    "stepper": stepper,
    "loss_band": loss_band,
    "gradient_band": gradient_band,
    "smoothness": smoothness,
    "scale_free": twins,
    "noisy": noisy,
    "theorem_4_1": along_training,
    "theorems": theorems,
}


def figures(study: Study) -> list[Figure]:
    """Every figure that the study has the data for.

    A table without any row makes no figure and no error: what to do about an empty folder is said by whoever opened it.
    """
    readings = Readings(study)
    if readings.frame.is_empty():
        return []
    drawn = (make(readings) for make in FIGURES.values())
    return [figure for figure in drawn if figure is not None]
