"""Second derivatives through batch normalization: Theorem 4.2 in both forms, and the full Hessian of a unit.

Notation as in `gradients`; H = d2L/dz2 and Hhat = d2Lhat/dy2 are the (m, m) blocks of one unit, known here only by
their products with vectors, which autograd measures. Q = I - 11'/m - yhat yhat'/m; at eps = 0 it is the projector P.
Source of all statements: Santurkar et al. (2018).
"""

import torch
from torch import Tensor

from alidade.theory.bounds import NOT_COVERED, OK, Bound, Form, Kind, assemble, check_batch, check_form, check_gamma
from alidade.theory.normalization import Epsilon, Moments, coverage, dot, moments, project, squared_norm


def theorem_4_2(
    Hhat_u: Tensor,
    H_Qu: Tensor,
    u: Tensor,
    y: Tensor,
    g: Tensor,
    gamma: Tensor,
    eps: Epsilon = 0.0,
    form: Form = "corrected",
) -> Bound:
    """Theorem 4.2, first form: the curvature of the loss in the direction of its own gradient.

        printed      u'Hhat u <= (gamma^2 / sigma^2) u'H u - gamma / (m sigma^2) <g, yhat> norm(u)^2
        corrected    u'Hhat u  = (gamma^2 / s^2) (Qu)'H(Qu)
                                 - gamma / (m s^2) <g, yhat> [ (3 - 2 q) norm(u)^2 - <yhat, u>^2 / m ]

    At eps = 0, q = 1, Qu = u and <yhat, u> = 0, so that the corrected form is the printed one with "=" for "<=".
    Hypotheses: sigma > 0, m > 1; nothing about H. Source: Theorem 4.2. Status: holds, with equality.

    Args:
        Hhat_u: Hhat u, measured, (instances, m).
        H_Qu: H (Q u), measured, (instances, m); the printed form takes H u, the same at eps = 0.
        u: dLhat/dy, (instances, m).
        y: Input of the layer, (instances, m).
        g: dL/dz, (instances, m).
        gamma: Gain, (instances,).
        eps: What the layer adds to the variance, one number or (instances,).
        form: "printed v3" or "corrected".

    Returns:
        A bound for the printed form, an identity for the corrected one.

    Raises:
        CallError: A shape or the form is wrong.

    Example:
        >>> import torch
        >>> from alidade.theory import batch_norm
        >>> y = torch.tensor([[-1.0, 0.0, 1.0]], dtype=torch.float64, requires_grad=True)
        >>> one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
        >>> z = batch_norm(y, one, zero)
        >>> u, g = torch.autograd.grad((z**3).sum() + z[0, 0], (y, z), create_graph=True)
        >>> v = u.detach()
        >>> Hhat_u, H_u = (torch.autograd.grad(d, at, v, retain_graph=True)[0] for d, at in ((u, y), (g, z)))
        >>> bound = theorem_4_2(Hhat_u, H_u, v, y.detach(), g.detach(), one)
        >>> round(bound.lhs.item(), 4), round(bound.rhs.item(), 4)
        (15.3093, 15.3093)
    """
    check_form(form, "printed v3", "corrected")
    check_batch(y, Hhat_u=Hhat_u, H_Qu=H_Qu, u=u, g=g)
    check_gamma(gamma, len(y))
    at = moments(y, eps)
    factor, pull = (gamma / at.s[:, 0]).square(), gamma / (at.m * at.s[:, 0].square())
    size, aligned = squared_norm(u), pull * dot(g, at.yhat)
    Qu = u
    kind: Kind = "bound"
    terms = {"pull": -aligned * size}
    if form == "corrected":
        Qu = project(u, at)
        kind = "identity"
        terms["pull"] = -aligned * ((3 - 2 * at.fullness) * size - dot(at.yhat, u).square() / at.m)
    terms["curvature"] = factor * dot(Qu, H_Qu)
    scale = _product_scale(u, H_Qu, y, g, gamma, at)
    return assemble(dot(u, Hhat_u), terms, coverage(y, gamma, u, g), kind, scale)


def _product_scale(u: Tensor, H_Qu: Tensor, y: Tensor, g: Tensor, gamma: Tensor, at: Moments) -> Tensor:
    """Sum of absolute terms of u'Hhat u, with one factor u written out by Fact C.1 before its terms cancel."""
    factor, pull = (gamma / at.s[:, 0]).square(), (gamma / (at.m * at.s[:, 0].square())).abs()
    whole = gamma.abs() / at.s[:, 0] * squared_norm(g).sqrt()
    size = squared_norm(u).sqrt()
    return factor * whole * squared_norm(H_Qu).sqrt() + pull * dot(g.abs(), at.yhat.abs()) * whole * size


