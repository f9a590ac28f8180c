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

    def pieces(self, name: str, *raw: Tensor) -> Iterator[Piece]:
        """One parameter's tensors some rows at a time, so that float64 copies of a large one stay small."""
        factor = None if self.factors is None else self.factors[name]
        if raw[0].ndim == 0 or raw[0].numel() <= PIECE_ELEMENTS:
            yield Piece(factor, raw)
            return
        rows = max(1, PIECE_ELEMENTS * raw[0].shape[0] // max(1, raw[0].numel()))
        for start in range(0, raw[0].shape[0], rows):
            inside = slice(start, start + rows)
            yield Piece(factor if factor is None or factor.ndim == 0 else factor[inside], [t[inside] for t in raw])

    def bundles(self, *raw: Mapping[str, Tensor]) -> Iterator[Piece]:
        """All parameters, flattened and joined into pieces of some size: few operations for many small tensors."""
        waiting: list[Piece] = []
        size = 0
        for name in raw[0]:
            for piece in self.pieces(name, *(tensors[name] for tensors in raw)):
                waiting.append(piece)
                size += piece.raw[0].numel()
                if size >= PIECE_ELEMENTS:
                    yield _joined(waiting)
                    waiting, size = [], 0
        if waiting:
            yield _joined(waiting)

    def gradient_norm(self, raw: Mapping[str, Tensor]) -> float:
        """Norm of a raw gradient in these coordinates."""
        return self._root_sum_of_squares(raw, Piece.gradient)

    def length(self, raw: Mapping[str, Tensor]) -> float:
        """Norm of a raw displacement in these coordinates."""
        return self._root_sum_of_squares(raw, Piece.component)

    def _root_sum_of_squares(self, raw: Mapping[str, Tensor], seen: Callable[[Piece, int], Tensor]) -> float:
        """Piece by piece, not joined: joining copies, and that costs more than the squares."""
        parts = (seen(piece, 0).reshape(-1) for name, value in raw.items() for piece in self.pieces(name, value))
        return math.sqrt(math.fsum(torch.stack([torch.dot(part, part) for part in parts]).tolist()))

    def from_gradient(self, name: str, raw: Tensor, scale: float) -> Tensor:
        r"""The raw displacement :math:`d_j = c \|w_j\| G_j` along one parameter's gradient, in its precision."""
        out = torch.empty_like(raw)
        for piece, target in zip(self.pieces(name, raw), self.pieces(name, out), strict=True):
            target.raw[0].copy_(piece.displacement(scale * piece.gradient(0)))
        return out

    def from_components(self, name: str, components: Tensor) -> Tensor:
        r"""The raw displacement :math:`d_j = \|w_j\| D_j` of given components; 0 where there is no filter."""
        out = torch.empty_like(components)
        for piece, target in zip(self.pieces(name, components), self.pieces(name, out), strict=True):
            target.raw[0].copy_(piece.displacement(piece.raw[0].double()))
        return out

    def from_displacement(self, name: str, raw: Tensor, scale: float) -> Tensor:
        """A raw displacement times a factor; what has no filter is set to rest in relative coordinates."""
        out = torch.empty_like(raw)
        for piece, target in zip(self.pieces(name, raw), self.pieces(name, out), strict=True):
            target.raw[0].copy_(piece.displacement(scale * piece.component(0)))
        return out


class Piece(NamedTuple):
    """Some rows of one parameter's tensors with their factor (None: 1); results are float64."""

    factor: Tensor | None
    raw: Sequence[Tensor]

    def gradient(self, index: int) -> Tensor:
        r"""A gradient in the coordinates: :math:`G_j = \|w_j\| g_j`."""
        value = self.raw[index].double()
        return value if self.factor is None else value * self.factor

    def component(self, index: int) -> Tensor:
        r"""A displacement in the coordinates: :math:`D_j = d_j / \|w_j\|`, 0 at rest."""
        return self.as_component(self.raw[index].double())

    def as_component(self, value: Tensor) -> Tensor:
        """The components of a raw displacement of these rows."""
        return value if self.factor is None else torch.where(self.factor > 0, value / self.factor, 0.0)

    def displacement(self, component: Tensor) -> Tensor:
        r"""The raw displacement :math:`d_j = \|w_j\| D_j`."""
        return component if self.factor is None else component * self.factor


def _joined(pieces: Sequence[Piece]) -> Piece:
    if len({(tensor.device, tensor.dtype) for piece in pieces for tensor in piece.raw}) > 1:
        pieces = [Piece(piece.factor, [tensor.double() for tensor in piece.raw]) for piece in pieces]
    raw = [
        torch.cat([tensor.reshape(-1) for tensor in tensors]) for tensors in zip(*(p.raw for p in pieces), strict=True)
    ]
    if pieces[0].factor is None:
        return Piece(None, raw)
    factors = [piece.factor.expand(piece.raw[0].shape).reshape(-1) for piece in pieces if piece.factor is not None]
    return Piece(torch.cat(factors), raw)


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
