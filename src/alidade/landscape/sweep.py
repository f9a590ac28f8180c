"""Losses at many points of a plane, one after the other."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from alidade.landscape.batches import leaves_of
from alidade.landscape.conditions import Part
from alidade.landscape.contents import kept_values
from alidade.landscape.isolation import Attributes
from alidade.landscape.layout import Layout
from alidade.landscape.loss import as_scalar
from alidade.landscape.objective import Objective
from alidade.landscape.planes import Plane

Tensors = dict[str, Tensor]

#: A block ends after this long, so that what is measured is soon handed over.
_SECONDS = 1.0


class Points:
    """The tensors of points of a plane, in memory that is used again.

    Small networks are one vector. The part along the first direction is kept while x stays the same.
    """

    def __init__(self, plane: Plane) -> None:
        layout = Layout(plane.origin) if Layout.fits(plane.origin) else None
        self._origin, self._first, self._second = (
            [layout.pack(part)] if layout else [*part.values()] for part in (plane.origin, plane.first, plane.second)
        )
        self._row, self._point = ([torch.zeros_like(part) for part in self._origin] for _ in range(2))
        views = layout.views(self._point[0]) if layout else dict(zip(plane.origin, self._point, strict=True))
        self.tensors: Tensors = {name: nn.Parameter(view) for name, view in views.items()}
        self._x = math.nan

    def move(self, x: float, y: float) -> Tensors:
        """``tensors``, which are those of this point until the next move."""
        if x != self._x:
            for origin, first, row in zip(self._origin, self._first, self._row, strict=True):
                torch.add(origin, first, alpha=x, out=row)
            self._x = x
        for row, second, point in zip(self._row, self._second, self._point, strict=True):
            torch.add(row, second, alpha=y, out=point)
        return self.tensors


class Sweep:
    """Losses of an objective along a row of points.

    What an evaluation may have changed is put back once for a block of points, if at its end nothing has: no
    attribute, no random number drawn, no tensor of the batch. A network that changes any of these gets every point
    by itself. Buffers are fresh at every point. To be used inside ``objective.repeated()``.
    """

    def __init__(self, objective: Objective, plane: Plane) -> None:
        self._objective, self._points = objective, Points(plane)
        # Blocks end by the clock, and processes that share the objective must evaluate the same points.
        self._together = len(objective.parts) == 1 and objective.ranks.size == 1

    def losses(self, x: float, ys: Sequence[float]) -> list[float]:
        """Losses at the first of these points: at least one, and as many as a second has time for."""
        found = self._block(x, ys) if self._together and len(ys) > 1 else None
        if found is None:
            return [float(self._objective.value(self._points.move(x, ys[0])))]
        return found

    def _block(self, x: float, ys: Sequence[float]) -> list[float] | None:
        """None, and never tried again, where a point could have disturbed the next."""
        part = self._objective.parts[0]
        with torch.set_grad_enabled(self._objective.takes_gradients), self._objective.conditions_of(part) as run:
            found: list[float] = run(self._points.tensors, lambda model: self._losses(model, part, x, ys))
        self._together = bool(found)
        return found or None

    def _losses(self, model: nn.Module, part: Part, x: float, ys: Sequence[float]) -> list[float]:
        attributes, randomness = Attributes(model.modules()), part.conditions.randomness.now(model)
        batch = [kept for leaf in leaves_of(part.batch) if (kept := kept_values(leaf)) is not None]
        buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
        end, found = time.monotonic() + _SECONDS, list[float]()
        for y in ys:
            self._points.move(x, y)
            for buffer, then in buffers:
                buffer.copy_(then)
            found.append(float(part.weight * as_scalar(self._objective.loss_fn(model, part.supply.fresh())).detach()))
            if time.monotonic() > end:
                break
        same = randomness.same_as(randomness.now(model)) and not any(kept.changed() for kept in batch)
        return found if same and attributes.untouched() else []