def theorem_4_2_second(
    Hhat_u: Tensor,
    H_u: Tensor,
    H_g: Tensor,
    u: Tensor,
    y: Tensor,
    g: Tensor,
    gamma: Tensor,
    form: Form = "corrected",
) -> Bound:
    """Theorem 4.2, second form: the same in terms of the gradient before normalization.

        printed      u'Hhat u <= (gamma^2 / sigma^2) ( g'H g - <g, yhat> norm(u)^2 / (m gamma) )
        corrected    u'Hhat u <= (gamma^2 / sigma^2) ( (gamma^2 / sigma^2) g'H g - <g, yhat> norm(u)^2 / (m gamma) )

    Hypotheses: sigma > 0, m > 1, eps = 0, and "H preserves the relative norms of g and u", read as
    0 <= u'H u / norm(u)^2 <= g'H g / norm(g)^2 (with equality for H = k I). The printed form then needs
    gamma <= sigma; the corrected one does not. Source: Theorem 4.2, last line. Status: printed fails for
    gamma > sigma, corrected holds.

    Args:
        Hhat_u: Hhat u, measured, (instances, m).
        H_u: H u, measured, (instances, m).
        H_g: H g, measured, (instances, m).
        u: dLhat/dy, (instances, m).
        y: Input of the layer, (instances, m).
        g: dL/dz, (instances, m).
        gamma: Gain, (instances,).
        form: "printed v3" or "corrected".

    Returns:
        A bound; instances outside the hypothesis have the status that says so.

    Raises:
        CallError: A shape or the form is wrong.

    Example:
        >>> import torch
        >>> y = torch.tensor([[-1.0, 0.0, 1.0]], dtype=torch.float64)
        >>> g, gamma = torch.tensor([[1.0, -2.0, 1.0]], dtype=torch.float64), torch.tensor([6.0**0.5]).double()
        >>> u = 3 * g                   # gamma = 3 sigma and g is orthogonal to 1 and yhat; H = I, Hhat u = 9 u - ...
        >>> [theorem_4_2_second(9 * u, u, g, u, y, g, gamma, f).slack.item() for f in ("printed v3", "corrected")]
        [-432.0, 0.0]
    """
    check_form(form, "printed v3", "corrected")
    check_batch(y, Hhat_u=Hhat_u, H_u=H_u, H_g=H_g, u=u, g=g)
    check_gamma(gamma, len(y))
    at = moments(y)
    factor, pull = (gamma / at.s[:, 0]).square(), gamma / (at.m * at.s[:, 0].square())
    size, before = squared_norm(u), dot(g, H_g)
    terms = {
        "curvature": factor * before * (factor if form == "corrected" else 1.0),
        "pull": -pull * dot(g, at.yhat) * size,
    }
    along_u, along_g = dot(u, H_u) * squared_norm(g), before * size
    rounding = 8 * at.m * torch.finfo(y.dtype).eps  # two sums of m products each, for the case of equality
    covered = (along_u >= 0) & (along_u <= along_g * (1 + rounding))
    code = coverage(y, gamma, u, g)
    code = torch.where((code == OK) & ~covered, NOT_COVERED, code)
    scale = terms["curvature"].abs() + _product_scale(u, H_u, y, g, gamma, at)
    return assemble(dot(u, Hhat_u), terms, code, "bound", scale)


def block_hessian(
    Hhat: Tensor, H: Tensor, y: Tensor, g: Tensor, gamma: Tensor, eps: Epsilon = 0.0, form: Form = "corrected"
) -> Bound:
    """The whole Hessian of a unit, entry by entry (identity; worst entry of each instance).

        corrected    Hhat = (gamma^2 / s^2) Q H Q - gamma / (m s^2) [ (Qg) yhat' + yhat (Qg)' + <g, yhat> Q ]
        printed      the same in terms of the centred gradient c = g - mean(g):
                     ... [ c yhat' + yhat c' + <g, yhat> (I - 11'/m) - (3/m) <g, yhat> yhat yhat' ]

    Hypotheses: sigma > 0, m > 1. Source: equations (41)-(42). Status: holds, for eps > 0 too.

    Args:
        Hhat: d2Lhat/dy2, measured, (instances, m, m).
        H: d2L/dz2, measured, (instances, m, m).
        y: Input of the layer, (instances, m).
        g: dL/dz, (instances, m).
        gamma: Gain, (instances,).
        eps: What the layer adds to the variance, one number or (instances,).
        form: "printed v3" or "corrected"; two ways to write one matrix.

    Returns:
        An identity: lhs is an entry of Hhat, rhs the formula.

    Raises:
        CallError: A shape or the form is wrong.

    Example:
        >>> import torch
        >>> from alidade.theory import batch_norm
        >>> y, one = torch.tensor([[-1.0, 0.0, 2.0]]).double(), torch.ones(1).double()
        >>> loss = lambda y: batch_norm(y[None], one, one).square().sum() + batch_norm(y[None], one, one)[0, 0]
        >>> Hhat = torch.autograd.functional.hessian(loss, y[0])[None]
        >>> z = batch_norm(y, one, one)
        >>> g = 2 * z + torch.tensor([[1.0, 0.0, 0.0]])
        >>> block_hessian(Hhat, 2 * torch.eye(3).double()[None], y, g, one).violated.item()
        False
    """
    check_form(form, "printed v3", "corrected")
    check_batch(y, g=g)
    check_gamma(gamma, len(y))
    at = moments(y, eps)
    eye = torch.eye(at.m, dtype=y.dtype, device=y.device)
    rank_one = outer(at.yhat, at.yhat)
    Q = eye - 1 / at.m - rank_one / at.m
    factor = (gamma / at.s[:, 0]).square()[:, None, None]
    pull = (gamma / (at.m * at.s[:, 0].square()))[:, None, None]
    aligned = dot(g, at.yhat)[:, None, None]
    terms = {"curvature": factor * (Q @ H @ Q)}
    if form == "corrected":
        Qg = project(g, at)
        terms |= {
            "left": -pull * outer(Qg, at.yhat),
            "right": -pull * outer(at.yhat, Qg),
            "pull": -pull * aligned * Q,
        }
    else:
        c = g - g.mean(dim=1, keepdim=True)
        terms |= {
            "left": -pull * outer(c, at.yhat),
            "right": -pull * outer(at.yhat, c),
            "pull": -pull * aligned * (eye - 1 / at.m),
            "three": pull * aligned * 3 / at.m * rank_one,
        }
    absolute_Q = eye + 1 / at.m + rank_one.abs() / at.m
    Qg = g.abs() + g.abs().mean(dim=1, keepdim=True) + at.yhat.abs() * dot(g.abs(), at.yhat.abs())[:, None] / at.m
    sides = outer(Qg, at.yhat.abs())
    pulled = sides + sides.mT + dot(g.abs(), at.yhat.abs())[:, None, None] * absolute_Q
    scale = factor * (absolute_Q @ H.abs() @ absolute_Q) + pull.abs() * pulled
    return assemble(Hhat, terms, coverage(y, gamma, g, H, Hhat), "identity", scale)


