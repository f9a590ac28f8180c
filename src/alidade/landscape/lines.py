"""A line through parameter space: its points, and the inner products of the gradients there."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from alidade.landscape.coordinates import Coordinates, Piece
from alidade.landscape.differentiation import Tensors
from alidade.landscape.layout import Layout


class InnerProducts(NamedTuple):
    """In the line's coordinates, with g(eta) the gradient at a point and d the direction."""

    change: float  # ||g(0) - g(eta)||^2
    first: float  # ||g(0)||^2
    second: float  # ||g(eta)||^2
    both: float  # <g(0), g(eta)>
    along: float  # <d, g(0) - g(eta)>
    rounding: float  # squared distance between the point meant and the point reached


@dataclass(frozen=True)
class Line:
    """Where a profile starts and where it goes; raw tensors by parameter name."""

    system: Coordinates
    start: Tensors
    base: Tensors  # the gradient at the start; empty where it is not needed
    along: Tensors

    @cached_property
    def there(self) -> Tensors:
        """The tensors of the point that was asked for last."""
        return {name: torch.empty_like(value) for name, value in self.start.items()}

    def point(self, eta: float) -> Tensors:
        """The tensors of theta - eta d, which hold until the next point is asked for."""
        for name, value in self.start.items():
            torch.sub(value, self.along[name], alpha=eta, out=self.there[name])
        return self.there

    @cached_property
    def length(self) -> float:
        """Norm of d."""
        return self.system.length(self.along)

    def slope(self) -> float:
        """<d, g(0)>, the same number in every coordinates."""
        pieces = Coordinates("raw").bundles(self.along, self.base)
        return sum(float(torch.dot(*piece.values)) for piece in pieces)

    def inner_products(self, now: Tensors, eta: float) -> InnerProducts:
        """With the gradient ``now`` at the point ``eta``: one pass over the parameters, some at a time."""
        pieces = self.system.bundles(self.start, self.point(eta), self.along, self.base, now)
        return InnerProducts(*torch.stack([_products(piece, eta) for piece in pieces]).sum(0).tolist())


class _PackedLine(Line):
    """The line of a small network, as vectors: what does not change along it is widened to float64 once.

    Nothing as large as the network is allocated per point: fetching fresh pages costs more than the arithmetic.
    """

    @cached_property
    def _layout(self) -> Layout:
        return Layout(self.start)

    @cached_property
    def _ends(self) -> tuple[Tensor, Tensor]:
        return self._layout.pack(self.start), self._layout.pack(self.along)

    @cached_property
    def _vector(self) -> Tensor:
        return torch.zeros_like(self._ends[0])

    @cached_property
    def there(self) -> Tensors:
        return self._layout.views(self._vector)

    @cached_property
    def _wide(self) -> _Wide:
        factors = self.system.factors
        factor = None if factors is None else self._layout.pack(factors)
        raw = self._layout.pack(self.along).double()
        same = factor is None and self.along is self.base  # then one vector serves, which is read once instead of twice
        work, piece = torch.zeros_like(raw), Piece(factor, [])
        base = raw if same else piece.as_gradient(self._layout.pack(self.base).double())
        step = raw if factor is None else piece.as_component(raw.clone())
        inverse = None if factor is None else piece.as_component(torch.ones_like(raw))
        products = torch.dot(base, base).repeat(len(InnerProducts._fields))  # the second of them stays
        start = self._ends[0].double()
        return _Wide(factor, inverse, start, raw, step, base, work, self._layout.views(work), products)

    def point(self, eta: float) -> Tensors:
        torch.sub(*self._ends, alpha=eta, out=self._vector)
        return self.there

    def inner_products(self, now: Tensors, eta: float) -> InnerProducts:
        wide, work = self._wide, self._wide.work
        for name, view in wide.views.items():
            view.copy_(now[name])
        if wide.factor is not None:
            work.mul_(wide.factor)
        change, first, second, both, along, rounding = wide.products.unbind()
        torch.dot(work, work, out=second)
        if wide.step is not wide.base:
            torch.dot(wide.base, work, out=both)
        torch.sub(wide.base, work, out=work)
        torch.dot(work, work, out=change)
        torch.dot(wide.step, work, out=along)
        if wide.step is wide.base:  # <g(0), g> is then what <g(0), g(0) - g> leaves of <g(0), g(0)>
            torch.sub(first, along, out=both)
        self.point(eta)  # once more: a forward pass may write to its parameters
        work.copy_(self._vector).sub_(wide.start).add_(wide.along, alpha=eta)
        if wide.inverse is not None:
            work.mul_(wide.inverse)
        torch.dot(work, work, out=rounding)
        return InnerProducts(*wide.products.tolist())


class _Wide(NamedTuple):
    """Vectors of float64: a factor of the coordinates (None: 1), what does not change, and room to work in."""

    factor: Tensor | None
    inverse: Tensor | None
    start: Tensor
    along: Tensor  # the raw direction
    step: Tensor  # the direction in the coordinates
    base: Tensor  # the gradient at the start in the coordinates
    work: Tensor
    views: Tensors  # of the room
    products: Tensor  # where a point's inner products are written


def line_along(system: Coordinates, start: Tensors, base: Tensors, along: Tensors) -> Line:
    """The line start - eta along."""
    kind = _PackedLine if Layout.fits(start) else Line
    return kind(system, start, base, along)


def _products(piece: Piece, eta: float) -> Tensor:
    start, moved, along, base, now = piece.values
    rounding = piece.as_component(moved.sub_(start).add_(along, alpha=eta))
    step, first, second = piece.as_component(along), piece.as_gradient(base), piece.as_gradient(now)
    change = torch.sub(first, second, out=start)
    pairs = [(change, change), (first, first), (second, second), (first, second), (step, change), (rounding, rounding)]
    return torch.stack([torch.dot(*pair) for pair in pairs])
