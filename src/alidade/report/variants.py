"""Which networks a study compares: runs that differ in nothing but the seed form one variant."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from alidade.core.spec import AnyRunSpec, RunSpec, SurveySpec
from alidade.report.theme import ALL_COLOURS, DASHES, NORMS
from alidade.report.words import plain

_ORDER = tuple(NORMS)
_KINDS = {"vgg": "VGG", "deep_linear": "deep linear network"}
_WORDS = {
    "optimizer.learning_rate": "lr {}",
    "model.init": "{} init",
    "model.conv_layers": "{} conv layers",
    "model.layers": "{} layers",
    "model.width": "width {}",
    "data.name": "{}",
    "data.train_examples": "{} examples",
    "data.augment": "{}",
    "batch_size": "batch {}",
    "steps": "{} steps",
    "l2": "l2 {}",
    "dtype": "{}",
}
_HIDDEN = ("seed", "model.kind", "model.norm", "data.fingerprint")
_NUMBER = re.compile(r"[0-9.]+(e-?[0-9]+)?")


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

    norm: str | None  # None for a training of the user's own
    learning_rate: float | None
    spec: AnyRunSpec  # of the first seed
    runs: tuple[str, ...]
    seeds: tuple[int, ...]


def variants(specs: Mapping[str, AnyRunSpec]) -> tuple[Variant, ...]:
    """The variants among ``specs`` (by run id), plain networks first, trainings of the user's own last."""
    groups: dict[str, list[tuple[str, AnyRunSpec]]] = defaultdict(list)
    for run, spec in sorted(specs.items(), key=lambda item: (item[1].seed or 0, item[0])):
        groups[_identity(spec)].append((run, spec))
    first = {identity: members[0][1] for identity, members in groups.items()}
    planned = {identity: spec for identity, spec in first.items() if isinstance(spec, RunSpec)}
    own = {identity: spec for identity, spec in first.items() if isinstance(spec, SurveySpec)}
    looks = {**_planned_looks(planned), **_own_looks(own)}
    return tuple(_variant(f"v{i}", looks[identity], groups[identity]) for i, identity in enumerate(looks))


#: Colour, label and dashes.
_Look = tuple[str, str, tuple[int, ...]]


def _variant(key: str, look: _Look, members: Sequence[tuple[str, AnyRunSpec]]) -> Variant:
    colour, label, dash = look
    spec = members[0][1]
    norm: str | None
    given: object
    if isinstance(spec, RunSpec):
        norm, given = spec.model.norm, spec.optimizer.learning_rate
    else:
        norm, given = None, spec.optimizer_defaults.get("lr")
    rate = float(given) if isinstance(given, int | float) else None
    runs = tuple(run for run, _ in members)
    seeds = tuple(member.seed for _, member in members if member.seed is not None)
    return Variant(key, label, colour, dash, norm, rate, spec, runs, seeds)


def _identity(spec: AnyRunSpec) -> str:
    """What is the same for all seeds."""
    if isinstance(spec, RunSpec):
        return spec.model_copy(update={"seed": 0}).canonical_json()
    if spec.seed is None:
        return spec.canonical_json()
    config = {name: value for name, value in spec.config.items() if name != "seed"}
    return spec.model_copy(update={"name": "", "config": config}).canonical_json()


def differences(specs: Mapping[str, RunSpec]) -> dict[str, str]:
    """What tells specifications apart beside norm and seed, in words ("lr 0.5, Glorot init"); "" where nothing does."""
    kinds = {spec.model.kind for spec in specs.values()}
    varying = {kind: _varying([s for s in specs.values() if s.model.kind == kind]) for kind in kinds}
    return {
        name: ", ".join(
            [*([_KINDS[spec.model.kind]] if len(kinds) > 1 else []), *_words(spec, varying[spec.model.kind])]
        )
        for name, spec in specs.items()
    }


def _planned_looks(first: Mapping[str, RunSpec]) -> dict[str, _Look]:
    names = differences(first)
    dashes = {text: DASHES[i % len(DASHES)] for i, text in enumerate(sorted(set(names.values()), key=_natural))}
    looks: dict[str, _Look] = {}
    for identity in sorted(first, key=lambda key: (_ORDER.index(first[key].model.norm), _natural(names[key]), key)):
        colour, label = NORMS[first[identity].model.norm]
        difference = names[identity]
        looks[identity] = (colour, f"{label}, {difference}" if difference else label, dashes[difference])
    return looks


def _own_looks(first: Mapping[str, SurveySpec]) -> dict[str, _Look]:
    """Trainings of the user's own: by name, in the order of their names."""
    ordered = sorted(first, key=lambda identity: (first[identity].name, identity))
    return {
        identity: (ALL_COLOURS[i % len(ALL_COLOURS)], first[identity].name, DASHES[i // len(ALL_COLOURS) % len(DASHES)])
        for i, identity in enumerate(ordered)
    }


def _natural(text: str) -> tuple[float, str]:
    numbers = [float(word) for word in text.replace(",", "").split() if _NUMBER.fullmatch(word)]
    return (numbers[0] if numbers else 0.0, text)


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


def _words(spec: RunSpec, varying: Sequence[str]) -> list[str]:
    flat = _flat(spec)
    words = [_WORDS.get(name, name + " {}").format(_word(name, flat.get(name))) for name in varying]
    return [word for word in words if word]


def _word(name: str, value: object) -> str:
    if value is None:
        return "all"
    if name == "data.augment":
        return "augmented" if value else ""
    if name == "model.init":
        return str(value).capitalize()
    return plain(value) if isinstance(value, float) else str(value)
