"""A claim is a hypothesis with a statistic and a threshold fixed beforehand; its verdict carries its uncertainty."""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from math import exp, isfinite, log
from typing import Any, Literal, TypeVar

import polars as pl

from alidade.claims.statistics import Interval, holm, student_interval
from alidade.core.spec import RunSpec
from alidade.store.by_quantity import ByQuantity

T = TypeVar("T")
Relation = Literal[">", "<"]
Scale = Literal["log", "linear"]
VerdictName = Literal["supported", "refuted", "undecided"]

#: Ratios that an interval keeps within this factor of the threshold are called a tie.
TIE = 1.01


@dataclass(frozen=True)
class Runs:
    """The runs that a claim looks at: their specs and the tidy rows."""

    frame: pl.DataFrame
    specs: Mapping[str, RunSpec]

    def pick(self, norm: str, learning_rate: float, augment: bool = False) -> dict[int, str]:
        """Run id by seed, for one norm and learning rate, with or without augmentation."""
        return {
            spec.seed: run
            for run, spec in self.specs.items()
            if (spec.model.norm, spec.optimizer.learning_rate, spec.data.augment) == (norm, learning_rate, augment)
        }

    def of(self, run: str, quantity: str) -> pl.DataFrame:
        """The rows of one quantity of one run."""
        return self.cut.of(quantity, run)

    @cached_property
    def cut(self) -> ByQuantity:
        """The rows by quantity."""
        return ByQuantity(self.frame)

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What ``make`` gives, which is made once: claims ask for the same series of the same runs again and again."""
        if key not in self._made:
            self._made[key] = make()
        made: T = self._made[key]
        return made

    @cached_property
    def _made(self) -> dict[Hashable, Any]:
        return {}


@dataclass(frozen=True)
class Seeds:
    """One value per seed with the runs it came from, and why seeds are missing."""

    values: Mapping[int, float]
    runs: tuple[str, ...]
    reason: str = ""


@dataclass(frozen=True)
class Claim:
    """What the paper says, as a statistic that must stand above a threshold (below it where ``relation`` is "<").

    ``per_seed`` gives one value per seed: the logarithm of a ratio where ``scale`` is "log" (estimate, interval
    and threshold are then reported as ratios), or a difference.
    """

    id: str
    experiment: str
    paper: str
    hypothesis: str
    statistic: str
    threshold: float
    per_seed: Callable[[Runs], Seeds]
    scale: Scale = "log"
    relation: Relation = ">"
    twin: str = ""  # id of the claim in scale-free coordinates


@dataclass(frozen=True)
class Verdict:
    """A judged claim. ``estimate`` is null only when undecided; ``interval`` needs two seeds."""

    claim: str
    experiment: str
    paper: str
    hypothesis: str
    verdict: VerdictName
    statistic: str
    estimate: float | None
    interval: tuple[float, float] | None
    threshold: float
    relation: Relation
    n: int
    p_adjusted: float | None
    runs: tuple[str, ...]
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """The stable JSON form (docs/reference/claims.md)."""
        fields = asdict(self)
        return fields | {"interval": list(self.interval) if self.interval else None, "runs": list(self.runs)}


def judge(claims: Sequence[tuple[Claim, Runs]]) -> list[Verdict]:
    """Verdicts of claims, with Holm-adjusted p-values over all of them that have one."""
    judged = [_judge(claim, runs) for claim, runs in claims]
    tested = [index for index, (_, p) in enumerate(judged) if p is not None]
    adjusted = dict(zip(tested, holm([judged[index][1] or 0.0 for index in tested]), strict=True))
    verdicts = [replace(verdict, p_adjusted=adjusted.get(index)) for index, (verdict, _) in enumerate(judged)]
    by_id = {verdict.claim: verdict.verdict for verdict in verdicts}
    return [_with_scale(v, by_id.get(claim.twin)) for v, (claim, _) in zip(verdicts, claims, strict=True)]


def _with_scale(raw: Verdict, twin: VerdictName | None) -> Verdict:
    """A raw form that holds while its scale-free twin does not may be a matter of how weights are scaled."""
    if raw.verdict != "supported" or twin in (None, "supported"):
        return raw
    said = f"depends on weight scale: the scale-free twin is {twin}"
    return replace(raw, reason="; ".join(part for part in (said, raw.reason) if part))


def _judge(claim: Claim, runs: Runs) -> tuple[Verdict, float | None]:
    seeds = claim.per_seed(runs)
    values = [value for value in seeds.values.values() if isfinite(value)]
    threshold = log(claim.threshold) if claim.scale == "log" else claim.threshold
    back = _ratio if claim.scale == "log" else float
    interval = student_interval(values, threshold) if len(values) > 1 else None
    verdict, why = _decide(interval, threshold, claim.relation, claim.scale, len(values))
    judged = Verdict(
        claim=claim.id,
        experiment=claim.experiment,
        paper=claim.paper,
        hypothesis=claim.hypothesis,
        verdict=verdict,
        statistic=claim.statistic,
        estimate=back(sum(values) / len(values)) if values else None,
        interval=(back(interval.low), back(interval.high)) if interval else None,
        threshold=claim.threshold,
        relation=claim.relation,
        n=len(values),
        p_adjusted=None,
        runs=seeds.runs,
        reason="; ".join(part for part in (why, seeds.reason) if part),
    )
    return judged, interval.p if interval else None


def _ratio(logarithm: float) -> float:
    """exp, held at the largest number that JSON can carry."""
    return exp(min(logarithm, log(sys.float_info.max)))


def _decide(
    interval: Interval | None, threshold: float, relation: Relation, scale: Scale, n: int
) -> tuple[VerdictName, str]:
    if interval is None:
        return "undecided", f"an interval needs at least 2 seeds, {n} have a value"
    if interval.low > threshold:
        return ("supported" if relation == ">" else "refuted"), ""
    if interval.high < threshold:
        return ("refuted" if relation == ">" else "supported"), ""
    reason = "the 95 % interval contains the threshold"
    tie = scale == "log" and max(threshold - interval.low, interval.high - threshold) < log(TIE)
    return "undecided", reason + (f" and lies within {100 * (TIE - 1):.0f} % of it: a tie" if tie else "")
