"""First derivatives through a normalization layer: Facts C.1 and C.2, Theorem 4.1, Observation 4.3, lp Jacobians.

Notation, per unit with batch size m: y the input of the layer, yhat = (y - mean) / s, z = gamma yhat + beta its
output, Lhat(y) = L(z). g = dL/dz and u = dLhat/dy are measured (autograd), never computed from the closed form.
Source of all statements: Santurkar et al. (2018), "How Does Batch Normalization Help Optimization?"
"""

import torch
from torch import Tensor

from alidade.theory.bounds import NOT_COVERED, OK, Bound, Form, Kind, assemble, check_batch, check_form, check_gamma
from alidade.theory.normalization import (
    Epsilon,
    batch_norm,
    coverage,
    dot,
    lp_scale,
    moments,
    squared_norm,
)


def fact_c1(u: Tensor, y: Tensor, g: Tensor, gamma: Tensor, eps: Epsilon = 0.0, form: Form = "corrected") -> Bound:
    """Fact C.1, the gradient through batch normalization (identity; worst entry b of each instance).

        dLhat/dy_b = gamma / (m s) [ m g_b - sum_k g_k - yhat_b sum_k g_k yhat_k ]

    Hypotheses: sigma > 0, m > 1. Printed for eps = 0 (s = sigma); with s = sqrt(var + eps) it holds for eps > 0
    unchanged, which is the corrected form. Source: Fact C.1. Status: holds.

    Args:
        u: dLhat/dy, measured, (instances, m).
        y: Input of the layer, (instances, m).
        g: dL/dz, (instances, m).
        gamma: Gain, (instances,).
        eps: What the layer adds to the variance, one number or (instances,).
        form: "printed v3" or "corrected"; the same formula.

    Returns:
        An identity: lhs is an entry of u, rhs the formula.

    Raises:
        CallError: A shape or the form is wrong.

    Example:
        >>> import torch
        >>> y = torch.tensor([[-1.0, 0.0, 1.0]], dtype=torch.float64, requires_grad=True)
        >>> one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
        >>> z = batch_norm(y, one, zero)
        >>> u, g = torch.autograd.grad((z**3).sum() + z[0, 0], (y, z))
        >>> bound = fact_c1(u, y, g, one)
        >>> round(bound.lhs.item(), 4), round(bound.rhs.item(), 4), bound.violated.tolist()
        (-4.0825, -4.0825, [False])
    """
    check_form(form, "printed v3", "corrected")
    check_batch(y, u=u, g=g)
    check_gamma(gamma, len(y))
    return _through_the_layer(u, y, g, gamma, eps, coverage(y, gamma, u, g))


def fact_c2(
    row: Tensor, sample: Tensor, y: Tensor, gamma: Tensor, eps: Epsilon = 0.0, form: Form = "corrected"
) -> Bound:
    """Fact C.2, the Jacobian of batch normalization, one row of it (identity; worst entry k of each instance).

        dz_b/dy_k = (gamma / s) ( 1[b = k] - 1/m - yhat_b yhat_k / m )

    Hypotheses: sigma > 0, m > 1. Printed for eps = 0 and gamma = 1; with s = sqrt(var + eps) it holds for eps > 0.
    Source: Fact C.2. Status: holds.

    Args:
        row: dz_b/dy, measured, (instances, m).
        sample: b, (instances,) integers.
        y: Input of the layer, (instances, m).
        gamma: Gain, (instances,).
        eps: What the layer adds to the variance, one number or (instances,).
        form: "printed v3" or "corrected"; the same formula.

    Returns:
        An identity: lhs is an entry of the row, rhs the formula.

    Raises:
        CallError: A shape or the form is wrong.

    Example:
        >>> import torch
        >>> y = torch.tensor([[-1.0, 0.0, 1.0]], dtype=torch.float64, requires_grad=True)
        >>> one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
        >>> (row,) = torch.autograd.grad(batch_norm(y, one, zero)[0, 1], y)
        >>> fact_c2(row, torch.tensor([1]), y, one).violated.tolist(), [round(v, 4) for v in row[0].tolist()]
        ([False], [-0.4082, 0.8165, -0.4082])
    """
    check_form(form, "printed v3", "corrected")
    check_batch(y, row=row)
    check_gamma(gamma, len(y))
    unit = torch.nn.functional.one_hot(sample, y.shape[1]).to(y.dtype)
    return _through_the_layer(row, y, unit, gamma, eps, coverage(y, gamma, row))


