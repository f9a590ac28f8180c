"""What the layer does to the gradient with respect to its weights: Theorem 4.4, Lemma 4.5, scale invariance.

Notation as in `gradients`; y = X w for the layer's input X of shape (m, d) and one unit's weights w of shape (d,),
so that the gradient with respect to w is X'u. Source of all statements: Santurkar et al. (2018).
"""

import torch
from torch import Tensor

from alidade.core.errors import CallError
from alidade.theory.bounds import (
    NOT_COVERED,
    OK,
    Bound,
    Form,
    Kind,
    assemble,
    check_batch,
    check_form,
    check_gamma,
)
from alidade.theory.normalization import Epsilon, coverage, dot, moments, squared_norm


def largest_weight_gradient(v: Tensor, radius: float) -> Tensor:
    """Maximum of norm(X'v)^2 over norm(X) <= radius, reached at the rank-one X = radius v e'/norm(v), (instances,).

    Args:
        v: Gradient with respect to the unit's activations, held fixed while X varies, (instances, m).
        radius: Lambda, the largest spectral norm of X.

    Returns:
        The value at that X, (instances,).

    Raises:
        CallError: The radius is not positive.

    Example:
        >>> import torch
        >>> largest_weight_gradient(torch.tensor([[3.0, 4.0]], dtype=torch.float64), radius=2.0).item()
        100.0
    """
    if not radius > 0:
        raise CallError(f"radius: expected a number above 0; got {radius}. It is the lambda of norm(X) <= lambda.")
    size = squared_norm(v).sqrt()[:, None]
    X = radius * v / torch.where(size > 0, size, 1.0)
    return dot(X, v).square()


def theorem_4_4(
    u: Tensor,
    y: Tensor,
    g: Tensor,
    gamma: Tensor,
    radius: float = 1.0,
    eps: Epsilon = 0.0,
    form: Form = "corrected",
) -> Bound:
    """Theorem 4.4, the worst gradient with respect to the weights, over inputs of norm at most lambda.

    With G = max norm(grad_w L)^2 and Ghat = max norm(grad_w Lhat)^2 over norm(X) <= lambda, mu_g = mean(g):

        printed      Ghat <= (gamma^2 / sigma^2) ( G^2 - m mu_g^2 - lambda^2 <g, yhat>^2 )
        corrected    Ghat  = (gamma^2 / s^2) ( G - lambda^2 m mu_g^2 - lambda^2 (2 - q) / m <g, yhat>^2 )

    Hypotheses: sigma > 0, m > 1, and the frozen reading: u, g, sigma and yhat stay as they are while X varies, so
    that G = lambda^2 norm(g)^2. Printed, G (already a square) is squared again, lambda^2 is missing on one term and
    1/m on the other. Let X move sigma and no such bound exists: `theorem_4_4_literal`.
    Source: Theorem 4.4. Status: printed (v3 and v5) fails, corrected holds.

    Args:
        u: dLhat/dy, measured, (instances, m).
        y: Input of the layer, (instances, m).
        g: dL/dz, (instances, m).
        gamma: Gain, (instances,).
        radius: Lambda.
        eps: What the layer adds to the variance, one number or (instances,).
        form: "printed v3" (v5 is the same) or "corrected".

    Returns:
        A bound for the printed form, an identity for the corrected one.

    Raises:
        CallError: A shape, the radius or the form is wrong.

    Example:
        >>> import torch
        >>> y = torch.tensor([[-1.0, 1.0]], dtype=torch.float64)
        >>> g, one = y / 2, torch.ones(1, dtype=torch.float64)
        >>> [theorem_4_4(0 * g, y, g, one, form=f).slack.item() for f in ("printed v3", "corrected")]
        [-0.75, 0.0]
    """
    check_form(form, "printed v3", "corrected")
    check_batch(y, u=u, g=g)
    check_gamma(gamma, len(y))
    at = moments(y, eps)
    factor, worst = (gamma / at.s[:, 0]).square(), largest_weight_gradient(g, radius)
    mean, aligned = at.m * g.mean(dim=1).square(), dot(g, at.yhat).square()
    kind: Kind = "bound"
    terms = {"norm": factor * worst.square(), "mean": -factor * mean, "alignment": -factor * radius**2 * aligned}
    if form == "corrected":
        kind = "identity"
        terms = {
            "norm": factor * worst,
            "mean": -factor * radius**2 * mean,
            "alignment": -factor * radius**2 * (2 - at.fullness) / at.m * aligned,
        }
    return assemble(largest_weight_gradient(u, radius), terms, coverage(y, gamma, u, g), kind)


