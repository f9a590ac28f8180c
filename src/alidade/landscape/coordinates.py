r"""Raw and relative coordinates of parameter space.

Relative coordinates (the scale-free twin) measure each filter :math:`w_j`, the weight vector of one output unit,
in units of its own norm at the base point: a gradient becomes :math:`G_j = \|w_j\| g_j`, a displacement
:math:`D_j = d_j / \|w_j\|`. Both coordinates are a factor per filter, so one class serves: raw has factor 1.
Biases, norm scales and shifts and zero filters have factor 0: they stay at rest, as in filter normalization
(Li et al. 2018).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from alidade.core.errors import CallError, RefusedError, brief
from alidade.landscape.isolation import public_name
from alidade.landscape.roles import roles

#: Elements that are copied to float64 at a time.
PIECE_ELEMENTS = 1 << 18


@dataclass(frozen=True)
class Coordinates:
    """A factor per parameter that broadcasts over it (None: 1 everywhere); ``filters`` counts those that move."""

    name: Literal["raw", "relative"]
    factors: Mapping[str, Tensor] | None = None
    filters: int = 0

    def bundles(self, *raw: Mapping[str, Tensor]) -> Iterator[Piece]:
        """All parameters in float64, flattened and joined some at a time: few operations for many small tensors.

        A bundle holds until the next: it lies in the same memory, and may be written to.
        """
        room = _Room(raw[0], len(raw) + (self.factors is not None))
        waiting: list[_Part] = []
        size = 0
        for name in raw[0]:
            for part in _cut(self._factor(name), [tensors[name] for tensors in raw]):
                if size + part.raw[0].numel() > PIECE_ELEMENTS:
                    yield room.joined(waiting)
                    waiting, size = [], 0
                waiting.append(part)
                size += part.raw[0].numel()
        yield room.joined(waiting)

    def _factor(self, name: str) -> Tensor | None:
        return None if self.factors is None else self.factors[name]

    def gradient_norm(self, raw: Mapping[str, Tensor]) -> float:
        """Norm of a raw gradient in these coordinates."""
        return self._root_sum_of_squares(raw, Piece.as_gradient)

    def length(self, raw: Mapping[str, Tensor]) -> float:
        """Norm of a raw displacement in these coordinates."""
        return self._root_sum_of_squares(raw, Piece.as_component)

    def _root_sum_of_squares(self, raw: Mapping[str, Tensor], seen: Callable[[Piece, Tensor], Tensor]) -> float:
        parts = (seen(piece, piece.values[0]) for piece in self.bundles(raw))
        return math.sqrt(math.fsum(torch.stack([torch.dot(part, part) for part in parts]).tolist()))

    def from_gradient(self, name: str, raw: Tensor, scale: float) -> Tensor:
        r"""The raw displacement :math:`d_j = c \|w_j\| G_j` along one parameter's gradient, in its precision."""
        return self._each(name, raw, lambda piece, value: piece.as_displacement(piece.as_gradient(value).mul_(scale)))

    def from_components(self, name: str, components: Tensor) -> Tensor:
        r"""The raw displacement :math:`d_j = \|w_j\| D_j` of given components; 0 where there is no filter."""
        return self._each(name, components, Piece.as_displacement)

    def from_displacement(self, name: str, raw: Tensor, scale: float) -> Tensor:
        """A raw displacement times a factor; what has no filter is set to rest in relative coordinates."""
        return self._each(name, raw, lambda piece, value: piece.as_displacement(piece.as_component(value).mul_(scale)))

    def _each(self, name: str, raw: Tensor, change: Callable[[Piece, Tensor], Tensor]) -> Tensor:
        """One parameter, changed in float64 and in its own precision again."""
        out, room = torch.empty_like(raw), _Room({name: raw}, 1)
        for part in _cut(self._factor(name), [raw, out]):
            value = room.vectors[0][: part.raw[0].numel()].view(part.raw[0].shape).copy_(part.raw[0])
            part.raw[1].copy_(change(Piece(part.factor, [value]), value))
        return out


class Piece(NamedTuple):
    """Some elements of tensors in float64, and their factor (None: 1). Its methods write to what they are given."""

    factor: Tensor | None
    values: Sequence[Tensor]

    def as_gradient(self, value: Tensor) -> Tensor:
        r"""A gradient in the coordinates: :math:`G_j = \|w_j\| g_j`."""
        return value if self.factor is None else value.mul_(self.factor)

    def as_component(self, value: Tensor) -> Tensor:
        r"""A displacement in the coordinates: :math:`D_j = d_j / \|w_j\|`, 0 at rest."""
        return (
            value
            if self.factor is None
            else value.div_(self.factor).masked_fill_(self.factor.gt(0).logical_not_(), 0.0)
        )

    def as_displacement(self, component: Tensor) -> Tensor:
        r"""The raw displacement :math:`d_j = \|w_j\| D_j`."""
        return component if self.factor is None else component.mul_(self.factor)


class _Part(NamedTuple):
    """The same part of several tensors of one shape, and the factor that broadcasts over it."""

    factor: Tensor | None
    raw: Sequence[Tensor]


