"""The table of verdicts: rows grouped by what the paper says, each with its interval as a small picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from math import isfinite, log
from typing import TYPE_CHECKING

from alidade.report.finding import is_ratio, written
from alidade.report.words import number

if TYPE_CHECKING:
    from alidade.claims.claim import Verdict

WIDEST = 1000.0  # ratios beyond this factor are drawn at the glyph's end


_SIDES = {">": "above", "<": "below"}


@dataclass(frozen=True)
class Glyph:
    """Positions in percent of the glyph's width; the threshold is where the claim turns."""

    threshold: float
    estimate: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Line:
    """One verdict as the table writes it."""

    claim: str
    statistic: str
    estimate: str
    interval: str
    glyph: Glyph | None
    n: int
    p_adjusted: str
    verdict: str
    reason: str
    hypothesis: str


@dataclass(frozen=True)
class Group:
    """Verdicts on the same sentence of the paper."""

    figure: str
    paper: str
    lines: tuple[Line, ...]


def verdict_groups(verdicts: Sequence[Verdict]) -> list[Group]:
    """The table's groups, in the order of the verdicts."""
    reach = _reach(verdicts)
    result = []
    for paper, members in groupby(verdicts, key=lambda verdict: verdict.paper):
        figure, _, words = paper.partition(": ")
        result.append(Group(figure if words else "", words or paper, tuple(_line(v, reach) for v in members)))
    return result


def _line(verdict: Verdict, reach: tuple[float, float]) -> Line:
    interval = verdict.interval
    return Line(
        claim=verdict.claim,
        statistic=f"{verdict.statistic}; claimed: {_SIDES[verdict.relation]} {number(verdict.threshold)}",
        estimate="–" if verdict.estimate is None else written(verdict, verdict.estimate),
        interval="" if interval is None else " to ".join(written(verdict, end) for end in interval),
        glyph=_glyph(verdict, reach),
        n=verdict.n,
        p_adjusted="" if verdict.p_adjusted is None else _p(verdict.p_adjusted),
        verdict=verdict.verdict,
        reason=verdict.reason,
        hypothesis=verdict.hypothesis,
    )


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}" if value < 0.1 else f"p = {value:.2f}"


def _reach(verdicts: Sequence[Verdict]) -> tuple[float, float]:
    """How far below and above the threshold, in logs, the ratios and their intervals reach together."""
    offsets = [
        offset
        for verdict in verdicts
        if is_ratio(verdict)
        for value in (verdict.estimate, *(verdict.interval or ()))
        if (offset := _offset(verdict, value)) is not None and isfinite(offset)
    ]
    return _widened(offsets)


def _widened(offsets: Sequence[float]) -> tuple[float, float]:
    low, high = min(0.0, *offsets, 0.0), max(0.0, *offsets, 0.0)
    margin = 0.12 * (high - low) or 1.0
    return low - margin, high + margin


def _glyph(verdict: Verdict, reach: tuple[float, float]) -> Glyph | None:
    if verdict.estimate is None or not isfinite(verdict.estimate):
        return None
    low, high = verdict.interval or (None, None)
    offsets = [_offset(verdict, value) for value in (verdict.estimate, low, high)]
    if not is_ratio(verdict):
        reach = _widened([offset for offset in offsets if offset is not None])
    estimate, left, right, threshold = (_place(offset, reach) for offset in (*offsets, 0.0))
    return None if estimate is None or threshold is None else Glyph(threshold, estimate, left, right)


def _offset(verdict: Verdict, value: float | None) -> float | None:
    """Distance from the threshold: of logs for ratios."""
    if value is None:
        return None
    if not is_ratio(verdict):
        return value - verdict.threshold
    widest = log(WIDEST)
    return max(-widest, min(widest, log(value / verdict.threshold))) if value > 0 else -widest


def _place(offset: float | None, reach: tuple[float, float]) -> float | None:
    """Percent of the glyph's width."""
    low, high = reach
    return None if offset is None else round(100 * (max(low, min(high, offset)) - low) / (high - low), 2)
