"""What the verdicts say, in one sentence with its numbers, and in a few key numbers. Never more than they hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from alidade.report.words import factor, listed, number

if TYPE_CHECKING:
    from alidade.claims.claim import Verdict

_NO_BREAK = "\u00a0"
SCALE_FREE, EQUAL_LOSS = "_scale_free", "_equal_loss"

#: Claims about ratios none / batch: what is smaller with BatchNorm, and the words for a ratio above and below 1.
RATIOS: dict[str, tuple[str, str, str]] = {
    "loss_band": ("loss band", "narrower", "wider"),
    "gradient_band": ("change of the gradient", "smaller", "larger"),
    "effective_smoothness": ("effective smoothness β", "lower", "higher"),
    "faster_training": ("mean training loss", "lower", "higher"),
    "deep_linear_batch": ("final loss on the deep linear network", "lower", "higher"),
}
_LEARNING = ("faster_training", "deep_linear_batch")
_FORMS = (
    ("", "mean over training"),
    (EQUAL_LOSS, "at equal loss"),
    (SCALE_FREE, "scale-free"),
    (SCALE_FREE + EQUAL_LOSS, "scale-free, at equal loss"),
)


@dataclass(frozen=True)
class Finding:
    """The page's opening: a sentence in pieces (text, emphasized), and what qualifies it."""

    pieces: tuple[tuple[str, bool], ...]
    qualifications: str

    @property
    def sentence(self) -> str:
        """The opening as plain text."""
        return "".join(text for text, _ in self.pieces)


@dataclass(frozen=True)
class Form:
    """One way of asking the same question."""

    label: str
    value: str
    interval: str
    verdict: str


@dataclass(frozen=True)
class KeyNumber:
    """A number that the page opens with, and its other forms."""

    claim: str
    value: str
    label: str
    interval: str
    verdict: str
    forms: tuple[Form, ...]
    remark: str


def finding(verdicts: Sequence[Verdict]) -> Finding:
    """The finding, from the claim on the loss band where there is one, else from the first ratio that was judged."""
    by_claim = {verdict.claim: verdict for verdict in verdicts}
    main = next((by_claim[claim] for claim in RATIOS if claim in by_claim), None)
    if main is None and verdicts:
        return Finding(((_tally(verdicts), False),), "Each section says which, and how much is behind it.")
    if main is None or main.estimate is None:
        return Finding(_without_number(main), _tally(verdicts))
    pieces = [*_opening(main), *_twin(by_claim, main)]
    return Finding((*pieces, (".", False)), " ".join([*_at_equal_loss(by_claim, main), _tally(verdicts)]))


def _without_number(main: Verdict | None) -> tuple[tuple[str, bool], ...]:
    if main is None:
        return (("These runs were measured; no claim bears on them.", False),)
    thing = RATIOS[main.claim][0]
    return ((f"Whether BatchNorm changes the {thing} could not be decided: {main.reason}.", False),)


def _opening(main: Verdict) -> list[tuple[str, bool]]:
    thing, _, _ = RATIOS[main.claim]
    number = _ratio_words(main)
    if main.verdict == "supported":
        opening = (
            "With BatchNorm the same network learned faster: its "
            if main.claim in _LEARNING
            else "With BatchNorm the same network stood on smoother ground: its "
        )
        return [(f"{opening}{thing} was ", False), (number, True), (f" ({_evidence(main)})", False)]
    if main.verdict == "refuted":
        return [
            (f"Here BatchNorm did not do what the paper reports: with it the {thing} was ", False),
            (number, True),
            (f" ({_evidence(main)})", False),
        ]
    if main.interval is None:
        return [
            (f"A single draw, so nothing is decided: with BatchNorm the {thing} was ", False),
            (number, True),
            (f" (no interval, {_seeds(main)})", False),
        ]
    return [
        (f"Undecided: with BatchNorm the {thing} was ", False),
        (number, True),
        (f", but the interval holds no difference as well ({_evidence(main)})", False),
    ]


def _twin(by_claim: Mapping[str, Verdict], main: Verdict) -> list[tuple[str, bool]]:
    """What becomes of the finding when the scale of the weights is taken out."""
    if main.claim in _LEARNING:
        return []
    twin = by_claim.get(main.claim + SCALE_FREE)
    if twin is None or twin.estimate is None:
        return [("; its scale-free twin was not measured", False)]
    number = _ratio_words(twin)
    if twin.verdict == main.verdict and (twin.estimate > 1) == ((main.estimate or 0) > 1):
        joint = "and, with the scale of the weights taken out, "
    elif twin.verdict == "undecided":
        joint = "but with the scale of the weights taken out this is undecided: "
    elif main.verdict == "supported":
        joint = "but it depends on the scale of the weights; with that taken out it was "
    else:
        joint = "while, with the scale of the weights taken out, it was "
    return [(f", {joint}", False), (number, True), (f" ({_interval(twin) or 'no interval'})", False)]


