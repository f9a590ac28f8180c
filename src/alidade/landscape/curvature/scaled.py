"""Sharpness as the optimizer sees it, and on the sphere for networks that ignore the length of their weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from alidade.core.curvature import TopEigenvalues
from alidade.core.errors import CallError, RefusedError
from alidade.core.records import Provenance
from alidade.landscape.arguments import check_objective
from alidade.landscape.curvature.block import Block
from alidade.landscape.curvature.eigenvalues import top_eigenvalues
from alidade.landscape.curvature.operator import CurvatureOperator
from alidade.landscape.differentiation import Tensors
from alidade.landscape.isolation import public_name
from alidade.landscape.objective import Objective
from alidade.landscape.shards import whole

#: Two losses that differ by more than this, relatively, are not those of a network that ignores a factor of 2.
SAME_LOSS = 1e-2


class ScaledOperator:
    """S H S with a diagonal S: the Hessian in coordinates where each weight has a unit of its own."""

    def __init__(self, operator: CurvatureOperator, scale: Tensor) -> None:
        self._operator, self._scale = operator, scale
        self.block: Block = operator.block
        self.dimension, self.matvecs = operator.dimension, 0

    @property
    def route(self) -> str:
        """That of the operator inside."""
        return self._operator.route

    @property
    def problem(self) -> str | None:
        """That of the operator inside."""
        return self._operator.problem

    @property
    def provenance(self) -> Provenance:
        """That of the operator inside."""
        return self._operator.provenance

    def matvec(self, vector: Tensor) -> Tensor:
        """One product of the operator inside."""
        self.matvecs += 1
        return self._scale * self._operator.matvec(self._scale * vector)

    def repeated(self) -> AbstractContextManager[None]:
        """That of the operator inside."""
        return self._operator.repeated()

    def gradient(self) -> Tensor | None:
        """The gradient in these coordinates."""
        gradient = self._operator.gradient()
        return None if gradient is None else self._scale * gradient


def preconditioned_sharpness(
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    k: int = 1,
    rtol: float = 1e-3,
    max_matvecs: int = 500,
    start: Sequence[Mapping[str, Tensor]] | TopEigenvalues | None = None,
) -> TopEigenvalues:
    r"""Largest eigenvalues of :math:`P^{-1/2} H P^{-1/2}` with the preconditioner P of an adaptive optimizer.

    With second moments v and counter t from the optimizer's own state, after t steps:

    * Adam, AdamW: :math:`P = (1 - \beta_1^t) \left(\sqrt{v / (1 - \beta_2^t)} + \epsilon\right)`, and the largest v so
      far with ``amsgrad`` (Cohen et al. 2022, arXiv:2207.14484, eq. 2);
    * RMSprop: :math:`P = \sqrt v + \epsilon`, ``centered``: :math:`\sqrt{v - \bar g^2} + \epsilon`.

    The optimizer's step is then lr times :math:`P^{-1}` times the (averaged) gradient, so on a quadratic loss
    full-batch RMSprop without momentum is stable up to 2 / lr, and Adam up to
    :math:`(2 + 2\beta_1) / ((1 - \beta_1)\, \mathrm{lr})`, which is 38 / lr at :math:`\beta_1 = 0.9`. Weight decay is
    no part of H.

    Args:
        objective: the loss; every trainable parameter must be the optimizer's.
        optimizer: Adam, AdamW or RMSprop; its state is read and not changed.
        k: see :func:`top_eigenvalues`, as are the other arguments.
        rtol: of the residual.
        max_matvecs: products at most.
        start: eigenvectors from before, in these coordinates.

    Raises:
        CallError: another optimizer, or a parameter that it does not hold.
        RefusedError: no step has been taken yet; and as :func:`top_eigenvalues`.

    Unit: lr times the value is a pure number. Cost: as :func:`top_eigenvalues`.

    >>> from torch import nn
    >>> model = nn.Linear(2, 1, bias=False).double()
    >>> optimizer = torch.optim.RMSprop(model.parameters(), lr=0.0, alpha=0.0, eps=0.0)
    >>> x = torch.diag(torch.tensor([2.0, 1.0])).double()
    >>> model(x).sum().backward()  # the gradient is (2, 1), so that P is diag(2, 1)
    >>> optimizer.step()
    >>> sharp = preconditioned_sharpness(Objective(model, lambda model, x: model(x).square().sum() / 2, x), optimizer)
    >>> round(float(sharp.eigenvalues[0]), 6)  # of diag(4, 1) / diag(2, 1)
    2.0
    """
    operator = CurvatureOperator(objective)
    preconditioner = operator.block.flat(_preconditioner(objective, optimizer))
    if not bool((preconditioner > 0).all()):
        raise RefusedError(
            "preconditioned_sharpness: expected second moments above 0, got a 0 with eps = 0; "
            "take a step with a gradient"
        )
    top = top_eigenvalues(ScaledOperator(operator, preconditioner.rsqrt()), k, "largest", rtol, max_matvecs, start)
    return replace(top, quantity="preconditioned_sharpness", unit="1/lr")


def _preconditioner(objective: Objective, optimizer: torch.optim.Optimizer) -> Tensors:
    rule = next((rule for kind, rule in _RULES.items() if type(optimizer) is kind), None)
    if rule is None:
        known = ", ".join(kind.__name__ for kind in _RULES)
        raise CallError(f"optimizer: expected one of {known}, got {type(optimizer).__name__}")
    live = {id(p): public_name(name) for name, p in objective.model.named_parameters()}
    found: Tensors = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            name = live.get(id(parameter))
            if name is not None and parameter.requires_grad:
                found[name] = rule(_state(optimizer, parameter, name), group).detach()
    missing = sorted(set(objective.parameters) - set(found))
    if missing:
        raise CallError(f"optimizer: expected every trainable parameter of the model in it, missing {missing[:3]}")
    return whole(found, objective.ranks)


def _state(optimizer: torch.optim.Optimizer, parameter: Tensor, name: str) -> dict[str, Any]:
    state: dict[str, Any] = optimizer.state.get(parameter, {})
    if not state:
        raise RefusedError(
            f"preconditioned_sharpness: expected second moments of {name!r}, got none; take an optimizer step first"
        )
    return state


def _adam(state: dict[str, Any], group: dict[str, Any]) -> Tensor:
    steps, (first, second) = float(state["step"]), (float(beta) for beta in group["betas"])
    moments: Tensor = state["max_exp_avg_sq"] if group["amsgrad"] else state["exp_avg_sq"]
    corrected = moments.sqrt() / math.sqrt(1 - second**steps) + group["eps"]
    found: Tensor = (1 - first**steps) * corrected
    return found


def _rmsprop(state: dict[str, Any], group: dict[str, Any]) -> Tensor:
    moments: Tensor = state["square_avg"]
    if group["centered"]:
        moments = moments - state["grad_avg"].square()
    found: Tensor = moments.sqrt() + group["eps"]
    return found


_RULES = {torch.optim.Adam: _adam, torch.optim.AdamW: _adam, torch.optim.RMSprop: _rmsprop}


def spherical_sharpness(
    objective: Objective,
    names: Sequence[str] | None = None,
    k: int = 1,
    rtol: float = 1e-3,
    max_matvecs: int = 500,
    start: Sequence[Mapping[str, Tensor]] | TopEigenvalues | None = None,
) -> TopEigenvalues:
    r"""Largest eigenvalues of the Hessian at :math:`\theta / \|\theta\|`, for weights whose length the loss ignores.

    By :math:`L(c\,\theta) = L(\theta)` this is :math:`\|\theta\|^2` times the Hessian's at :math:`\theta`, and
    unlike that one it does not change when the weights are rescaled (Lyu, Li & Arora 2022, NeurIPS, sec. 3).

    Args:
        objective: the loss.
        names: the weights whose common length is ignored, such as those before normalization layers
            (parameters or modules); the others stay where they are. None is every parameter.
        k: see :func:`top_eigenvalues`, as are the other arguments.
        rtol: of the residual.
        max_matvecs: products at most.
        start: eigenvectors from before.

    Raises:
        CallError: a name that no parameter answers to.
        RefusedError: the loss changes when these weights are doubled; weights that are all 0; and as
            :func:`top_eigenvalues`.

    Unit: nat. Cost: two forward passes more than :func:`top_eigenvalues`.

    >>> from torch import nn
    >>> model = nn.Linear(2, 1, bias=False).double()
    >>> _ = model.weight.data.copy_(torch.tensor([[0.0, 5.0]]))
    >>> def angle(model, batch):  # the cosine with the first axis, squared, whatever the length
    ...     return model.weight[0, 0] ** 2 / model.weight.square().sum()
    >>> round(float(spherical_sharpness(Objective(model, angle, None)).eigenvalues[0]), 6)
    2.0
    """
    check_objective(objective)
    block = Block(objective.parameters, names)
    length = float(block.flat(block.parameters).double().norm())
    if length == 0:
        raise RefusedError("spherical_sharpness: expected weights that are not all 0, which have no direction")
    here, doubled = float(objective.value()), float(_times(objective, block, 2.0).value())
    if not abs(doubled - here) <= SAME_LOSS * abs(here):
        raise RefusedError(
            f"spherical_sharpness: expected a loss that ignores the length of these weights, got {here:.6g} and "
            f"{doubled:.6g} at twice the length; name the weights before normalization layers"
        )
    # The Hessian at c theta is 1 / c^2 times the one at theta; a norm's eps is kept small beside the weights this way.
    operator = CurvatureOperator(objective, names)
    scale = torch.full((block.dimension,), length, dtype=block.dtype, device=block.device)
    top = top_eigenvalues(ScaledOperator(operator, scale), k, "largest", rtol, max_matvecs, start)
    return replace(top, quantity="spherical_sharpness", unit="nat")


def _times(objective: Objective, block: Block, factor: float) -> Objective:
    return objective.moved_to(
        {name: factor * p if name in block.parameters else p for name, p in objective.parameters.items()}
    )
