"""Layers: which module owns which parameter, and in which order a forward pass first uses them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from alidade.core.errors import CallError, brief
from alidade.landscape.isolation import public_name
from alidade.landscape.watch import Watch

#: What the root module is called where it owns parameters itself.
ROOT = "(model)"

#: Layers by what the user calls them: a name, or a group under a name of its own.
Groups = Sequence[tuple[str, frozenset[str]]]


def home(name: str) -> str:
    """The layer that a parameter or buffer belongs to by its name; a parametrization belongs to what it shapes.

    >>> home("features.0.weight"), home("scale"), home("head.parametrizations.weight.original0")
    ('features.0', '(model)', 'head')
    """
    parts = public_name(name).split(".")[:-1]
    if "parametrizations" in parts:
        parts = parts[: parts.index("parametrizations")]
    return ".".join(parts) or ROOT


@dataclass(frozen=True)
class Layers:
    """The layers of a model as one forward pass used them.

    A layer is a module that directly owns trainable parameters. Tied parameters belong to the layer that uses
    them first.
    """

    trainable: Mapping[str, tuple[str, ...]]  # names of parameters by layer, in order of first use; unused at the end
    first_use: Mapping[str, float]  # by layer, on the clock of the Watch; infinite where it is never used
    home_of: Mapping[str, str]  # of every parameter and buffer, by its real name

    def begin(self, group: frozenset[str]) -> float:
        """First use of any layer of the group."""
        return min(self.first_use[layer] for layer in group)

    def preceding(self, group: frozenset[str]) -> frozenset[str]:
        """The layers outside the group that are used before it."""
        begin = self.begin(group)
        return frozenset(layer for layer, used in self.first_use.items() if used < begin) - group

    def parameters(self, group: frozenset[str]) -> list[str]:
        """The trainable parameters of a group, by their real names."""
        return [name for layer, names in self.trainable.items() if layer in group for name in names]

    def same_order(self, other: Layers) -> bool:
        """Whether the layers, with their parameters, were used in the same order."""
        return list(self.trainable.items()) == list(other.trainable.items())

    def extended_by(self, other: Layers) -> Layers:
        """The same layers in the same order; those that only another micro-batch used come after the used ones."""
        end = max((used for used in self.first_use.values() if used < math.inf), default=0) + 1
        first_use = {layer: min(used, end + other.first_use[layer]) for layer, used in self.first_use.items()}
        order = sorted(self.trainable, key=first_use.__getitem__)
        return Layers({layer: self.trainable[layer] for layer in order}, first_use, self.home_of)


def layers_seen(model: nn.Module, watch: Watch, gradient: Mapping[str, Tensor | None]) -> Layers:
    """Layers in the order in which the watched evaluation used them.

    ``gradient`` has an entry for each trainable parameter, None where the loss does not depend on it. Where a
    parameter has a gradient but its use could not be seen, its layer counts as used when it was called, or when
    the nearest module around it was.
    """
    home_of = _homes(model, watch)
    owners: dict[str, list[str]] = {}
    for name in gradient:
        owners.setdefault(home_of[name], []).append(name)
    first_use = {layer: _first_use(layer, names, gradient, home_of, model, watch) for layer, names in owners.items()}
    order = sorted(owners, key=first_use.__getitem__)
    return Layers({layer: tuple(owners[layer]) for layer in order}, first_use, home_of)


def groups_named(layers: Layers, wanted: Any) -> Groups:
    """The groups that the user asks for: None, names, lists of names, or a dictionary of such lists.

    The name of a layer means that layer; the name of a module that owns no trainable parameters itself, such as a
    block, means the layers inside it.

    Raises:
        CallError: an unknown name, or nothing at all.
    """
    if wanted is None:
        return [(layer, frozenset([layer])) for layer in layers.trainable]
    if isinstance(wanted, str) or not isinstance(wanted, Mapping | Sequence) or not wanted:
        raise CallError(f"layers: expected a non-empty list of names or groups, or a dictionary, got {brief(wanted)}")
    entries = wanted.items() if isinstance(wanted, Mapping) else [(None, entry) for entry in wanted]
    groups: list[tuple[str, frozenset[str]]] = []
    for label, entry in entries:
        names = [entry] if isinstance(entry, str) else entry
        if not isinstance(names, Sequence) or not names or not all(isinstance(name, str) for name in names):
            raise CallError(f"layers: expected a name or a non-empty list of names in each place, got {brief(entry)}")
        label = "+".join(names) if label is None else str(label)
        groups.append((label, frozenset().union(*(_resolved(layers, name) for name in names))))
    return groups


def _resolved(layers: Layers, name: str) -> frozenset[str]:
    known = public_name(name) or ROOT
    for candidate in (known, known.removeprefix("module.")):
        if candidate in layers.trainable:
            return frozenset([candidate])
        inside = frozenset(layer for layer in layers.trainable if layer.startswith(f"{candidate}."))
        if inside:
            return inside
    listed = ", ".join(layers.trainable)
    raise CallError(f"layers: expected modules that own trainable parameters, got {name!r}; there are {listed}")


def _homes(model: nn.Module, watch: Watch) -> dict[str, str]:
    """The layer of every parameter and buffer; of a tied parameter, the innermost owner that ran at its first use."""
    named_parameters: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        named_parameters.setdefault(id(parameter), []).append(name)
    modules = _modules(model)
    homes = {name: home(name) for name, _ in model.named_buffers()}
    for first, *others in named_parameters.values():
        owners = {id(modules[layer]): layer for layer in map(home, [*reversed(others), first])}
        ran = [owners[id(module)] for module in watch.users.get(first, ()) if id(module) in owners]
        homes[first] = ran[-1] if ran else home(first)
    return homes


def _first_use(
    layer: str,
    names: Sequence[str],
    gradient: Mapping[str, Tensor | None],
    home_of: Mapping[str, str],
    model: nn.Module,
    watch: Watch,
) -> float:
    """First use of any of the layer's parameters; infinite where no trainable one is used."""
    unseen = any(gradient[name] is not None and name not in watch.first_use for name in names)
    if not unseen and watch.first_use.keys().isdisjoint(names):
        return math.inf
    times: list[float] = [time for name, time in watch.first_use.items() if home_of[name] == layer]
    return min([*times, _first_call_around(layer, model, watch)] if unseen else times)


def _first_call_around(layer: str, model: nn.Module, watch: Watch) -> float:
    """First call of the layer, or of the nearest module around it that was called; 0 is the beginning."""
    modules = _modules(model)
    while layer != ROOT and modules[layer] not in watch.first_call:
        layer = layer.rpartition(".")[0] or ROOT
    return watch.first_call.get(modules[layer], 0)


def _modules(model: nn.Module) -> dict[str, nn.Module]:
    return {public_name(name) or ROOT: module for name, module in model.named_modules(remove_duplicate=False)}
