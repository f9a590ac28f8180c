"""An objective at many points, one after the other."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from alidade.landscape.batches import leaves_of
from alidade.landscape.conditions import Part
from alidade.landscape.contents import kept_values
from alidade.landscape.differentiation import Tensors, named_gradients
from alidade.landscape.isolation import Attributes
from alidade.landscape.layout import Layout
from alidade.landscape.objective import Objective
from alidade.landscape.planes import Plane

P = TypeVar("P")
T = TypeVar("T")

#: ``look(point, loss, gradient)`` takes what is wanted from an evaluation; both are gone afterwards.
Look = Callable[[P, Tensor, Tensors], T]

#: Losses of a plane are handed over at least this often.
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
        self.tensors = layout.views(self._point[0]) if layout else dict(zip(plane.origin, self._point, strict=True))
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
    """Losses, and where wanted gradients, of an objective at the same tensors with one value after the other.

    What an evaluation may have changed is put back once for a block of points, if after the first of them and at
    the end nothing has: no attribute, no random number drawn, no tensor of the batch. A network that changes any of
    these gets every point by itself. Buffers are fresh at every point. To be used inside ``objective.repeated()``.

    Args:
        objective: what is evaluated; its gradient has been taken before where gradients are wanted.
        tensors: those of every point, by public name.
        gradients: whether they are wanted.
        seconds: a block ends after this long, so that what is measured is soon handed over.
    """

    def __init__(
        self, objective: Objective, tensors: Tensors, gradients: bool = False, seconds: float = math.inf
    ) -> None:
        self._objective, self._tensors, self._gradients, self._seconds = objective, tensors, gradients, seconds
        self._leaves: Tensors = {name: nn.Parameter(tensor) for name, tensor in tensors.items()}
        # Blocks end by the clock, and processes that share the objective must evaluate the same points.
        alone = len(objective.parts) == objective.ranks.size == 1
        self._together = alone and not objective.through_backward
        self.rescued: list[Any] = []  # what was found in a block that an exception ended

    def some(self, points: Sequence[P], move: Callable[[P], object], look: Look[P, T]) -> list[T]:
        """What ``look`` found at the first of these points: at least one, and as many as there is time for.

        ``move(point)`` gives the tensors the values of a point.
        """
        if self._together and len(points) > 1:
            return self._block(points, move, look)
        move(points[0])
        if self._gradients:
            return [look(points[0], *self._objective.value_and_gradient(self._tensors))]
        return [look(points[0], self._objective.value(self._tensors), {})]

    def all(self, points: Sequence[P], move: Callable[[P], object], look: Look[P, T]) -> list[T]:
        """What ``look`` found at each of the points."""
        found: list[T] = []
        while len(found) < len(points):
            found += self.some(points[len(found) :], move, look)
        return found

    def _block(self, points: Sequence[P], move: Callable[[P], object], look: Look[P, T]) -> list[T]:
        objective, (part,) = self._objective, self._objective.parts
        graphs = self._gradients or objective.takes_gradients

        def work(model: nn.Module) -> list[T]:
            scene, end, found = _Scene(model, part), time.monotonic() + self._seconds, list[T]()
            try:
                for point in points:
                    move(point)
                    scene.renew_buffers()
                    found.append(look(point, *self._evaluated(model, part)))
                    self._together = len(found) > 1 or scene.is_as_it_was()
                    if not self._together or time.monotonic() > end:
                        break
            except BaseException:
                self.rescued = found if scene.is_as_it_was() else found[:1]
                raise
            self._together = self._together and scene.is_as_it_was()
            return found if self._together else found[:1]  # the first began as it should in any case

        with torch.inference_mode(False), torch.set_grad_enabled(graphs), objective.conditions_of(part) as run:
            result: list[T] = run(self._leaves, work)
            return result

    def _evaluated(self, model: nn.Module, part: Part) -> tuple[Tensor, Tensors]:
        if not self._gradients:
            return self._objective.loss(model, part).detach(), {}
        loss = self._objective.differentiable_loss(model, part)
        return loss.detach(), named_gradients(loss, self._leaves)


class PlaneSweep:
    """Losses of an objective at points of a plane."""

    def __init__(self, objective: Objective, plane: Plane) -> None:
        self._points = Points(plane)
        self._sweep = Sweep(objective, self._points.tensors, seconds=_SECONDS)

    @property
    def rescued(self) -> list[float]:
        """What was measured of the points of a call that raised."""
        return self._sweep.rescued

    def losses(self, points: Sequence[tuple[float, float]]) -> list[float]:
        """Losses at the first of these (x, y): at least one, and as many as a second has time for."""
        return self._sweep.some(points, lambda point: self._points.move(*point), lambda _, loss, __: float(loss))


class _Scene:
    """What one evaluation in a block could leave behind for the next."""

    def __init__(self, model: nn.Module, part: Part) -> None:
        self._model, self._randomness = model, part.conditions.randomness.now(model)
        self._attributes = Attributes(model.modules())
        self._batch = [kept for leaf in leaves_of(part.batch) if (kept := kept_values(leaf)) is not None]
        self._buffers = [(buffer.detach(), buffer.clone()) for buffer in model.buffers()]

    def renew_buffers(self) -> None:
        for buffer, then in self._buffers:
            buffer.copy_(then)

    def is_as_it_was(self) -> bool:
        drawn = not self._randomness.same_as(self._randomness.now(self._model))
        return not drawn and not any(kept.changed() for kept in self._batch) and self._attributes.untouched()