def _at_equal_loss(by_claim: Mapping[str, Verdict], main: Verdict) -> list[str]:
    forms = [by_claim.get(main.claim + suffix) for suffix in (EQUAL_LOSS, SCALE_FREE + EQUAL_LOSS)]
    names = ("At equal training loss it was", "scale-free at equal loss")
    parts = []
    for verdict, name in zip(forms, names, strict=True):
        if verdict is None:
            continue
        if verdict.estimate is None:
            parts.append(f"{name} not comparable")
        else:
            inside = _interval(verdict) or "no interval"
            inside += f", {_seeds(verdict)}" if verdict.n != main.n else ""
            parts.append(f"{name} {_ratio_words(verdict)} ({inside}{'' if _decided(verdict) else ', undecided'})")
    return ["; ".join(parts) + "."] if parts else []


def _decided(verdict: Verdict) -> bool:
    return verdict.verdict != "undecided"


def _tally(verdicts: Sequence[Verdict]) -> str:
    if not verdicts:
        return "No claim was judged."
    counts = [(name, sum(v.verdict == name for v in verdicts)) for name in ("supported", "refuted", "undecided")]
    found = [f"{count} {name}" for name, count in counts if count]
    if len(verdicts) == 1:
        return f"The only claim is {verdicts[0].verdict}."
    if len(found) == 1:
        return f"All {len(verdicts)} claims are {verdicts[0].verdict}."
    return f"Of {len(verdicts)} claims, {listed(found)}."


def key_numbers(verdicts: Sequence[Verdict]) -> list[KeyNumber]:
    """At most four ratios that the page opens with, each with its other forms."""
    by_claim = {verdict.claim: verdict for verdict in verdicts}
    return [_key_number(by_claim, claim) for claim in RATIOS if claim in by_claim][:4]


def _key_number(by_claim: Mapping[str, Verdict], claim: str) -> KeyNumber:
    main, (thing, _, _) = by_claim[claim], RATIOS[claim]
    others = [(label, by_claim.get(claim + suffix)) for suffix, label in _FORMS[1:]]
    forms = tuple(
        Form(label, _turned(verdict, main), _interval(verdict) or verdict.reason, verdict.verdict)
        for label, verdict in others
        if verdict is not None
    )
    return KeyNumber(
        claim=claim,
        value=_times(main),
        label=f"{_direction(main)} {thing} with BatchNorm",
        interval=_interval(main) or main.reason,
        verdict=main.verdict,
        forms=forms,
        remark=_scale_remark(main, by_claim.get(claim + SCALE_FREE)),
    )


def _scale_remark(main: Verdict, twin: Verdict | None) -> str:
    """Said where only the raw form holds."""
    if main.verdict == "supported" and twin is not None and twin.verdict != "supported":
        return "depends on weight scale"
    return ""


def is_ratio(verdict: Verdict) -> bool:
    """Whether the estimate is a ratio (judged in logs) and not a difference."""
    return verdict.statistic.startswith("ratio")


def written(verdict: Verdict, value: float) -> str:
    """A value of the verdict's statistic: a ratio, a share, or a difference with its sign."""
    if is_ratio(verdict):
        return number(value, 2)
    if verdict.statistic.startswith("share"):
        return number(value, 2) if abs(value) < 0.1 else f"{value:.2f}".replace("-", "−")
    return f"{value:+.2f}".replace("-", "−")


def _direction(verdict: Verdict) -> str:
    base = verdict.claim.removesuffix(EQUAL_LOSS).removesuffix(SCALE_FREE)
    _, less, more = RATIOS[base]
    return more if verdict.estimate is not None and verdict.estimate < 1 else less


def _ratio_words(verdict: Verdict) -> str:
    times = _times(verdict).removesuffix(" ×")
    return "the same" if times == "1" else f"{times} times {_direction(verdict)}"


def _times(verdict: Verdict) -> str:
    estimate = verdict.estimate
    if estimate is None or estimate <= 0:
        return "–"
    return f"{factor(estimate if estimate >= 1 else 1 / estimate)} ×"


def _turned(verdict: Verdict, main: Verdict) -> str:
    """The ratio; with its direction in words where that is not the main number's."""
    same = _times(verdict) == "1 ×" or _direction(verdict) == _direction(main)
    return _times(verdict) if same else f"{_times(verdict)} {_direction(verdict)}"


def _interval(verdict: Verdict) -> str:
    """The interval in the direction in which the number is told."""
    if verdict.interval is None or verdict.estimate is None:
        return ""
    low, high = verdict.interval
    if verdict.estimate < 1 and low > 0:
        low, high = 1 / high, 1 / low
    return f"{factor(low)} to {factor(high)}".replace(" ", _NO_BREAK)


def _evidence(verdict: Verdict) -> str:
    return f"95{_NO_BREAK}% interval {_interval(verdict)}, {_seeds(verdict)}"


def _seeds(verdict: Verdict) -> str:
    return f"{verdict.n}{_NO_BREAK}seed{'s' if verdict.n != 1 else ''}"