def _cut(factor: Tensor | None, raw: Sequence[Tensor]) -> Iterator[_Part]:
    """Parts of at most PIECE_ELEMENTS: some rows at a time, and where one row is longer, of that."""
    shape, elements = raw[0].shape, raw[0].numel()
    if elements <= PIECE_ELEMENTS:
        yield _Part(factor, raw)
        return
    rows = PIECE_ELEMENTS * shape[0] // elements
    for start in range(0, shape[0], max(1, rows)):
        inside = slice(start, start + rows) if rows else start
        yield from _cut(_rows(factor, inside, shape[0]), [tensor[inside] for tensor in raw])


def _rows(factor: Tensor | None, inside: slice | int, rows: int) -> Tensor | None:
    if factor is None or factor.ndim == 0:
        return factor
    if factor.shape[0] == rows:
        return factor[inside]
    return factor if isinstance(inside, slice) else factor[0]  # one row for all


class _Room:
    """Vectors of float64 that take one bundle of parameters after the other.

    Fresh ones for each bundle would leave holes in the heap, which the next does not fit into since tensors are
    aligned: of a large network these came to more than one copy.
    """

    def __init__(self, like: Mapping[str, Tensor], count: int) -> None:
        elements = min(PIECE_ELEMENTS, sum(tensor.numel() for tensor in like.values()))
        device = next(iter(like.values())).device
        self.vectors = [torch.empty(elements, dtype=torch.float64, device=device) for _ in range(count)]

    def joined(self, parts: Sequence[_Part]) -> Piece:
        """The parts' tensors one after the other; a factor comes last."""
        sizes = [part.raw[0].numel() for part in parts]
        joined = [vector[: sum(sizes)] for vector in self.vectors]
        for vector, tensors in zip(joined, zip(*(part.raw for part in parts), strict=True), strict=False):
            for place, tensor in zip(vector.split(sizes), tensors, strict=True):
                place.view(tensor.shape).copy_(tensor)
        if parts[0].factor is None:
            return Piece(None, joined)
        for place, part in zip(joined[-1].split(sizes), parts, strict=True):
            place.view(part.raw[0].shape).copy_(part.factor)
        return Piece(joined[-1], joined[:-1])


def coordinates_named(name: str, model: nn.Module, parameters: Mapping[str, Tensor]) -> Coordinates:
    """Coordinates by their public name, "raw" or "relative", at ``parameters``.

    Raises:
        CallError: another name.
        RefusedError: relative, and no filter can move (no weight of two or more dimensions with a norm above 0).
    """
    if not isinstance(name, str) or name not in ("raw", "relative"):
        raise CallError(f"coordinates: expected 'raw' or 'relative', got {brief(name)}")
    if name == "raw":
        return Coordinates("raw")
    transposed, role = _transposed_convolutions(model), roles(model)
    norms = {
        name: _filter_norms(value, transposed.get(name, 0)) if role[name] == "weight" else _at_rest(value)
        for name, value in parameters.items()
    }
    filters = sum(int((norm > 0).sum()) for norm in norms.values())
    if filters == 0:
        raise RefusedError("coordinates='relative': expected a nonzero weight of two or more dimensions, got none")
    factors = {name: _as_factor(norm, parameters[name], transposed.get(name, 0)) for name, norm in norms.items()}
    return Coordinates("relative", factors, filters)


def root_sum(parts: Iterable[Tensor]) -> float:
    """Square root of the sum of all elements of all parts, which are float64."""
    return math.sqrt(math.fsum(float(part.sum()) for part in parts))


def _transposed_convolutions(model: nn.Module) -> dict[str, int]:
    """Names of the weights of transposed convolutions, with their number of groups."""
    kinds = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    return {
        public_name(f"{name}.weight".lstrip(".")): module.groups
        for name, module in model.named_modules()
        if isinstance(module, kinds)
    }


def _filter_norms(weight: Tensor, groups: int) -> Tensor:
    """Norm of each output unit's weights, broadcastable over the (grouped) weight; 0 where there are no filters.

    Axis 0 counts output units. In a transposed convolution (``groups`` > 0) axis 0 counts inputs and the
    output units are (group, axis 1), so the weight is seen as (groups, inputs, outputs, ...).
    """
    if groups == 0:
        return torch.linalg.vector_norm(weight, dim=tuple(range(1, weight.ndim)), keepdim=True, dtype=torch.float64)
    grouped = weight.reshape(groups, -1, *weight.shape[1:])
    return torch.linalg.vector_norm(grouped, dim=(1, *range(3, grouped.ndim)), keepdim=True, dtype=torch.float64)


def _at_rest(parameter: Tensor) -> Tensor:
    return parameter.new_zeros((), dtype=torch.float64)


def _as_factor(norms: Tensor, weight: Tensor, groups: int) -> Tensor:
    if groups == 0 or norms.ndim == 0:
        return norms
    inputs = weight.shape[0] // groups
    return norms.expand(groups, inputs, *norms.shape[2:]).reshape(weight.shape[0], *norms.shape[2:])
