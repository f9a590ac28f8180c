"""Curvature along one direction: of the gradient, of an update, of anything given; and where the gradient lies."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from alidade.core.curvature import UNIT, Curvature, TopEigenvalues
from alidade.core.errors import CallError, RefusedError, brief
from alidade.landscape.curvature.operator import CurvatureOperator, Matrix
from alidade.landscape.objective import Objective


@torch.inference_mode(mode=False)
def directional_curvature(
    objective: Objective,
    v: Mapping[str, Tensor],
    *,
    matrix: Matrix = "hessian",
    quantity: str = "directional_curvature",
) -> Curvature:
    r""":math:`v^\top H v / v^\top v`, the second derivative along v: the limit of a line profile's for small steps.

    Args:
        objective: the loss.
        v: one tensor per trainable parameter; its length does not matter.
        matrix: "hessian" or "gauss_newton".
        quantity: name in the tidy table.

    Raises:
        CallError: a direction of the wrong names or shapes.
        RefusedError: a loss or product that is not finite; an objective that is not deterministic.

    Along v = 0 it is NaN, "undefined". Cost: one product, about four forward and backward passes.

    >>> from torch import nn
    >>> model = nn.Linear(2, 1, bias=False).double()
    >>> stretch = torch.diag(torch.tensor([2.0, 1.0])).double()
    >>> objective = Objective(model, lambda model, x: model(x).square().sum() / 2, stretch)
    >>> directional_curvature(objective, {"weight": torch.tensor([[3.0, 0.0]]).double()}).value
    4.0
    """
    operator = CurvatureOperator(objective, matrix=matrix)
    vector = operator.block.checked(v)
    return _quotient(operator, vector, vector, quantity, UNIT)


@torch.inference_mode(mode=False)
def batch_sharpness(objective: Objective | CurvatureOperator) -> Curvature:
    r""":math:`g^\top H g / g^\top g` along the gradient of the same batch (Andreyev & Beneventano 2024).

    For plain gradient descent on this batch a value above 2 / lr says that the quadratic model's loss rises. Averaged
    over batches it is what stands at 2 / lr in the training with mini-batches, where the eigenvalue stays below.

    Raises:
        RefusedError: a loss or product that is not finite; an objective that is not deterministic.

    NaN, "undefined", where the gradient is 0. Cost: one product, about four forward and backward passes; with an
    operator whose graph is kept, two.

    >>> from torch import nn
    >>> model = nn.Linear(2, 1, bias=False).double()
    >>> _ = model.weight.data.copy_(torch.tensor([[1.0, 0.0]]))
    >>> stretch = torch.diag(torch.tensor([2.0, 1.0])).double()
    >>> batch_sharpness(Objective(model, lambda model, x: model(x).square().sum() / 2, stretch)).value
    4.0
    """
    operator = objective if isinstance(objective, CurvatureOperator) else CurvatureOperator(objective)
    gradient = gradient_of(operator)
    return _quotient(operator, gradient, gradient, "batch_sharpness", UNIT)


@torch.inference_mode(mode=False)
def step_sharpness(objective: Objective | CurvatureOperator, update: Mapping[str, Tensor]) -> Curvature:
    r""":math:`d^\top H d / \langle d, g\rangle` for the update d, by which :math:`\theta` becomes :math:`\theta - d`.

    The infinitesimal twin of a line profile's step curvature: above 2 the quadratic model says that this step raises
    the loss, with any optimizer. For plain gradient descent it is lr times the batch sharpness. Negative where the
    step goes uphill or the curvature is negative; NaN, "undefined", across the gradient.

    Raises:
        CallError: an update of the wrong names or shapes.
        RefusedError: a loss or product that is not finite; an objective that is not deterministic.

    Cost: as :func:`batch_sharpness`.

    >>> from torch import nn
    >>> model = nn.Linear(2, 1, bias=False).double()
    >>> _ = model.weight.data.copy_(torch.tensor([[1.0, 0.0]]))
    >>> stretch = torch.diag(torch.tensor([2.0, 1.0])).double()
    >>> objective = Objective(model, lambda model, x: model(x).square().sum() / 2, stretch)
    >>> step_sharpness(objective, {"weight": 0.25 * objective.gradient()["weight"]}).value  # lr 0.25 times 4
    1.0
    """
    operator = objective if isinstance(objective, CurvatureOperator) else CurvatureOperator(objective)
    vector = operator.block.checked(update)
    return _quotient(operator, vector, gradient_of(operator), "step_sharpness", "1")


def gradient_overlap(objective: Objective | CurvatureOperator, top: TopEigenvalues) -> Curvature:
    r""":math:`\|P_k g\| / \|g\|`: the gradient's share in the span of k eigenvectors (Gur-Ari et al. 2018).

    Args:
        objective: the loss, or the operator that they were found with.
        top: eigenvectors, converged, of this objective; those of a block are compared with that block of the gradient.

    Raises:
        CallError: eigenvectors of the wrong names or shapes, or none.
        RefusedError: eigenvectors that are not converged.

    NaN, "undefined", where the gradient is 0. Cost: one forward and backward pass; none with an operator whose graph is
    kept.

    >>> from torch import nn
    >>> from alidade.landscape.curvature.eigenvalues import top_eigenvalues
    >>> model = nn.Linear(2, 1, bias=False).double()
    >>> _ = model.weight.data.copy_(torch.tensor([[1.0, 3.0]]))
    >>> stretch = torch.diag(torch.tensor([2.0, 1.0])).double()
    >>> objective = Objective(model, lambda model, x: model(x).square().sum() / 2, stretch)  # the gradient is (4, 3)
    >>> round(gradient_overlap(objective, top_eigenvalues(objective)).value, 4)
    0.8
    """
    if not isinstance(top, TopEigenvalues):
        raise CallError(f"top: expected what top_eigenvalues() returned, got {brief(top)}")
    if not top.eigenvectors:
        raise CallError("top: expected at least one eigenvector, got none")
    if not top.converged:
        reason = top.problem or f"status {', '.join(top.status)}; allow more matvecs"
        raise RefusedError(f"gradient_overlap: expected converged eigenvectors, got {reason}")
    if isinstance(objective, CurvatureOperator):
        operator, gradient = objective, gradient_of(objective).double()
    else:
        operator = CurvatureOperator(objective, names=list(top.eigenvectors[0]))
        gradient = operator.block.flat(objective.gradient()).double()
    frame = torch.stack([operator.block.checked(v) for v in top.eigenvectors]).double()
    inside = torch.linalg.qr(frame.T).Q.T @ gradient
    length = float(gradient.norm())
    share = float(inside.norm()) / length if length > 0 else float("nan")
    return Curvature(min(share, 1.0), "gradient_overlap", "1", 0, "gradient", operator.provenance)


def gradient_of(operator: CurvatureOperator) -> Tensor:
    """The gradient as a flat vector: from the operator's graph if it has one, else from a pass of its own."""
    known = operator.gradient()
    return operator.block.flat(operator.objective.gradient()) if known is None else known


def _quotient(operator: CurvatureOperator, d: Tensor, beside: Tensor, quantity: str, unit: str) -> Curvature:
    """The quotient d'Hd / <d, beside>; d is scaled to length 1 for the product, as differences need it."""
    before, length, under = operator.matvecs, float(d.double().norm()), float(torch.dot(d.double(), beside.double()))
    value = float("nan")
    if length > 0 and under != 0:
        unit_d = d / length
        value = float(torch.dot(unit_d.double(), operator.matvec(unit_d).double())) * length**2 / under
    return Curvature(
        value, quantity, unit, operator.matvecs - before, operator.route, operator.provenance, operator.problem
    )
