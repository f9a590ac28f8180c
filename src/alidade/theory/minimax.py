"""Theorem C.1 and its equation (58): the worst curvature with respect to the weights, over inputs of bounded norm.

With the activation-space gradient v and Hessian A of a unit held fixed while its input X (m, d) varies, the
weight-space quadratic form is (X'v)'(X'A X)(X'v) = r'A r with r = X X'v. Over norm(X) <= lambda the vector r runs
through the ball with centre lambda^2 v / 2 and radius lambda^2 norm(v) / 2, and every r of it is reached by the
rank-one X = r e'/sqrt(<r, v>). Equation (58) takes r = lambda^2 v, one point of that ball.
Source of all statements: Santurkar et al. (2018), appendix C.
"""

import torch
from torch import Tensor

from alidade.core.errors import CallError
from alidade.theory.bounds import NOT_COVERED, OK, Bound, Form, assemble, check_batch, check_form
from alidade.theory.normalization import dot, squared_norm

ASCENT_STEPS = 40


def largest_weight_form(v: Tensor, A: Tensor, radius: float = 1.0, steps: int = ASCENT_STEPS) -> Tensor:
    """The largest weight-space quadratic form found over norm(X) <= radius, a lower bound of the maximum.

    Starts at equation (58)'s own point and climbs on the ball's surface: maximizing the linear part of
    r'A r + alpha norm(r)^2, alpha making it convex, never decreases r'A r there, because norm(r)^2 = lambda^2 <r, v>
    is linear on the surface. The value is computed as the weight-space form at the X that reaches r.

    Args:
        v: Gradient with respect to the unit's activations, (instances, m).
        A: Hessian with respect to the unit's activations, symmetric, (instances, m, m).
        radius: Lambda.
        steps: Number of ascent steps.

    Returns:
        The value, (instances,).

    Raises:
        CallError: The radius is not positive.

    Example:
        >>> import torch
        >>> v, A = torch.tensor([[1.0, 0.0]]).double(), torch.tensor([[[1.0, 1.0], [1.0, 2.0]]]).double()
        >>> round(largest_weight_form(v, A).item(), 4)              # equation (58) says v'A v = 1
        1.6
    """
    if not radius > 0:
        raise CallError(f"radius: expected a number above 0; got {radius}. It is the lambda of norm(X) <= lambda.")
    alpha = (-torch.linalg.eigvalsh(A.detach())[:, 0]).clamp(min=0)[:, None]
    centre = radius**2 * v / 2
    reach = squared_norm(centre).sqrt()[:, None]
    r = 2 * centre
    for _ in range(steps):
        uphill = _apply(A, r) + alpha * (r - centre)
        length = squared_norm(uphill).sqrt()[:, None]
        r = torch.where(length > 0, centre + reach * uphill / torch.where(length > 0, length, 1.0), r)
    inner = dot(r, v).clamp(min=0)[:, None]
    X = torch.where(inner > 0, r / torch.where(inner > 0, inner, 1.0).sqrt(), 0.0)
    return dot(X, v).square() * dot(X, _apply(A, X))


def _apply(A: Tensor, v: Tensor) -> Tensor:
    return (A @ v[:, :, None])[:, :, 0]


def check_curvature(v: Tensor, A: Tensor) -> None:
    """Refuse a Hessian that does not fit the gradient.

    Raises:
        CallError: `v` is not (instances, m), or `A` is not (instances, m, m).
    """
    check_batch(v)
    if A.shape != (*v.shape, v.shape[1]):
        raise CallError(
            f"A: expected shape {(*v.shape, v.shape[1])}, one Hessian per row of v; got {tuple(A.shape)}. "
            "Pass the (m, m) block of each unit."
        )


