"""How large each layer's weights, gradients and updates are, and how far an update turns the weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import NamedTuple

import numpy as np
from torch import Tensor, nn

from alidade.core.errors import CallError, brief
from alidade.core.layer_scalars import Kind, LayerScalars
from alidade.landscape.arguments import check_objective
from alidade.landscape.coordinates import root_sum
from alidade.landscape.layers import home
from alidade.landscape.objective import Objective
from alidade.landscape.roles import roles

_NAN = float("nan")
_EPS = float(np.finfo(np.float64).eps)


def layer_scalars(
    objective: Objective,
    lr: float | Mapping[str, float] | None = None,
    update: Mapping[str, Tensor] | None = None,
) -> LayerScalars:
    r"""Norms, ratios and angles of every layer's parameters, in float64.

    With a layer's weights W, the objective's gradient g with respect to them, and the update u, by which W becomes
    :math:`W - u`:

    * norms :math:`\|W\|`, :math:`\|g\|`, :math:`\|u\|` (over all elements), gradient ratio :math:`\|g\| / \|W\|`,
      update ratio :math:`\|u\| / \|W\|`;
    * effective learning rate :math:`\mathrm{lr} / \|W\|^2`, the rate at which the direction of weights before a
      normalization layer is trained (van Laarhoven 2017);
    * angular update, the angle between W and W - u:
      :math:`\mathrm{atan2}(\|u_\perp\|, \|W\| - \langle u, W\rangle / \|W\|)` with :math:`u_\perp` the part of u
      across W. It is exact for any length of u, and keeps its digits where the arc cosine has none left.

    A layer is a module that directly owns trainable parameters, in order of registration; a tied parameter belongs to
    the first. Its parameters of two or more dimensions are pooled into one entry of kind "weight"; biases and
    scales have entries of their own, without effective learning rate and angle.

    Args:
        objective: its own gradient is taken, never ``.grad``.
        lr: a learning rate for all, or one per parameter name (parameter groups). None: what needs it is NaN,
            "undefined"; an entry whose parameters have different learning rates has no effective one.
        update: what the optimizer really subtracted, :math:`\theta_t - \theta_{t+1}`, one tensor per trainable
            parameter; None means plain SGD's, lr g.

    Raises:
        CallError: a learning rate that is negative, not finite or missing for a parameter; an update of wrong names
            or shapes.
        RefusedError: the objective is not deterministic.

    Cost: one forward and backward pass, and one forward for the objective's first determinism check.

    Source: van Laarhoven 2017 (arXiv:1706.05350) for the effective learning rate.

    >>> import torch
    >>> model = torch.nn.Linear(2, 1, bias=False).double()
    >>> _ = model.weight.data.copy_(torch.tensor([[3.0, 4.0]]))
    >>> objective = Objective(model, lambda model, x: model(x).sum(), torch.tensor([[8.0, -6.0]]).double())
    >>> scalars = layer_scalars(objective, lr=0.5)  # the gradient (8, -6) stands across the weights (3, 4)
    >>> scalars.norm, scalars.gradient_norm, scalars.update_ratio, scalars.effective_learning_rate
    (array([5.]), array([10.]), array([1.]), array([0.02]))
    >>> np.degrees(scalars.angular_update)
    array([45.])
    """
    check_objective(objective)
    if update is not None:
        objective.check_direction(update)
    weights = objective.parameters
    rates = _rates(lr, list(weights))
    gradient = objective.gradient()
    entries = _entries(objective.model, weights)
    rows = [
        _measure(
            kind, [_Part(weights[n].double(), gradient[n].double(), rates[n], (update or {}).get(n)) for n in names]
        )
        for (_, kind), names in entries.items()
    ]
    return LayerScalars(
        layers=tuple(layer for layer, _ in entries),
        kinds=tuple(kind for _, kind in entries),
        provenance=objective.provenance(direction="gradient" if update is None else "update"),
        **{name: np.array([row[name] for row in rows]) for name in rows[0]},
    )


def _rates(lr: float | Mapping[str, float] | None, names: list[str]) -> dict[str, float]:
    if lr is None:
        return dict.fromkeys(names, _NAN)
    rates = {name: lr.get(name, _NAN) for name in names} if isinstance(lr, Mapping) else dict.fromkeys(names, lr)
    found = {}
    for name, rate in rates.items():
        number = rate.item() if isinstance(rate, Tensor | np.generic) and rate.ndim == 0 else rate
        if not isinstance(number, Real) or isinstance(number, bool) or not 0 <= float(number) < math.inf:
            raise CallError(f"lr: expected a finite number >= 0 for every parameter, got {brief(rate)} for {name!r}")
        found[name] = float(number)
    return found


def _entries(model: nn.Module, names: Iterable[str]) -> dict[tuple[str, Kind], list[str]]:
    """The names of the parameters of each layer and kind."""
    role, entries = roles(model), dict[tuple[str, Kind], list[str]]()
    for name in names:
        entries.setdefault((home(name), role[name]), []).append(name)
    return entries


class _Part(NamedTuple):
    """One parameter of an entry, float64."""

    weight: Tensor
    gradient: Tensor
    rate: float
    given: Tensor | None

    @property
    def update(self) -> Tensor:
        return self.rate * self.gradient if self.given is None else self.given.double()


def _measure(kind: Kind, parts: list[_Part]) -> dict[str, float]:
    norm = root_sum(part.weight.square() for part in parts)
    gradient_norm = root_sum(part.gradient.square() for part in parts)
    update_norm = root_sum(part.update.square() for part in parts)
    rates = {part.rate for part in parts}
    rate = rates.pop() if len(rates) == 1 else _NAN
    nonzero = norm if norm > 0 else _NAN
    weights = kind == "weight"
    return {
        "norm": norm,
        "gradient_norm": gradient_norm,
        "gradient_ratio": gradient_norm / nonzero,
        "update_norm": update_norm,
        "update_ratio": update_norm / nonzero,
        "effective_learning_rate": rate / nonzero / nonzero if weights else _NAN,
        "angular_update": _angle(parts, norm, update_norm) if weights else _NAN,
        "lr": rate,
    }


def _angle(parts: list[_Part], norm: float, update_norm: float) -> float:
    """Between the weights before and after the update; NaN if either is zero, to rounding."""
    after = root_sum((part.weight - part.update).square() for part in parts)
    if not norm > 0 or not after > 4 * _EPS * (norm + update_norm):
        return _NAN
    along = sum(float((part.weight * part.update).sum()) for part in parts) / norm
    across = root_sum((part.update - along / norm * part.weight).square() for part in parts)
    return math.atan2(across, norm - along)