def equation_17(
    u: Tensor, y: Tensor, g: Tensor, gamma: Tensor, radius: float = 1.0, form: Form = "printed v3"
) -> Bound:
    """Equation (17), the line of the proof of Theorem 4.4 that carries 1/sqrt(m) into every version.

        Ghat <= (gamma^2 / sigma^2) ( G - lambda^2 m mu_g^2 - (lambda^2 / sqrt(m)) <g, yhat>^2 )

    Hypotheses: those of `theorem_4_4`, eps = 0. Source: equation (17). Status: fails; the corrected form is that of
    Theorem 4.4, with 1/m.

    Args:
        u: dLhat/dy, measured, (instances, m).
        y: Input of the layer, (instances, m).
        g: dL/dz, (instances, m).
        gamma: Gain, (instances,).
        radius: Lambda.
        form: "printed v3" or "printed v5"; the same formula.

    Returns:
        A bound.

    Raises:
        CallError: A shape, the radius or the form is wrong.

    Example:
        >>> import torch
        >>> y, one = torch.tensor([[-1.0, 1.0]], dtype=torch.float64), torch.ones(1, dtype=torch.float64)
        >>> round(equation_17(0 * y, y, y, one).slack.item(), 4)
        -0.8284
    """
    check_form(form, "printed v3", "printed v5")
    check_batch(y, u=u, g=g)
    check_gamma(gamma, len(y))
    at = moments(y)
    factor = (gamma / at.s[:, 0]).square() * radius**2
    terms = {
        "norm": factor / radius**2 * largest_weight_gradient(g, radius),
        "mean": -factor * at.m * g.mean(dim=1).square(),
        "alignment": -factor * at.m**-0.5 * dot(g, at.yhat).square(),
    }
    return assemble(largest_weight_gradient(u, radius), terms, coverage(y, gamma, u, g), "bound")


def theorem_4_4_literal(worst_after: Tensor, worst_before: Tensor, y: Tensor, gamma: Tensor) -> Bound:
    """Theorem 4.4 read to the letter: X varies and takes sigma with it. No bound of this kind exists.

        max norm(grad_w Lhat)^2 <= (gamma^2 / sigma^2) max(G, G^2),    norm(X) <= lambda

    which grants the statement everything: both powers of G, an upper bound in place of G, and none of the terms that
    are subtracted. Shrinking X along w alone keeps norm(X) <= lambda, leaves z and g as they are, and multiplies u
    by 1/t as t -> 0. Hypotheses: sigma > 0, m > 2. Source: Theorem 4.4. Status: fails once t is small enough, unless
    P g is orthogonal to all inputs.

    Args:
        worst_after: norm(grad_w Lhat)^2 at several X of norm at most lambda, measured, (instances, inputs).
        worst_before: An upper bound on G, (instances,).
        y: Input of the layer at the nominal X, (instances, m), which fixes sigma on the right.
        gamma: Gain, (instances,).

    Returns:
        A bound; lhs is the largest of the measured values.

    Raises:
        CallError: A shape is wrong.

    Example:
        >>> import torch
        >>> y, one = torch.tensor([[-1.0, 1.0]], dtype=torch.float64), torch.ones(1, dtype=torch.float64)
        >>> theorem_4_4_literal(torch.tensor([[36.0, 3600.0]]).double(), 13 * one, y, one).slack.item()
        -3431.0
    """
    check_batch(y)
    check_gamma(gamma, len(y))
    factor = (gamma / moments(y).s[:, 0]).square()
    terms = {"norm": factor * torch.maximum(worst_before, worst_before.square())}
    return assemble(worst_after.amax(dim=1), terms, coverage(y, gamma, worst_after, worst_before), "bound")


