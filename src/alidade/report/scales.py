"""Domains and ticks of axes, chosen here so that small multiples share them and labels never crowd."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10
from typing import Any

import altair as alt
import numpy as np
import polars as pl

from alidade.report.words import power_of_ten

_PADDING = 0.04


@dataclass(frozen=True)
class Axis:
    """One axis: its domain, its ticks and how they read."""

    domain: tuple[float, float]
    ticks: tuple[float, ...]
    log: bool
    percent: bool = False
    falling: bool = False  # large values first

    @property
    def scale(self) -> alt.Scale:
        """As Vega-Lite takes it."""
        kind: dict[str, Any] = {"type": "log"} if self.log else {"type": "linear", "zero": False}
        return alt.Scale(**kind, domain=list(self.domain), reverse=self.falling, nice=False)

    def axis(self, **options: Any) -> alt.Axis:
        """Ticks with labels in plain numbers, or powers of ten where these would be long."""
        labels = [_label(tick, self.percent, self.log) for tick in self.ticks]
        text = f"{json.dumps(labels, ensure_ascii=False)}[indexof({json.dumps(list(self.ticks))}, datum.value)]"
        return alt.Axis(values=list(self.ticks), labelExpr=text, **options)


def log_axis(values: Iterable[float | None], falling: bool = False, ticks: Sequence[float] | None = None) -> Axis:
    """A logarithmic axis around positive values."""
    found = np.array(values.to_numpy() if isinstance(values, pl.Series) else list(values), dtype=np.float64)
    positive = found[np.isfinite(found) & (found > 0)]
    low, high = (log10(positive.min()), log10(positive.max())) if positive.size else (-1.0, 0.0)
    pad = max(_PADDING * (high - low), 0.02)
    if high - low < 0.15:
        pad = 0.1
    domain = (_short(10 ** (low - pad)), _short(10 ** (high + pad)))
    return Axis(domain, tuple(ticks) if ticks else log_ticks(*domain), log=True, falling=falling)


def linear_axis(low: float, high: float, percent: bool = False) -> Axis:
    """A linear axis from ``low`` to ``high`` exactly."""
    return Axis((low, high), linear_ticks(low, high), log=False, percent=percent)


def log_ticks(low: float, high: float) -> tuple[float, ...]:
    """Three to seven round numbers within [low, high].

    >>> log_ticks(0.02, 30.0)
    (0.1, 1.0, 10.0)
    >>> log_ticks(0.9, 11.0)
    (1.0, 3.0, 10.0)
    """
    first, last = ceil(log10(low) - 1e-9), floor(log10(high) + 1e-9)
    decades = range(first, last + 1)
    if len(decades) >= 3:
        stride = ceil(len(decades) / 6)
        return tuple(float(f"1e{e}") for e in decades if e % stride == 0)
    for mantissas in ((1, 3), (1, 2, 5)):
        ticks = [float(f"{m}e{e}") for e in range(first - 1, last + 1) for m in mantissas]
        inside = tuple(tick for tick in ticks if low <= tick <= high)
        if len(inside) >= 3:
            return inside
    return linear_ticks(low, high)


def linear_ticks(low: float, high: float, most: int = 6) -> tuple[float, ...]:
    """Round numbers within [low, high], at most about ``most``.

    >>> linear_ticks(0.0, 120.0)
    (0.0, 20.0, 40.0, 60.0, 80.0, 100.0, 120.0)
    """
    span = high - low
    if span <= 0:
        return (low,)
    power = 10.0 ** floor(log10(span / most))
    step = next(m * power for m in (1, 2, 2.5, 5, 10, 20) if span / (m * power) <= most)
    first = ceil(low / step - 1e-9)
    count = floor(high / step + 1e-9) - first + 1
    return tuple(_short((first + i) * step) for i in range(count))


def _short(value: float) -> float:
    return float(f"{value:.6g}")


def _label(value: float, percent: bool, log: bool) -> str:
    if percent:
        return f"{100 * value:g} %"
    if log and (value >= 1e4 or value < 1e-3):
        exponent = floor(log10(value) + 1e-9)
        mantissa = value / 10**exponent
        return power_of_ten(exponent) if abs(mantissa - 1) < 1e-6 else f"{mantissa:g}·{power_of_ten(exponent)}"
    text = f"{value:,.10g}" if abs(value) >= 1e4 else f"{value:.10g}"
    return text.replace("-", "−").replace(",", "\u202f")
