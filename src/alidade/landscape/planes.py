r"""Planes through parameter space: :math:`\theta + x d_1 + y d_2`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from alidade.core.errors import CallError, RefusedError
from alidade.core.records import Floats
from alidade.landscape.arguments import check_finite, check_tensors
from alidade.landscape.coordinates import coordinates_named
from alidade.landscape.isolation import public_name
from alidade.landscape.states import matched_state

Tensors = dict[str, Tensor]

#: Numbers that are held in float64 at a time while a trajectory is decomposed.
_WIDE_ELEMENTS = 1 << 22
#: Relative squared length below which a second direction is rounding.
_SPANS = 1e-12


@dataclass(frozen=True)
class Plane:
    """Where a surface lies; raw tensors by public parameter name."""

    origin: Tensors
    first: Tensors
    second: Tensors
    name: str  # random | given | pca | checkpoints
    normalize: str = "raw"  # filter | raw
    explained_variance: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        (a, c), (_, b) = self._products
        if not a * b - c * c > _SPANS * a * b:
            raise CallError(
                f"directions: expected two that span a plane, got lengths {math.sqrt(a):.4g} and {math.sqrt(b):.4g} "
                "on one line; choose another second direction"
            )

    @cached_property
    def _products(self) -> Floats:
        c = dot(self.first, self.second)
        return np.array([[dot(self.first, self.first), c], [c, dot(self.second, self.second)]])

    @property
    def lengths(self) -> tuple[float, float]:
        """Norms of the two directions."""
        return (math.sqrt(self._products[0, 0]), math.sqrt(self._products[1, 1]))

    @property
    def cosine(self) -> float:
        """Of the angle between the two directions."""
        return float(self._products[0, 1]) / math.prod(self.lengths)

    def project(self, point: Tensors) -> tuple[float, float, float]:
        """Coordinates of the nearest point of the plane, and the distance from it."""
        away = {name: value.double() - self.origin[name].double() for name, value in point.items()}
        x, y = np.linalg.solve(self._products, [dot(away, self.first), dot(away, self.second)])
        for name, value in away.items():
            value.sub_(self.first[name], alpha=x).sub_(self.second[name], alpha=y)
        return float(x), float(y), math.sqrt(dot(away, away))


def random_plane(model: nn.Module, origin: Tensors, normalize: str, seed: int) -> Plane:
    """Two Gaussian directions: filter-normalized, or ("raw") each as long as the parameters."""
    generator = torch.Generator().manual_seed(seed)
    first, second = _gaussian(origin, generator), _gaussian(origin, generator)
    if normalize == "filter":
        first, second = (filter_normalized(model, origin, draw) for draw in (first, second))
    else:
        length = math.sqrt(dot(origin, origin))
        first, second = (_scaled(draw, length / math.sqrt(dot(draw, draw)), origin) for draw in (first, second))
    return Plane(origin, first, second, "random", normalize)


def given_plane(model: nn.Module, origin: Tensors, pair: Sequence[Any], normalize: str) -> Plane:
    """Two directions as they are, or with each of their filters as long as that of the weights."""
    for index, direction in enumerate(pair):
        check_tensors(origin, direction, f"directions[{index}]")
        check_finite(direction, f"directions[{index}]")
    first, second = ({name: direction[name].detach() for name in origin} for direction in pair)
    if normalize == "filter":
        first, second = (filter_normalized(model, origin, direction) for direction in (first, second))
    return Plane(origin, first, second, "given", normalize)


def filter_normalized(model: nn.Module, weights: Tensors, direction: Mapping[str, Tensor]) -> Tensors:
    r"""The direction with each filter as long as that of the weights (Li et al. 2018, section 4).

    :math:`d_j \leftarrow d_j \|w_j\| / \|d_j\|`. Biases, norm scales and shifts rest, and so do filters that are 0
    in the weights or in the direction.

    Raises:
        RefusedError: no filter could move.
    """
    wanted, found = _filter_norms(model, weights, "weights"), _filter_norms(model, direction, "direction")
    ratios = {name: torch.where(found[name] > 0, wanted[name] / found[name], 0.0) for name in weights}
    return {name: (direction[name].double() * ratios[name]).to(weights[name]) for name in weights}


def _filter_norms(model: nn.Module, tensors: Mapping[str, Tensor], what: str) -> Mapping[str, Tensor]:
    """By parameter, broadcastable over it; 0 where there is no filter."""
    try:
        return coordinates_named("relative", model, tensors).factors or {}
    except RefusedError as error:
        raise RefusedError(
            f"normalize='filter': expected {what} with a nonzero filter, got none; use normalize='raw'"
        ) from error


def principal_plane(states: Sequence[Tensors]) -> Plane:
    """Through the last state, along the first two principal components of all of them (Li et al. 2018, section 7).

    The components have length 1 and point to the side where the first state lies.

    Raises:
        CallError: fewer than three states, or all on one line.
    """
    if len(states) < 3:
        raise CallError(f"trajectory: expected three states or more for directions='pca', got {len(states)}")
    last = states[-1]
    count = len(states)
    centring = np.eye(count) - 1 / count
    values, vectors = np.linalg.eigh(centring @ _inner_products(states) @ centring)
    if not values[-2] > _SPANS * values[-1]:
        raise CallError("trajectory: expected states that span a plane, got states on one line; use interpolate")
    directions = []
    for value, vector in zip(values[:-3:-1], vectors.T[:-3:-1], strict=True):
        weights = centring @ vector / math.sqrt(value)
        unit = _combined(states, weights if vector[0] >= vector[-1] else -weights)
        directions.append(_scaled(unit, 1.0, last))
    share = values[:-3:-1] / values.clip(0).sum()
    return Plane(last, directions[0], directions[1], "pca", explained_variance=(float(share[0]), float(share[1])))


def plane_through(states: Sequence[Tensors]) -> Plane:
    """Through three checkpoints; the first is the origin, the second lies on the first axis (Garipov et al. 2018).

    Raises:
        CallError: they lie on one line.
    """
    start, second, third = states
    first = _combined([second, start], np.array([1.0, -1.0]))
    other = _combined([third, start], np.array([1.0, -1.0]))
    length, reach = dot(first, first), dot(other, other)
    if length > 0:
        along = dot(first, other) / length
        for name, value in other.items():
            value.sub_(first[name], alpha=along)
    height = dot(other, other)
    if not (length > 0 and height > _SPANS * reach):
        raise CallError("directions: expected three checkpoints that span a plane, got three on one line")
    return Plane(start, _scaled(first, length**-0.5, start), _scaled(other, height**-0.5, start), "checkpoints")


def trainable(model: nn.Module, parameters: Tensors, state: Any, label: str) -> Tensors:
    """The trainable parameters in a state dictionary of the model, or in a dictionary of just these.

    Raises:
        CallError: it is neither, or has a number that is not finite.
    """
    if isinstance(state, Mapping) and set(state) == set(parameters):
        check_tensors(parameters, state, label)
        found = {name: state[name].detach() for name in parameters}
    else:
        named = {public_name(name): value for name, value in matched_state(model, state, label).items()}
        found = {name: named[name] for name in parameters}
    check_finite(found, label)
    return found


def dot(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> float:
    """Inner product in float64, one parameter at a time."""
    return math.fsum(float(torch.dot(_wide(value), _wide(right[name]))) for name, value in left.items())


def _wide(tensor: Tensor) -> Tensor:
    return tensor.double().reshape(-1)


def _gaussian(like: Tensors, generator: torch.Generator) -> Tensors:
    return {
        name: torch.randn(value.shape, generator=generator, dtype=torch.float64).to(value.device)
        for name, value in like.items()
    }


def _scaled(direction: Tensors, factor: float, like: Tensors) -> Tensors:
    return {name: (value * factor).to(like[name]) for name, value in direction.items()}


def _combined(states: Sequence[Tensors], weights: Iterable[float]) -> Tensors:
    """Sum of weights times states in float64; the weights add up to 0, so that the last state may be the zero."""
    last = states[-1]
    total = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in last.items()}
    for weight, state in zip(weights, states, strict=True):
        for name, value in total.items():
            value.add_(state[name].double() - last[name].double(), alpha=float(weight))
    return total


def _inner_products(states: Sequence[Tensors]) -> Floats:
    """(T, T) inner products of the states' distances from the last, some columns at a time."""
    total = np.zeros((len(states), len(states)))
    columns = max(1, _WIDE_ELEMENTS // len(states))
    for name, last in states[-1].items():
        flat = [state[name].reshape(-1) for state in states]
        for start in range(0, last.numel(), columns):
            piece = torch.stack([part[start : start + columns].double() for part in flat])
            piece = piece - piece[-1]
            total += (piece @ piece.T).cpu().numpy()
    return total
