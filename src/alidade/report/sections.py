"""What the page tells about each experiment: which figures, and which networks stand in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from alidade.core.spec import RunSpec
from alidade.report.charts import unchecked
from alidade.report.figure import Figure
from alidade.report.figures import FIGURES
from alidade.report.series import Readings, part_of
from alidade.report.variants import Variant, differences

if TYPE_CHECKING:
    from alidade.store import Study

#: The learning rates of Fig. 1, among those of the grid.
_FIRST_FIGURE = (0.1, 0.5)


@dataclass(frozen=True)
class Entry:
    """A figure of a section. It is drawn once per setting: per network, learning rate, init and so on, norm aside."""

    figure: str  # its name in FIGURES
    keep: Callable[[Variant], bool] | None = None  # which networks; None: all
    together: bool = False  # one figure over all settings
    when: Callable[[Readings], bool] | None = None  # in which studies; None: in all


def _of_figure_1(variant: Variant) -> bool:
    plain = isinstance(variant.spec, RunSpec) and not variant.spec.data.augment
    return plain and variant.learning_rate in _FIRST_FIGURE


def _penalized(readings: Readings) -> bool:
    """The bands then contain the penalty: the loss without it has to stand beside them."""
    return readings.has("train_objective")


_LANDSCAPE = (Entry("loss_band"), Entry("gradient_band"), Entry("smoothness"))

#: Experiments in the order in which the page tells them, each with its figures.
SECTIONS: dict[str, tuple[Entry, ...]] = {
    "training_speed": (Entry("training", _of_figure_1, together=True), Entry("learning_rates", together=True)),
    "activations": (Entry("ridgelines"), Entry("movement")),
    "noisy_norm": (Entry("training"), Entry("noisy")),
    "covariate_shift": (Entry("covariate_shift"),),
    "rescaling_control": (Entry("rescaling"),),
    "landscape": (
        Entry("training", when=_penalized), Entry("stepper"), *_LANDSCAPE,
        Entry("edge"), Entry("scale_free"), Entry("random"),
    ),
    "glorot_start": (Entry("training"), *_LANDSCAPE),
    "lp_norms": (Entry("training"), *_LANDSCAPE, Entry("scale_free")),
    "deep_linear": (Entry("training"), Entry("ends"), Entry("edge"), *_LANDSCAPE, Entry("scale_free")),
    "curvature": (Entry("sharpness"), Entry("spectrum")),
    "theorems": (Entry("theorem_4_1", together=True), Entry("theorems", together=True)),
}  # fmt: skip

#: Where an experiment has no line above.
_OTHERWISE = tuple(Entry(name) for name in FIGURES)


@dataclass(frozen=True)
class Planned:
    """A figure that a study may have the data for; nothing is drawn before ``draw``."""

    section: str  # the experiment; "" in a study without any
    name: str  # in FIGURES
    make: Callable[[], Figure | None]

    @property
    def address(self) -> str:
        """Section and figure: "landscape.loss_band"."""
        return f"{self.section}.{self.name}" if self.section else self.name

    def draw(self) -> Figure | None:
        """The figure; None where the study lacks its data."""
        with unchecked():
            return self.make()


def planned(study: Study) -> Iterator[Planned]:
    """Every figure that a study may hold, section by section.

    A study without experiments (a survey of the user's own) is one section with all figures over all of its runs.
    """
    named = dict(study.manifest.get("experiments") or {})
    if not named:
        everything = Readings(study)
        for name in FIGURES:
            yield Planned("", name, _over(everything, name))
        return
    if study.theory:
        named.setdefault("theorems", list(study.specs))
    for section in sorted(named, key=_order):
        readings = Readings(part_of(study, named[section]))
        if not readings.study.frame.is_empty():
            yield from _entries(section, readings)


def _order(section: str) -> int:
    names = list(SECTIONS)
    return names.index(section) if section in names else len(names)


def _over(readings: Readings, name: str) -> Callable[[], Figure | None]:
    return lambda: FIGURES[name](readings)


def _entries(section: str, readings: Readings) -> Iterator[Planned]:
    of_all = settings(readings)  # once: figures of one setting share what they read
    for entry in SECTIONS.get(section, _OTHERWISE):
        if entry.when and not entry.when(readings):
            continue
        kept = readings.only(entry.keep) if entry.keep else readings
        apart = settings(kept) if entry.keep else of_all
        parts = [("", kept if kept.variants else readings)] if entry.together else apart
        for place, (words, part) in enumerate(parts):
            id_ = section if place == 0 else f"{section}-{place + 1}"
            yield Planned(section, entry.figure, _placed(part, entry.figure, id_, words))


def _placed(readings: Readings, name: str, section: str, words: str) -> Callable[[], Figure | None]:
    def make() -> Figure | None:
        drawn = FIGURES[name](readings)
        return drawn.placed(section, words) if drawn else None

    return make


def settings(readings: Readings) -> list[tuple[str, Readings]]:
    """The readings apart by everything but norm and seed, with words for what differs; in the order of the plan.

    Networks at different learning rates, of different kinds or with another init do not share a chart: their
    differences would be read as those of the norm.
    """
    planned = [(_setting(v.spec), v.runs) for v in readings.variants if isinstance(v.spec, RunSpec)]
    of_run = {run: setting for setting, runs in planned for run in runs}
    groups: dict[str, RunSpec] = {}
    for run, spec in readings.study.specs.items():
        if isinstance(spec, RunSpec):
            groups.setdefault(of_run[run], spec)
    words = differences(groups)
    if len(groups) < 2:
        return [("", readings)]
    return [(words[key], readings.only(_in_setting(key))) for key in groups]


def _in_setting(key: str) -> Callable[[Variant], bool]:
    return lambda variant: isinstance(variant.spec, RunSpec) and _setting(variant.spec) == key


def _setting(spec: RunSpec) -> str:
    plain = spec.model.model_copy(update={"norm": "none"})
    return spec.model_copy(update={"model": plain, "seed": 0}).canonical_json()
