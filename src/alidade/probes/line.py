"""Losses and gradients along a line: the paper's Figure 4, and its scale-free twin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from alidade.core.errors import CallError
from alidade.core.records import BELOW_RESOLUTION, NON_FINITE, OK, UNDEFINED, Floats, LineProfile, Provenance
from alidade.landscape.coordinates import Coordinates, coordinates_named, root_sum
from alidade.landscape.objective import Objective, Tensors

#: Relative error of a gradient's norm in units of the precision, ||g32 - g64|| / (eps ||g||). Measured along the
#: training of VGG networks: 3 to 4 without a norm, 25 to 222 with BatchNorm (a rounding that flips a ReLU or the
#: maximum of a pooling window counts there), 13 to 70 with other norms. The next power of two covers them all.
GRADIENT_ROUNDINGS = 256.0


def line_profile(
    objective: Objective,
    step_sizes: Sequence[float],
    direction: str | Mapping[str, Tensor] | None = None,
    coordinates: str = "raw",
    gradients: bool = True,
    seed: int = 0,
) -> LineProfile:
    r"""Losses and gradients at :math:`\theta - \eta d` for each step size :math:`\eta`.

    With :math:`g(\eta) = \nabla L(\theta - \eta d)`, per step size:

    * gradient distance :math:`\|g(\eta) - g(0)\|` ("gradient predictiveness", Santurkar et al. 2018, Fig. 4b);
    * effective smoothness :math:`\beta(\eta) = \|g(\eta) - g(0)\| / (|\eta| \|d\|)` (Fig. 4c is its maximum);
    * directional curvature :math:`\langle d, g(0) - g(\eta)\rangle / (\eta \|d\|^2)`, which tends to
      :math:`d^\top H d / \|d\|^2` on smooth networks;
    * resolution, the error of :math:`\beta` from the rounding of parameters and gradients at the distance
      really moved. A smoothness below it has the status "below_resolution".

    In relative coordinates (the scale-free twin) each filter :math:`w_j` is measured in units of its norm:
    :math:`G_j = \|w_j\| g_j`, direction :math:`d_j = \sqrt N \|w_j\|^2 g_j / \|G\|` over the N filters, so that
    :math:`\eta` is the root-mean-square relative change of a filter; gradient distances are divided by
    :math:`\|G(0)\|`. All of it is invariant to rescaling the weights before a normalization layer.

    Args:
        objective: the loss; its parameters are where the line starts.
        step_sizes: K finite numbers; along the gradient in units of the learning rate's own scale.
        direction: None is the gradient (steepest descent in the chosen coordinates); "random" a Gaussian
            direction as long as that one, from ``seed``; or one tensor per trainable parameter.
        coordinates: "raw" or "relative". A given direction is scaled to a root-mean-square relative change of 1
            in relative coordinates, where biases and norm scales stay at rest.
        gradients: False measures losses only; what needs gradients is NaN with status "undefined".
        seed: of the random direction; the global random state is not used.

    Raises:
        CallError: an unknown name, a step size that is not finite, a direction of the wrong names or shapes.
        RefusedError: the objective is not deterministic, or no filter can move in relative coordinates.

    Cost: K + 1 forward and backward passes (without gradients K + 1 forward passes, and one backward if the
    direction needs the gradient), and one forward for the objective's first determinism check. Memory: three
    copies of the parameters beside the gradient computation's own.

    >>> from torch import nn
    >>> model = nn.Linear(2, 1, bias=False).double()
    >>> _ = model.weight.data.copy_(torch.tensor([[1.0, 2.0]]))
    >>> curved = torch.diag(torch.tensor([2.0, 1.0])).double()
    >>> objective = Objective(model, lambda model, x: model(x).square().sum() / 2, curved)
    >>> profile = line_profile(objective, [0.1, 0.2])  # the Hessian is diag(4, 1), the gradient (4, 2)
    >>> profile.losses.round(4).tolist(), profile.loss
    ([2.34, 1.36], 4.0)
    >>> profile.directional_curvature.round(4).tolist(), round(profile.max_effective_smoothness, 4)
    ([3.4, 3.4], 3.6056)
    """
    etas = _checked(step_sizes)
    start = objective.parameters
    system = coordinates_named(coordinates, objective.model, start)
    loss, base = _base(objective, gradients or not isinstance(direction, Mapping))
    line = _Line(system, start, base, _direction(objective, system, direction, base, seed))
    points = [_measure(objective, line, float(eta), gradients) for eta in etas]
    named = direction if isinstance(direction, str) else "gradient" if direction is None else "given"
    return LineProfile(
        step_sizes=etas,
        losses=np.array([point.loss for point in points]),
        gradient_distances=np.array([point.distance for point in points]),
        gradient_cosines=np.array([point.cosine for point in points]),
        effective_smoothness=np.array([point.smoothness for point in points]),
        directional_curvature=np.array([point.curvature for point in points]),
        resolution=np.array([point.resolution for point in points]),
        status=tuple(point.status for point in points),
        loss=loss,
        gradient_norm=system.gradient_norm(base) if base else float("nan"),
        direction_norm=system.length(line.along),
        provenance=Provenance(
            objective.statistics, objective.dtype, objective.batch_size, coordinates=system.name, direction=named
        ),
        slope=sum(_dot(line.along[name].double(), value.double()) for name, value in base.items())
        if gradients
        else float("nan"),
    )


@dataclass(frozen=True)
class _Line:
    """Where a profile starts and where it goes; raw tensors by parameter name."""

    system: Coordinates
    start: Tensors
    base: Tensors  # the gradient at the start; empty where it is not needed
    along: Tensors

    def point(self, eta: float) -> Tensors:
        return {name: value - eta * self.along[name] for name, value in self.start.items()}

    def inner_products(self, now: Tensors, moved: Tensors, eta: float) -> _InnerProducts:
        """One pass over the parameters, so that float64 copies live one parameter at a time."""
        parts: list[_InnerProducts] = []
        for name, start in self.start.items():
            first, second = self.system.gradient(name, self.base[name]), self.system.gradient(name, now[name])
            step = self.system.component(name, self.along[name])
            lost = (moved[name].double() - start.double()) + eta * self.along[name].double()
            rounding, change = self.system.component(name, lost), first - second
            parts.append(
                _InnerProducts(
                    change=_dot(change, change),
                    first=_dot(first, first),
                    second=_dot(second, second),
                    both=_dot(first, second),
                    along=_dot(step, change),
                    rounding=_dot(rounding, rounding),
                )
            )
        return _InnerProducts(*np.sum(parts, axis=0).tolist())


class _InnerProducts(NamedTuple):
    change: float  # ||g(0) - g(eta)||^2
    first: float  # ||g(0)||^2
    second: float  # ||g(eta)||^2
    both: float  # <g(0), g(eta)>
    along: float  # <d, g(0) - g(eta)>
    rounding: float  # squared distance between the point meant and the point reached


def _dot(left: Tensor, right: Tensor) -> float:
    return float((left * right).sum())


class _Point(NamedTuple):
    loss: float
    distance: float = float("nan")
    cosine: float = float("nan")
    smoothness: float = float("nan")
    curvature: float = float("nan")
    resolution: float = float("nan")
    status: str = UNDEFINED


def _measure(objective: Objective, line: _Line, eta: float, gradients: bool) -> _Point:
    moved = line.point(eta)
    if not gradients:
        loss = float(objective.value(moved))
        return _Point(loss, status=UNDEFINED if np.isfinite(loss) else NON_FINITE)
    value, now = objective.value_and_gradient(moved)
    loss, products = float(value), line.inner_products(now, moved, eta)
    if not np.isfinite([loss, *products]).all():
        return _Point(loss, distance=products.change**0.5, status=NON_FINITE)
    distance, norms = products.change**0.5, (products.first * products.second) ** 0.5
    relative = line.system.name == "relative" and products.first > 0
    point = _Point(
        loss,
        distance=distance / products.first**0.5 if relative else distance,
        cosine=products.both / norms if norms > 0 else float("nan"),
    )
    length = line.system.length(line.along)
    if eta == 0 or length == 0:
        return point
    smoothness = distance / (abs(eta) * length)
    noise = GRADIENT_ROUNDINGS * _precision(objective.dtype) * (products.first**0.5 + products.second**0.5)
    resolution = (noise + smoothness * products.rounding**0.5) / (abs(eta) * length)
    return point._replace(
        smoothness=smoothness,
        curvature=products.along / (eta * length**2),
        resolution=resolution,
        status=OK if smoothness > resolution else BELOW_RESOLUTION,
    )


def _checked(step_sizes: Sequence[float]) -> Floats:
    etas = np.asarray(step_sizes, dtype=np.float64)
    if etas.ndim != 1 or etas.size == 0 or not np.isfinite(etas).all():
        raise CallError(f"step_sizes: expected a non-empty list of finite numbers, got {step_sizes!r}")
    return etas


def _base(objective: Objective, with_gradient: bool) -> tuple[float, Tensors]:
    if not with_gradient:
        return float(objective.value()), {}
    loss, gradient = objective.value_and_gradient()
    return float(loss), gradient


def _direction(
    objective: Objective, system: Coordinates, direction: str | Mapping[str, Tensor] | None, base: Tensors, seed: int
) -> Tensors:
    if direction is None and system.factors is None:
        return base
    if direction is None or direction == "random":
        gradient = {name: system.gradient(name, value) for name, value in base.items()}
        length = root_sum(value.square() for value in gradient.values())
        parts = gradient if direction is None else _gaussian(gradient, seed, length)
        along = {name: system.displacement(name, part).to(base[name].dtype) for name, part in parts.items()}
    elif isinstance(direction, Mapping):
        objective.check_direction(direction)
        along = dict(direction)
    else:
        raise CallError(f"direction: expected None, 'random' or a dict of tensors, got {direction!r}")
    return along if system.factors is None else _root_mean_square_one(system, along)


def _gaussian(like: Tensors, seed: int, length: float) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    draws = {name: torch.randn(value.shape, generator=generator, dtype=torch.float64) for name, value in like.items()}
    scale = length / root_sum(draw.square() for draw in draws.values())
    return {name: (draw * scale).to(like[name].device) for name, draw in draws.items()}


def _root_mean_square_one(system: Coordinates, along: Tensors) -> Tensors:
    """Filters change by a root mean square of 1 in relative terms; parameters without a filter stay at rest."""
    length = system.length(along)
    scale = system.filters**0.5 / length if length > 0 else 0.0
    resting = {name: system.displacement(name, system.component(name, value)) for name, value in along.items()}
    return {name: (value * scale).to(along[name].dtype) for name, value in resting.items()}


def _precision(dtype: str) -> float:
    return float(torch.finfo(getattr(torch, dtype, torch.float32)).eps)
