"""Losses and gradients along a line: the paper's Figure 4, and its scale-free twin."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from alidade.core.errors import CallError, brief
from alidade.core.records import BELOW_RESOLUTION, NON_FINITE, OK, UNDEFINED, LineProfile
from alidade.landscape.arguments import check_finite, check_objective, check_seed
from alidade.landscape.arguments import step_sizes as finite_step_sizes
from alidade.landscape.coordinates import Coordinates, coordinates_named
from alidade.landscape.differentiation import Tensors
from alidade.landscape.lines import InnerProducts, Line, line_along
from alidade.landscape.objective import Objective
from alidade.landscape.sweep import Sweep

#: Relative error of a gradient's norm in units of the precision, ||g32 - g64|| / (eps ||g||). Measured along the
#: training of VGG networks: 3 to 4 without a norm, 25 to 222 with BatchNorm (a rounding that flips a ReLU or the
#: maximum of a pooling window counts there), 13 to 70 with other norms. The next power of two covers them all.
GRADIENT_ROUNDINGS = 256.0
#: The same in half precision, where a kink is no rarer but a rounding is 65,000 times larger: 1 to 15 were measured
#: for bfloat16 against float32.
HALF_ROUNDINGS = 16.0


@torch.inference_mode(mode=False)
def line_profile(
    objective: Objective,
    step_sizes: Iterable[float],
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
    check_objective(objective)
    check_seed(seed)
    etas = finite_step_sizes(step_sizes)
    start = objective.parameters
    system = coordinates_named(coordinates, objective.model, start)
    with objective.repeated():
        loss, base = _base(objective, gradients or not isinstance(direction, Mapping))
        line = line_along(system, start, base, _direction(objective, system, direction, base, seed))
        points = _points(objective, line, etas.tolist(), gradients)
        named = direction if isinstance(direction, str) else "gradient" if direction is None else "given"
        provenance = objective.provenance(coordinates=system.name, direction=named)
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
        direction_norm=line.length,
        provenance=provenance,
        slope=line.slope() if gradients else float("nan"),
    )


class _Point(NamedTuple):
    loss: float
    distance: float = float("nan")
    cosine: float = float("nan")
    smoothness: float = float("nan")
    curvature: float = float("nan")
    resolution: float = float("nan")
    status: str = UNDEFINED


def _points(objective: Objective, line: Line, etas: list[float], gradients: bool) -> list[_Point]:
    error = gradient_error(objective.dtype)

    def look(eta: float, loss: Tensor, gradient: Tensors) -> _Point:
        value = float(loss)
        if gradients:
            return _compared(line, eta, value, line.inner_products(gradient, eta), error)
        return _Point(value, status=UNDEFINED if math.isfinite(value) else NON_FINITE)

    return Sweep(objective, line.there, gradients).all(etas, line.point, look)


def _compared(line: Line, eta: float, loss: float, products: InnerProducts, error: float) -> _Point:
    if not all(map(math.isfinite, (loss, *products))):
        return _Point(loss, distance=products.change**0.5, status=NON_FINITE)
    distance, norms = products.change**0.5, (products.first * products.second) ** 0.5
    relative = line.system.name == "relative" and products.first > 0
    point = _Point(
        loss,
        distance=distance / products.first**0.5 if relative else distance,
        cosine=products.both / norms if norms > 0 else float("nan"),
    )
    if eta == 0 or line.length == 0:
        return point
    smoothness = distance / (abs(eta) * line.length)
    noise = error * (products.first**0.5 + products.second**0.5)
    resolution = (noise + smoothness * products.rounding**0.5) / (abs(eta) * line.length)
    return point._replace(
        smoothness=smoothness,
        curvature=products.along / (eta * line.length**2),
        resolution=resolution,
        status=OK if smoothness > resolution else BELOW_RESOLUTION,
    )


def _base(objective: Objective, with_gradient: bool) -> tuple[float, Tensors]:
    if not with_gradient:
        return float(objective.value()), {}
    loss, gradient = objective.value_and_gradient()
    return float(loss), gradient


def _direction(
    objective: Objective, system: Coordinates, direction: str | Mapping[str, Tensor] | None, base: Tensors, seed: int
) -> Tensors:
    if isinstance(direction, Mapping):
        objective.check_direction(direction)
        check_finite(direction)
        return _scaled(system, {name: tensor.detach() for name, tensor in direction.items()})
    if direction is not None and not (isinstance(direction, str) and direction == "random"):
        raise CallError(f"direction: expected None, 'random' or a dict of tensors, got {brief(direction)}")
    length = system.gradient_norm(base)
    if direction == "random":
        return _gaussian(system, base, seed, length)
    if system.factors is None:
        return base
    scale = system.filters**0.5 / length if length > 0 else 0.0
    return {name: system.from_gradient(name, value, scale) for name, value in base.items()}


def _scaled(system: Coordinates, along: Tensors) -> Tensors:
    """In relative coordinates: filters change by a root mean square of 1, parameters without a filter rest."""
    if system.factors is None:
        return along
    length = system.length(along)
    scale = system.filters**0.5 / length if length > 0 else 0.0
    return {name: system.from_displacement(name, value, scale) for name, value in along.items()}


def _gaussian(system: Coordinates, base: Tensors, seed: int, length: float) -> Tensors:
    """Normal numbers in these coordinates: raw as long as the gradient, relative of root mean square 1 per filter."""
    generator = torch.Generator().manual_seed(seed)
    draws = {
        name: torch.randn(value.shape, generator=generator, dtype=torch.float64).to(value)
        for name, value in base.items()
    }
    if system.factors is None:
        scale = length / system.length(draws)
        return {name: draw.mul_(scale) for name, draw in draws.items()}
    return _scaled(system, {name: system.from_components(name, draw) for name, draw in draws.items()})


def gradient_error(dtype: str) -> float:
    """Relative rounding error to expect in the norm of a gradient computed in ``dtype``."""
    eps = float(torch.finfo(getattr(torch, dtype, torch.float32)).eps)
    return eps * (HALF_ROUNDINGS if eps > 1e-4 else GRADIENT_ROUNDINGS)
