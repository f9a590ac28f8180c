"""Which networks a study compares: runs that differ in nothing but the seed form one variant."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from alidade.report.theme import DASHES, EXTRA_COLOURS, NORMS

if TYPE_CHECKING:
    from alidade.core.spec import RunSpec

_ORDER = ("none", "batch", "noisy")
_WORDS = {
    "optimizer.learning_rate": "lr {}",
    "model.init": "{} init",
    "model.conv_layers": "{} conv layers",
    "model.width": "width {}",
    "data.name": "{}",
    "data.train_examples": "{} examples",
    "batch_size": "batch {}",
    "steps": "{} steps",
    "l2": "l2 {}",
}
_HIDDEN = ("seed", "model.norm", "data.fingerprint")


@dataclass(frozen=True)
class Drawn:
    """What has one colour and one name on every chart."""

    key: str  # short, for the data of a chart
    label: str  # for a legend: "BatchNorm, lr 0.5"
    colour: str  # a name in theme.COLOURS
    dash: tuple[int, ...]


@dataclass(frozen=True)
class Variant(Drawn):
    """Runs that share everything but the seed."""

    norm: str
    learning_rate: float
    spec: RunSpec  # of the first seed
    runs: tuple[str, ...]
    seeds: tuple[int, ...]


def variants(specs: Mapping[str, RunSpec]) -> tuple[Variant, ...]:
    """The variants among ``specs`` (by run id), plain networks first."""
    groups: dict[str, list[tuple[int, str, RunSpec]]] = defaultdict(list)
    for run, spec in specs.items():
        groups[spec.model_copy(update={"seed": 0}).canonical_json()].append((spec.seed, run, spec))
    first = {identity: min(members, key=lambda m: m[0])[2] for identity, members in groups.items()}
    varying = _varying(first.values())
    names = {identity: _difference(spec, varying) for identity, spec in first.items()}
    ordered = sorted(first, key=lambda identity: (*_rank(first[identity].model.norm), names[identity], identity))
    dashes = {text: DASHES[i % len(DASHES)] for i, text in enumerate(sorted(set(names.values()), key=_natural))}
    extras = sorted({spec.model.norm for spec in first.values()} - set(NORMS))
    result = []
    for index, identity in enumerate(ordered):
        spec, difference = first[identity], names[identity]
        colour, label = _norm_words(spec.model.norm, extras)
        members = sorted(groups[identity], key=lambda m: m[0])
        result.append(
            Variant(
                key=f"v{index}",
                label=f"{label}, {difference}" if difference else label,
                norm=spec.model.norm,
                colour=colour,
                dash=dashes[difference],
                learning_rate=spec.optimizer.learning_rate,
                spec=spec,
                runs=tuple(run for _, run, _ in members),
                seeds=tuple(seed for seed, _, _ in members),
            )
        )
    return tuple(result)


def _norm_words(norm: str, extras: Sequence[str]) -> tuple[str, str]:
    if norm in NORMS:
        return NORMS[norm]
    return EXTRA_COLOURS[extras.index(norm) % len(EXTRA_COLOURS)], norm


def _rank(norm: str) -> tuple[int, str]:
    return (_ORDER.index(norm) if norm in _ORDER else len(_ORDER), norm)


def _natural(text: str) -> tuple[float, str]:
    numbers = [word for word in text.split() if word.replace(".", "", 1).isdigit()]
    return (float(numbers[0]) if numbers else 0.0, text)


def _flat(spec: RunSpec) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in spec.model_dump(mode="json").items():
        if isinstance(value, dict):
            flat |= {f"{name}.{inner}": content for inner, content in value.items()}
        else:
            flat[name] = value
    return {name: value for name, value in flat.items() if name not in _HIDDEN}


def _varying(specs: Iterable[RunSpec]) -> list[str]:
    flats = [_flat(spec) for spec in specs]
    names = dict.fromkeys(name for flat in flats for name in flat)
    return [name for name in names if len({str(flat.get(name)) for flat in flats}) > 1]


def _difference(spec: RunSpec, varying: Sequence[str]) -> str:
    flat = _flat(spec)
    words = [_WORDS.get(name, name + " {}").format(_word(name, flat.get(name))) for name in varying]
    return ", ".join(words)


def _word(name: str, value: object) -> str:
    if value is None:
        return "all"
    if name == "model.init":
        return str(value).capitalize()
    return f"{value:g}" if isinstance(value, float) else str(value)
