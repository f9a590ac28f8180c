"""What a figure is, and the line of fine print under it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from alidade.core.spec import AnyRunSpec, RunSpec, SurveySpec
from alidade.report.charts import HOVER, Numbers, Panel
from alidade.report.series import RELATIVE, UPDATE, Readings
from alidade.report.variants import Variant
from alidade.report.words import braces, plain, seeds


@dataclass(frozen=True)
class Backdrop:
    """The paper's curves behind a figure's panels: what stands beside their switch, and whether they show at first."""

    caption: str
    shown: bool


@dataclass(frozen=True)
class Figure:
    """A figure of the page: rows of panels, a sentence with its numbers, how to read it, and under which conditions.

    ``lead`` stands above the charts as their legend; ``how_to_read`` explains them; ``note`` is the fine print.
    """

    id: str
    title: str
    rows: tuple[tuple[Panel, ...], ...]
    lead: Numbers
    how_to_read: str
    note: str
    variants: tuple[Variant, ...]
    stepper: Mapping[str, Any] | None = field(default=None)  # what the slider of the line profile shows
    remarks: tuple[str, ...] = ()  # what a reader must know before looking: runs that diverged, or never trained
    setting: str = ""  # what tells the figure apart from its twins under other conditions: "lr 0.01"
    backdrop: Backdrop | None = None  # None: nothing of the paper stands behind it

    @property
    def charts(self) -> tuple[Panel, ...]:
        """All panels in reading order."""
        return tuple(panel for row in self.rows for panel in row)

    def placed(self, section: str, setting: str = "") -> Figure:
        """The figure as part of a section: ids of figure, panels and their parameters are unique on the page."""
        rows = tuple(tuple(_placed(panel, section) for panel in row) for row in self.rows)
        return replace(self, id=f"{section}--{self.id}", rows=rows, setting=setting)


def _placed(panel: Panel, section: str) -> Panel:
    return replace(panel, id=f"{section}--{panel.id}", spec=_renamed(panel.spec, section.replace("-", "_")))


def _renamed(part: Any, section: str) -> Any:
    """The same chart with parameters that follow the pointer named after the section: several charts may be joined."""
    if isinstance(part, list):
        return [_renamed(item, section) for item in part]
    if not isinstance(part, Mapping):
        return part
    return {
        name: f"{section}_{value}" if name in ("name", "param") and str(value).startswith(HOVER) else value
        for name, value in ((name, _renamed(value, section)) for name, value in part.items())
    }


def note(readings: Readings, quantity: str, lists: str | None = None, extra: Sequence[str] = ()) -> str:
    """Conditions of a figure's numbers: init, batch size, learning rate, lists, seeds, statistics and dtype.

    ``lists`` is the prefix of the line profile whose step sizes are named ("" or "relative_"); None names none.
    """
    conditions = readings.study.by_quantity.of(quantity).select("statistics", "dtype").unique()
    kinds = [kind for kind in sorted(set(conditions["statistics"].drop_nulls())) if kind != "none"]
    numbers = [seed for variant in readings.variants for seed in variant.seeds]
    parts = [
        *_conditions([variant.spec for variant in readings.variants]),
        *_step_sizes(readings, lists),
        seeds(numbers) if numbers else "",
        f"{' and '.join(kinds)} statistics in norm layers" if kinds else "no norm layer with statistics",
        _each(sorted(set(conditions["dtype"].drop_nulls()))),
        *extra,
    ]
    return " · ".join(part for part in parts if part)


def _conditions(specs: Sequence[AnyRunSpec]) -> list[str]:
    """How the networks were made and trained."""
    planned = [spec for spec in specs if isinstance(spec, RunSpec)]
    own = [spec for spec in specs if isinstance(spec, SurveySpec)]
    parts = []
    if planned:
        parts += [
            f"init {_each(spec.model.init.capitalize() for spec in planned)}",
            f"batch size {_each(spec.batch_size for spec in planned)}",
            f"SGD, learning rate {_each(plain(spec.optimizer.learning_rate) for spec in planned)}",
        ]
        if any(spec.data.augment for spec in planned):
            parts.append(_each("augmented" if spec.data.augment else "not augmented" for spec in planned))
        if any(spec.l2 for spec in planned):
            parts.append(f"L2 {_each(f'{spec.l2:g}' for spec in planned)}")
    if own:
        parts += [
            _each(f"{spec.model} with {spec.parameters:,} parameters".replace(",", "\u202f") for spec in own),
            _each(f"{spec.optimizer}, lr {spec.optimizer_defaults.get('lr', 'not stated')}" for spec in own),
        ]
    return parts


def _each(values: Iterable[object]) -> str:
    return ", ".join(dict.fromkeys(str(value) for value in values))


def _step_sizes(readings: Readings, lists: str | None) -> list[str]:
    if lists is None:
        return []
    named = dict.fromkeys(braces(readings.named_list(variant, lists)) for variant in readings.variants)
    kind = {RELATIVE: "relative step sizes", UPDATE: "step sizes (1 is the step really taken)"}.get(lists, "step sizes")
    return [f"{kind} of the bands η ∈ {' or '.join(text for text in named if text != '{}')}"]


def spread_words(readings: Readings) -> str:
    """How lines and tints stand for seeds, in this study."""
    most = max((len(variant.runs) for variant in readings.variants), default=0)
    if most < 2:
        return "There is one run of each, so there is no spread to show: treat every difference as one draw."
    return f"Lines are means over {most} seeds; the tint around a line reaches from the lowest seed to the highest."
