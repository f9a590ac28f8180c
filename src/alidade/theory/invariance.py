"""What a normalization layer does not see: the scale of its own weights (Santurkar et al. 2018, after Lemma 4.5)."""

import torch
from torch import Tensor

from alidade.core.errors import CallError
from alidade.theory.bounds import NOT_COVERED, OK, Bound, Form, assemble, check_batch, check_form, check_gamma
from alidade.theory.gradients import chain_scale
from alidade.theory.normalization import Epsilon, as_column, coverage, dot, moments


def scale_invariance_output(z: Tensor, y: Tensor, gamma: Tensor, beta: Tensor, form: Form = "corrected") -> Bound:
    """Rescaled weights give the same output, BN(a W x) = BN(W x) (identity; worst entry of each instance).

    Hypotheses: a > 0, sigma > 0, m > 1, eps = 0. Source: the proof of Lemma 4.5. Status: holds.

    Args:
        z: The layer's output for the input a y, measured, (instances, m).
        y: The unscaled input, (instances, m).
        gamma: Gain, (instances,).
        beta: Shift, (instances,).
        form: "printed v3" or "corrected"; the same formula.

    Returns:
        An identity: lhs is an entry of z, rhs that of gamma yhat + beta at the unscaled input.

    Raises:
        CallError: A shape or the form is wrong.

    Example:
        >>> import torch
        >>> from alidade.theory import batch_norm
        >>> y = torch.tensor([[1.0, 2.0, 6.0]], dtype=torch.float64)
        >>> one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
        >>> scale_invariance_output(batch_norm(7 * y, one, zero), y, one, zero).violated.item()
        False
    """
    check_form(form, "printed v3", "corrected")
    check_batch(y, z=z)
    check_gamma(gamma, len(y))
    at = moments(y)
    shift = beta[:, None].expand_as(y)
    terms = {"normalized": gamma[:, None] * at.yhat, "shift": shift}
    scale = gamma[:, None].abs() * (y.abs() + at.mean.abs()) / at.s + shift.abs()
    return assemble(z, terms, coverage(y, gamma, z), "identity", scale)


def scale_invariance_orthogonality(
    w: Tensor,
    weight_gradient: Tensor,
    y: Tensor,
    g: Tensor,
    gamma: Tensor,
    eps: Epsilon = 0.0,
    form: Form = "corrected",
) -> Bound:
    """The gradient is orthogonal to the weights, <w, grad_w Lhat> = gamma (1 - q) <g, yhat>, 0 at eps = 0 (identity).

    Hypotheses: sigma > 0, m > 1; 1 - q = eps / (var + eps). "printed v3" is the scale-invariant case, 0 on the right.
    Source: the proof of Lemma 4.5 (eps = 0); the eps > 0 form is ours. Status: holds.

    Args:
        w: The unit's weights, (instances, d).
        weight_gradient: dLhat/dw, measured, (instances, d).
        y: X w, (instances, m).
        g: dL/dz, (instances, m).
        gamma: Gain, (instances,).
        eps: What the layer adds to the variance, one number or (instances,).
        form: "printed v3" (right side 0) or "corrected".

    Returns:
        An identity.

    Raises:
        CallError: A shape or the form is wrong.

    Example:
        >>> import torch
        >>> from alidade.theory import batch_norm
        >>> X = torch.tensor([[1.0, 2.0], [0.0, 1.0], [3.0, -1.0]], dtype=torch.float64)
        >>> w, one = torch.tensor([[1.0, 2.0]], dtype=torch.float64, requires_grad=True), torch.ones(1).double()
        >>> y = w @ X.T
        >>> z = batch_norm(y, one, one, 0.5)
        >>> grad_w, g = torch.autograd.grad(z[0, 0] ** 3, (w, z))
        >>> [scale_invariance_orthogonality(w, grad_w, y, g, one, 0.5, f).violated.item()
        ...  for f in ("printed v3", "corrected")]
        [True, False]
    """
    check_form(form, "printed v3", "corrected")
    check_batch(y, g=g)
    check_gamma(gamma, len(y))
    if w.shape != weight_gradient.shape or len(w) != len(y):
        raise CallError(
            f"w, weight_gradient: expected two tensors of shape ({len(y)}, d); got {tuple(w.shape)} and "
            f"{tuple(weight_gradient.shape)}. Pass the weights of one unit per row."
        )
    at = moments(y, eps)
    left_over = as_column(eps, y)[:, 0] / at.s[:, 0].square()
    terms = {"eps": gamma * left_over * dot(g, at.yhat) * (form == "corrected")}
    scale = dot(chain_scale(y, g, gamma, eps), y.abs())
    return assemble(dot(w, weight_gradient), terms, coverage(y, gamma, g, weight_gradient), "identity", scale)


def scale_invariance_gradient(
    gradient_at_aw: Tensor, gradient_at_w: Tensor, a: Tensor, form: Form = "corrected"
) -> Bound:
    """Larger weights have a smaller gradient, grad(a W) = grad(W) / a (identity; worst entry of each instance).

    Hypotheses: a > 0, sigma > 0, m > 1. With eps > 0 it holds when the gradient on the right is taken with eps / a^2
    in the layer. Source: the proof of Lemma 4.5 (eps = 0); the eps > 0 form is ours. Status: holds.

    Args:
        gradient_at_aw: dLhat/dw at a w, measured, (instances, d).
        gradient_at_w: dLhat/dw at w, measured with eps / a^2, (instances, d).
        a: The factor, (instances,).
        form: "corrected", the only one.

    Returns:
        An identity: lhs is an entry of the gradient at a w, rhs the same entry at w over a.

    Raises:
        CallError: A shape or the form is wrong.

    Example:
        >>> import torch
        >>> grad_w, a = torch.tensor([[3.0, -1.0]], dtype=torch.float64), torch.tensor([2.0], dtype=torch.float64)
        >>> scale_invariance_gradient(grad_w / 2, grad_w, a).violated.item()
        False
    """
    check_form(form, "corrected")
    check_batch(gradient_at_w, gradient_at_aw=gradient_at_aw)
    check_gamma(a, len(gradient_at_w))
    rescaled = gradient_at_w / a[:, None]
    code = torch.where(a > 0, OK, NOT_COVERED)
    return assemble(gradient_at_aw, {"rescaled": rescaled}, code, "identity")
