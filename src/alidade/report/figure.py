"""What a figure is, and the line of fine print under it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from alidade.core.spec import AnyRunSpec, RunSpec, SurveySpec
from alidade.report.charts import Numbers, Panel
from alidade.report.series import RELATIVE, UPDATE, Readings
from alidade.report.variants import Variant
from alidade.report.words import braces, seeds


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

    @property
    def charts(self) -> tuple[Panel, ...]:
        """All panels in reading order."""
        return tuple(panel for row in self.rows for panel in row)


def note(readings: Readings, quantity: str, lists: str | None = None, extra: Sequence[str] = ()) -> str:
    """Conditions of a figure's numbers: init, batch size, learning rate, lists, seeds, statistics and dtype.

    ``lists`` is the prefix of the line profile whose step sizes are named ("" or "relative_"); None names none.
    """
    rows = readings.frame.filter(pl.col("quantity") == quantity)
    kinds = [kind for kind in sorted(set(rows["statistics"].drop_nulls())) if kind != "none"]
    numbers = [seed for variant in readings.variants for seed in variant.seeds]
    parts = [
        *_conditions([variant.spec for variant in readings.variants]),
        *_step_sizes(readings, lists),
        seeds(numbers) if numbers else "",
        f"{' and '.join(kinds)} statistics in norm layers" if kinds else "no norm layer with statistics",
        _each(sorted(set(rows["dtype"].drop_nulls()))),
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
            f"SGD, learning rate {_each(f'{spec.optimizer.learning_rate:g}' for spec in planned)}",
        ]
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