def outer(a: Tensor, b: Tensor) -> Tensor:
    """Outer product of each pair of rows, (instances, m, m)."""
    return a[:, :, None] * b[:, None, :]


def block_hessian_form(
    a: Tensor,
    b: Tensor,
    Hhat_b: Tensor,
    H_Qb: Tensor,
    y: Tensor,
    g: Tensor,
    gamma: Tensor,
    eps: Epsilon = 0.0,
    form: Form = "corrected",
) -> Bound:
    """The Hessian of a unit by a bilinear form a'Hhat b, for batches too large for the matrix (identity).

        a'Hhat b = (gamma^2 / s^2) (Qa)'H(Qb)
                   - gamma / (m s^2) [ <a, Qg><yhat, b> + <a, yhat><Qg, b> + <g, yhat> a'Q b ]

    Hypotheses: sigma > 0, m > 1. A wrong matrix agrees at random a, b with probability 0.
    Source: equations (41)-(42), between two vectors. Status: holds, for eps > 0 too.

    Args:
        a: Any vectors, (instances, m).
        b: Any vectors, (instances, m).
        Hhat_b: Hhat b, measured, (instances, m).
        H_Qb: H (Q b), measured, (instances, m).
        y: Input of the layer, (instances, m).
        g: dL/dz, (instances, m).
        gamma: Gain, (instances,).
        eps: What the layer adds to the variance, one number or (instances,).
        form: "printed v3" or "corrected"; the same matrix.

    Returns:
        An identity: lhs is a'Hhat b, rhs the formula.

    Raises:
        CallError: A shape or the form is wrong.

    Example:
        >>> import torch
        >>> y = torch.tensor([[-1.0, 0.0, 1.0]], dtype=torch.float64)
        >>> g, one = torch.tensor([[1.0, -2.0, 1.0]], dtype=torch.float64), torch.ones(1, dtype=torch.float64)
        >>> none = torch.zeros_like(y)       # H = 0: a linear loss <g, z>, so Hhat y = -u, Euler's relation
        >>> u = g / (2 / 3) ** 0.5
        >>> block_hessian_form(g, y, -u, none, y, g, one).violated.item()
        False
    """
    check_form(form, "printed v3", "corrected")
    check_batch(y, a=a, b=b, Hhat_b=Hhat_b, H_Qb=H_Qb, g=g)
    check_gamma(gamma, len(y))
    at = moments(y, eps)
    factor, pull = (gamma / at.s[:, 0]).square(), gamma / (at.m * at.s[:, 0].square())
    Qa, Qg, Qb = project(a, at), project(g, at), project(b, at)
    terms = {
        "curvature": factor * dot(Qa, H_Qb),
        "left": -pull * dot(a, Qg) * dot(at.yhat, b),
        "right": -pull * dot(a, at.yhat) * dot(Qg, b),
        "pull": -pull * dot(g, at.yhat) * dot(a, Qb),
    }
    norms = squared_norm(a).sqrt() * squared_norm(b).sqrt() * squared_norm(g).sqrt() * at.m**0.5
    scale = factor * squared_norm(a).sqrt() * squared_norm(H_Qb).sqrt() + pull.abs() * norms
    return assemble(dot(a, Hhat_b), terms, coverage(y, gamma, g, a, b), "identity", scale)
