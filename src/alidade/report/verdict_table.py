"""The table of verdicts: rows grouped by what the paper says, each with its interval as a small picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from math import isfinite, log
from typing import TYPE_CHECKING

from alidade.report.finding import is_ratio
from alidade.report.words import number

if TYPE_CHECKING:
    from alidade.claims.claim import Verdict

WIDEST = 1000.0  # ratios beyond this factor are drawn at the glyph's end


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


def _line(verdict: Verdict, reach: float) -> Line:
    ratio = is_ratio(verdict)

    def write(value: float) -> str:
        return number(value, 2) if ratio else f"{value:+.2f}".replace("-", "−")

    interval = verdict.interval
    return Line(
        claim=verdict.claim,
        statistic=verdict.statistic,
        estimate="–" if verdict.estimate is None else write(verdict.estimate),
        interval="" if interval is None else f"{write(interval[0])} to {write(interval[1])}",
        glyph=_glyph(verdict, reach),
        n=verdict.n,
        p_adjusted="" if verdict.p_adjusted is None else _p(verdict.p_adjusted),
        verdict=verdict.verdict,
        reason=verdict.reason,
        hypothesis=verdict.hypothesis,
    )


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}" if value < 0.1 else f"p = {value:.2f}"


def _reach(verdicts: Sequence[Verdict]) -> float:
    """The largest distance from the threshold, in logs, that any ratio's interval reaches."""
    distances = [
        abs(log(value / verdict.threshold))
        for verdict in verdicts
        if is_ratio(verdict) and verdict.threshold > 0
        for value in (verdict.estimate, *(verdict.interval or ()))
        if value is not None and value > 0 and isfinite(value)
    ]
    return min(max(distances, default=1.0), log(WIDEST)) or 1.0


def _glyph(verdict: Verdict, reach: float) -> Glyph | None:
    if verdict.estimate is None or not isfinite(verdict.estimate):
        return None
    low, high = verdict.interval or (None, None)
    offsets = [_offset(verdict, value) for value in (verdict.estimate, low, high)]
    if not is_ratio(verdict):
        reach = 1.25 * max(abs(offset) for offset in offsets if offset is not None)
    estimate, left, right = (_place(offset, reach) for offset in offsets)
    return None if estimate is None else Glyph(50.0, estimate, left, right)


def _offset(verdict: Verdict, value: float | None) -> float | None:
    """Distance from the threshold: of logs for ratios."""
    if value is None:
        return None
    if not is_ratio(verdict):
        return value - verdict.threshold
    return log(value / verdict.threshold) if value > 0 else -log(WIDEST)


def _place(offset: float | None, reach: float) -> float | None:
    """Percent of the glyph's width, the threshold in the middle."""
    return None if offset is None else round(50 + 48 * max(-1.0, min(1.0, offset / (reach or 1.0))), 2)