def equation_58(v: Tensor, A: Tensor, radius: float = 1.0, form: Form = "corrected") -> Bound:
    """Equation (58), the worst weight-space curvature in terms of the activation-space one.

        printed      max (X'v)'(X'A X)(X'v)  = lambda^4 v'A v                      over norm(X) <= lambda
        corrected    max (X'v)'(X'A X)(X'v) <= (lambda^4 / 4) ( v'A v + 2 norm(v) norm(A v) + norm(v)^2 lambda_1(A) )

    and the maximum is at least lambda^4 v'A v. The corrected bound is an equality when v is an eigenvector of the
    largest eigenvalue lambda_1; for A = k I, k > 0, the printed equation is true as well.
    Hypotheses: A symmetric; v, A fixed while X varies. Source: equation (58). Status: printed fails, corrected holds.

    Args:
        v: Gradient with respect to the unit's activations, (instances, m).
        A: Hessian with respect to the unit's activations, symmetric, (instances, m, m).
        radius: Lambda.
        form: "printed v3" (identity) or "corrected" (bound).

    Returns:
        lhs is the largest value found, so that a violation of either form is certain.

    Raises:
        CallError: A shape, the radius or the form is wrong.

    Example:
        >>> import torch
        >>> v, A = torch.tensor([[1.0, 0.0]]).double(), torch.tensor([[[1.0, 1.0], [1.0, 2.0]]]).double()
        >>> [round(equation_58(v, A, form=form).rhs.item(), 4) for form in ("printed v3", "corrected")]
        [1.0, 1.6116]
    """
    check_form(form, "printed v3", "corrected")
    check_curvature(v, A)
    largest = largest_weight_form(v, A, radius)
    code = torch.full((len(v),), OK, device=v.device)
    Av = _apply(A, v)
    sizes = (squared_norm(v) * squared_norm(Av)).sqrt()
    if form == "printed v3":
        scale = radius**4 * sizes
        return assemble(largest, {"value": radius**4 * dot(v, Av)}, code, "identity", scale)
    return assemble(largest, _ceiling(v, A, radius), code, "bound")


def _ceiling(v: Tensor, A: Tensor, radius: float) -> dict[str, Tensor]:
    """Terms of the corrected equation (58)."""
    Av = _apply(A, v)
    quarter = radius**4 / 4
    return {
        "value": quarter * dot(v, Av),
        "cross": quarter * 2 * (squared_norm(v) * squared_norm(Av)).sqrt(),
        "top": quarter * squared_norm(v) * torch.linalg.eigvalsh(A)[:, -1],
    }


def theorem_c1(
    u: Tensor,
    Hhat: Tensor,
    g: Tensor,
    H: Tensor,
    g_yhat: Tensor,
    radius: float = 1.0,
    separation: bool = True,
    form: Form = "printed v3",
) -> Bound:
    """Theorem C.1, batch normalization lowers the worst weight-space curvature.

        max (X'u)'(X'Hhat X)(X'u) <= max (X'g)'(X'H X)(X'g) - lambda^4 kappa,   kappa = g'H g - u'Hhat u

    over norm(X) <= lambda; without `separation` the weaker claim, kappa replaced by 0. The right side here is an upper
    bound of what is printed (the corrected equation 58), so that a violation is certain.
    Hypotheses: H positive semi-definite on g (g'H g >= 0), <g, yhat> >= 0, kappa > 0; u, g, H, Hhat fixed while X
    varies. Hhat is never positive semi-definite unless u = 0: yhat'Hhat yhat = 0 while Hhat yhat = -u / s.
    Source: Theorem C.1. Status: fails, with and without the separation. What holds is equation (58) corrected.

    Args:
        u: dLhat/dy, (instances, m).
        Hhat: d2Lhat/dy2, (instances, m, m).
        g: dL/dz, (instances, m).
        H: d2L/dz2, (instances, m, m).
        g_yhat: <g, yhat>, (instances,).
        radius: Lambda.
        separation: Whether lambda^4 kappa is subtracted.
        form: "printed v3", the only one.

    Returns:
        A bound; lhs is the largest value found on the normalized side.

    Raises:
        CallError: A shape, the radius or the form is wrong.

    Example:
        >>> import torch
        >>> g, y = torch.tensor([1.0, -2.0, 1.0]).double(), torch.tensor([-1.0, 0.0, 1.0]).double() / 8
        >>> sigma2 = y.square().mean()                     # gamma = sigma / 2, H = I, <g, yhat> = 0
        >>> Hhat = torch.outer(g, g) / 24 - (torch.outer(g, y) + torch.outer(y, g)) / (6 * sigma2)
        >>> one = theorem_c1(g[None] / 2, Hhat[None], g[None], torch.eye(3).double()[None], torch.zeros(1))
        >>> one.lhs.item() > 6, round(one.rhs.item(), 3)
        (True, 0.375)
    """
    check_form(form, "printed v3")
    check_curvature(u, Hhat)
    check_curvature(g, H)
    before = dot(g, _apply(H, g))
    kappa = before - dot(u, _apply(Hhat, u))
    code = torch.where((before >= 0) & (g_yhat >= 0) & (kappa > 0), OK, NOT_COVERED)
    terms = _ceiling(g, H, radius)
    if separation:
        terms["separation"] = -(radius**4) * kappa
    return assemble(largest_weight_form(u, Hhat, radius), terms, code, "bound")
