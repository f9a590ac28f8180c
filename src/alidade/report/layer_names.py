"""Names of modules as a reader wants them: the number of a layer, where the name holds one."""

from __future__ import annotations

import re
from collections.abc import Sequence

#: More layers than these are shown by a selection.
MOST_LAYERS = 3


def layer_number(name: str) -> int | None:
    """The last whole number in a module's name.

    >>> layer_number("features.norm9"), layer_number("head")
    (9, None)
    """
    found = re.findall(r"\d+", name)
    return int(found[-1]) if found else None


def layer_words(name: str) -> str:
    """The layer as a title calls it.

    >>> layer_words("features.norm9"), layer_words("head")
    ('layer 9', 'head')
    """
    number = layer_number(name)
    return name if number is None else f"layer {number}"


def depths(layers: Sequence[str]) -> dict[str, int]:
    """Places of layers on an axis: their numbers where these tell them apart, else their order from 1.

    >>> depths(["conv1", "conv3", "head"])
    {'conv1': 1, 'conv3': 3, 'head': 4}
    """
    numbers = [layer_number(name) for name in layers]
    known = [number for number in numbers if number is not None]
    if known != sorted(set(known)) or numbers[: len(known)] != known:
        return {name: place for place, name in enumerate(layers, start=1)}
    last = known[-1] if known else 0
    return dict(zip(layers, [*known, *range(last + 1, last + 1 + len(layers) - len(known))], strict=True))


def shown_layers(layers: Sequence[str], wanted: Sequence[int] = ()) -> list[str]:
    """The wanted layers by number where they are there, else at most three: first, middle and last."""
    found = [name for name in layers if layer_number(name) in wanted]
    if found:
        return found
    if len(layers) <= MOST_LAYERS:
        return list(layers)
    return [layers[0], layers[len(layers) // 2], layers[-1]]