def _through_the_layer(u: Tensor, y: Tensor, g: Tensor, gamma: Tensor, eps: Epsilon, code: Tensor) -> Bound:
    """Compare u with (gamma / s) (g - mean(g) - yhat <g, yhat> / m), entry by entry."""
    at = moments(y, eps)
    factor = gamma[:, None] / at.s
    terms = {
        "own": factor * g,
        "mean": -factor * g.mean(dim=1, keepdim=True),
        "alignment": -factor * at.yhat * dot(g, at.yhat)[:, None] / at.m,
    }
    return assemble(u, terms, code, "identity", chain_scale(y, g, gamma, eps))


def chain_scale(y: Tensor, g: Tensor, gamma: Tensor, eps: Epsilon = 0.0) -> Tensor:
    """Sum of absolute terms of Fact C.1 written out, (instances, m)."""
    at = moments(y, eps)
    aligned = dot(g.abs(), at.yhat.abs())[:, None] / at.m
    return (gamma[:, None] / at.s).abs() * (g.abs() + g.abs().mean(dim=1, keepdim=True) + at.yhat.abs() * aligned)


def theorem_4_1(u: Tensor, y: Tensor, g: Tensor, gamma: Tensor, eps: Epsilon = 0.0, form: Form = "corrected") -> Bound:
    """Theorem 4.1, the effect of batch normalization on the Lipschitz constant of the loss.

        norm(u)^2 <= (gamma^2 / s^2) ( norm(g)^2 - <1, g>^2 / m - c <g, yhat>^2 )

    with c = 1/sqrt(m) in "printed v3" (false), c = 1/m in "printed v5" (true, and an equality at eps = 0), and
    c = (2 - q)/m, q = norm(yhat)^2 / m, in "corrected", which is an identity for every eps >= 0 (q = 1 at eps = 0).
    Hypotheses: sigma > 0, m > 1, and g is the gradient at the layer's output z. With the gradient of the
    unnormalized network at y in its place the statement fails unless gamma = sigma and beta = mean.
    Source: Theorem 4.1. Status: v3 fails, v5 holds, corrected holds.

    Args:
        u: dLhat/dy, measured, (instances, m).
        y: Input of the layer, (instances, m).
        g: dL/dz, (instances, m).
        gamma: Gain, (instances,).
        eps: What the layer adds to the variance, one number or (instances,).
        form: "printed v3", "printed v5" or "corrected".

    Returns:
        A bound for the printed forms, an identity for the corrected one.

    Raises:
        CallError: A shape or the form is wrong.

    Example:
        >>> import torch
        >>> y = torch.tensor([[-1.0, 1.0]], dtype=torch.float64, requires_grad=True)
        >>> one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
        >>> z = batch_norm(y, one, zero)
        >>> u, g = torch.autograd.grad(z.square().sum() / 2, (y, z))
        >>> [round(theorem_4_1(u, y, g, one, form=f).slack.item(), 4) for f in ("printed v3", "printed v5")]
        [-0.8284, 0.0]
    """
    check_form(form)
    check_batch(y, u=u, g=g)
    check_gamma(gamma, len(y))
    at = moments(y, eps)
    factor = (gamma / at.s[:, 0]).square()
    weight = {"printed v3": at.m**-0.5, "printed v5": 1 / at.m, "corrected": (2 - at.fullness) / at.m}[form]
    terms = {
        "norm": factor * squared_norm(g),
        "mean": -factor * g.sum(dim=1).square() / at.m,
        "alignment": -factor * weight * dot(g, at.yhat).square(),
    }
    kind: Kind = "identity" if form == "corrected" else "bound"
    return assemble(squared_norm(u), terms, coverage(y, gamma, u, g), kind)