def lemma_4_5(start: Tensor, optimum: Tensor, form: Form = "corrected") -> Bound:
    """Lemma 4.5, with batch normalization an optimum lies nearer to the starting weights.

        norm(W0 - k W*)^2 <= norm(W0 - W*)^2 - (norm(W*)^2 - <W*, W0>)^2 / norm(W*)^2,    k = <W*, W0> / norm(W*)^2

    k W* is an optimum of the normalized network because BN(k W x) = BN(W x) for k > 0, with the gamma and beta that
    make W* one (Observation 4.3). Corrected: it is an equality. Hypotheses: <W0, W*> > 0.
    Source: Lemma 4.5. Status: holds.

    Args:
        start: W0, (instances, units, d).
        optimum: W*, (instances, units, d).
        form: "printed v3" (bound) or "corrected" (identity).

    Returns:
        lhs is the squared distance from W0 to the optimum k W*.

    Raises:
        CallError: The shapes differ, or the form is wrong.

    Example:
        >>> import torch
        >>> bound = lemma_4_5(torch.tensor([[[1.0, 2.0]]]).double(), torch.tensor([[[4.0, 0.0]]]).double())
        >>> bound.lhs.item(), bound.rhs.item()
        (4.0, 4.0)
    """
    check_form(form, "printed v3", "corrected")
    W0, Ws, inner, size, code = _rays(start, optimum)
    k = inner / torch.where(size > 0, size, 1.0)
    terms = {"vanilla": squared_norm(W0 - Ws), "gain": -(size - inner).square() / torch.where(size > 0, size, 1.0)}
    kind: Kind = "identity" if form == "corrected" else "bound"
    return assemble(squared_norm(W0 - k[:, None] * Ws), terms, code, kind)


def lemma_4_5_per_unit(start: Tensor, optimum: Tensor, form: Form = "corrected") -> Bound:
    """Lemma 4.5 sharpened: each unit may be rescaled on its own, which brings a still nearer optimum (identity).

        norm(W0 - What)^2 = norm(W0 - k W*)^2 - sum_j (k_j - k)^2 norm(w*_j)^2,    What_j = k_j w*_j,
        k_j = <w*_j, w0_j> / norm(w*_j)^2 where that is positive, else k

    Hypotheses: <W0, W*> > 0. Source: ours, after Santurkar et al. (2018), Lemma 4.5. Status: holds.

    Args:
        start: W0, (instances, units, d).
        optimum: W*, (instances, units, d).
        form: "corrected", the only one.

    Returns:
        lhs is the squared distance from W0 to What.

    Raises:
        CallError: The shapes differ, or the form is wrong.

    Example:
        >>> import torch
        >>> start, optimum = torch.tensor([[[1.0], [3.0]]]).double(), torch.tensor([[[1.0], [1.0]]]).double()
        >>> lemma_4_5(start, optimum).lhs.item(), lemma_4_5_per_unit(start, optimum).lhs.item()
        (2.0, 0.0)
    """
    check_form(form, "corrected")
    W0, Ws, inner, size, code = _rays(start, optimum)
    k = (inner / torch.where(size > 0, size, 1.0))[:, None]
    unit_size = optimum.square().sum(dim=2)
    unit_inner = (start * optimum).sum(dim=2)
    ks = torch.where(unit_inner > 0, unit_inner / torch.where(unit_size > 0, unit_size, 1.0), k)
    terms = {"ray": squared_norm(W0 - k * Ws), "gain": -((ks - k).square() * unit_size).sum(dim=1)}
    scale = terms["ray"] + squared_norm(W0)
    return assemble((start - ks[:, :, None] * optimum).square().sum(dim=(1, 2)), terms, code, "identity", scale)


def _rays(start: Tensor, optimum: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    if start.shape != optimum.shape or start.ndim != 3:
        raise CallError(
            f"start, optimum: expected two tensors of one shape (instances, units, d); got {tuple(start.shape)} and "
            f"{tuple(optimum.shape)}. Stack the weights of the layer's units."
        )
    W0, Ws = start.flatten(1), optimum.flatten(1)
    inner, size = dot(W0, Ws), squared_norm(Ws)
    code = torch.where(inner > 0, OK, NOT_COVERED)
    return W0, Ws, inner, size, code
