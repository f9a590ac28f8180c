"""Claims that one network's landscape is smoother than another's: bands and smoothness, raw and scale-free."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from alidade.claims.claim import Claim
from alidade.claims.comparisons import band_log_ratio, paired
from alidade.claims.quantities import BandSeries

#: What is compared: ending of the id, quantity, how a list is reduced, words.
BANDS = {
    "loss_band": (BandSeries("loss", "width"), "width of the loss band"),
    "gradient_band": (BandSeries("gradient_distance", "max"), "largest gradient distance"),
    "effective_smoothness": (BandSeries("effective_smoothness", "max"), "largest effective smoothness"),
}
_NAMES = {"none": "no norm", "batch": "BatchNorm", "l1": "L1", "l2": "L2", "linf": "Linf"}


@dataclass(frozen=True)
class Contrast:
    """Two networks, the rough one first, and the list of step sizes in words."""

    experiment: str
    rough: str
    smooth: str
    learning_rate: float
    step_sizes: str = "steps of 1/2 to 4 learning rates"

    def claim(self, id_: str, band: str, paper: str, relative: bool = False, equal_loss: bool = False) -> Claim:
        """The band of the rough network is wider; ``id_`` is completed by the coordinates and the way to compare."""
        series, words = BANDS[band]
        if relative:
            series = BandSeries(f"relative_{series.quantity}", series.reduce)
        over = "relative steps of 0.01 to 0.3" if relative else self.step_sizes
        where = "at equal training loss" if equal_loss else "mean over training after the first tenth"
        ending = "_equal_loss" if equal_loss else ""
        rough, smooth = _NAMES[self.rough], _NAMES[self.smooth]
        return Claim(
            id=id_ + ("_scale_free" if relative else "") + ending,
            twin="" if relative else f"{id_}_scale_free{ending}",
            experiment=self.experiment,
            paper=paper,
            hypothesis=f"with {rough} the {words} over {over} is larger than with {smooth}, {where}",
            statistic=f"ratio {self.rough} / {self.smooth} of the {words} ({over}; {where})",
            threshold=1.0,
            per_seed=partial(
                paired,
                first=self.rough,
                second=self.smooth,
                learning_rate=self.learning_rate,
                value=band_log_ratio(series, equal_loss),
                missing=_missing(equal_loss),
            ),
        )

    def forms(self, id_: str, band: str, paper: str, equal_loss: bool = True) -> tuple[Claim, ...]:
        """The claim in raw and relative coordinates, over training and, where asked for, at equal loss."""
        ways = (False, True) if equal_loss else (False,)
        return tuple(self.claim(id_, band, paper, relative, way) for relative in (False, True) for way in ways)


def _missing(equal_loss: bool) -> str:
    if equal_loss:
        return "no loss that both runs visit with 5 probes each"
    return "fewer than half of the probes are finite in both runs"