def observation_4_3(y: Tensor, eps: Epsilon = 0.0, form: Form = "corrected") -> Bound:
    """Observation 4.3, batch normalization can be set to do nothing (identity; worst entry of each instance).

        gamma = s and beta = mean(y)  =>  z = y

    so every loss, and every minimum, of the unnormalized network is one of the normalized network at some
    (W, gamma, beta); not at fixed gamma and beta. Hypotheses: sigma > 0, m > 1. The paper names gamma = sigma and
    leaves the needed beta unsaid; with eps > 0 gamma must be sqrt(var + eps) ("corrected").
    Source: Observation 4.3. Status: holds.

    Args:
        y: Input of the layer, (instances, m).
        eps: What the layer adds to the variance, one number or (instances,).
        form: "printed v3" (gamma = sigma) or "corrected" (gamma = sqrt(var + eps)).

    Returns:
        An identity: lhs is an entry of the layer's output, rhs the same entry of y.

    Raises:
        CallError: A shape or the form is wrong.

    Example:
        >>> import torch
        >>> y = torch.tensor([[1.0, 2.0, 6.0]], dtype=torch.float64)
        >>> observation_4_3(y).violated.item(), observation_4_3(y, 0.5, "printed v3").violated.item()
        (False, True)
    """
    check_form(form, "printed v3", "corrected")
    check_batch(y)
    at = moments(y, eps if form == "corrected" else 0.0)
    gamma = at.s[:, 0]
    terms = {"centred": y - at.mean, "mean": at.mean.expand_as(y)}
    return assemble(batch_norm(y, gamma, at.mean[:, 0], eps), terms, coverage(y, gamma), "identity")


def lp_jacobian(u: Tensor, y: Tensor, g: Tensor, gamma: Tensor, p: float, form: Form = "corrected") -> Bound:
    """Gradient through lp normalization (identity; worst entry of each instance).

        dLhat/dy = (gamma / s) [ g - mean(g) 1 - (ds/dy) <c, g> ],  c = (y - mean) / s,
        ds/dy = sign(y) / m  |  y / (m s)  |  sign(y_k) e_k at k = argmax abs(y)     for p = 1 | 2 | inf

    Hypotheses: s > 0; p = 1: no y_b = 0; p = inf: one largest abs(y). There is no projector here, so the clean form
    of Theorem 4.1 does not carry over. Source: ours, for Santurkar et al. (2018), section 3.3, which prints no
    formula. Status: holds.

    Args:
        u: dLhat/dy, measured, (instances, m).
        y: Input of the layer, (instances, m).
        g: dL/dz, (instances, m).
        gamma: Gain, (instances,).
        p: 1, 2 or inf.
        form: "corrected", the only one.

    Returns:
        An identity: lhs is an entry of u, rhs the formula.

    Raises:
        CallError: A shape, p or the form is wrong.

    Example:
        >>> import torch
        >>> from alidade.theory import lp_norm
        >>> y = torch.tensor([[-1.0, 0.5, 3.0]], dtype=torch.float64, requires_grad=True)
        >>> one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
        >>> z = lp_norm(y, one, zero, float("inf"))
        >>> u, g = torch.autograd.grad((z**3).sum(), (y, z))
        >>> lp_jacobian(u, y, g, one, float("inf")).violated.item(), [round(v, 3) for v in u[0].tolist()]
        (False, [0.071, -0.29, 0.072])
    """
    check_form(form, "corrected")
    check_batch(y, u=u, g=g)
    check_gamma(gamma, len(y))
    m, s = y.shape[1], lp_scale(y, p)
    code = coverage(y, gamma, u, g)
    if p == 1:
        slope = y.sign() / m
        code = torch.where((code == OK) & (y == 0).any(dim=1), NOT_COVERED, code)
    elif p == 2:
        slope = y / (m * s)
    else:
        largest = y.abs() == s
        slope = y.sign() * largest
        code = torch.where((code == OK) & (largest.sum(dim=1) > 1), NOT_COVERED, code)
    s = torch.where(s > 0, s, 1.0)
    factor, c = gamma[:, None] / s, (y - y.mean(dim=1, keepdim=True)) / s
    terms = {
        "own": factor * g,
        "mean": -factor * g.mean(dim=1, keepdim=True),
        "slope": -factor * slope * dot(c, g)[:, None],
    }
    aligned = slope.abs() * dot(c.abs(), g.abs())[:, None]
    scale = factor.abs() * (g.abs() + g.abs().mean(dim=1, keepdim=True) + aligned)
    return assemble(u, terms, code, "identity", scale)
