"""How each statement is put to a network: measured sides from autograd, handed to the pure functions."""

from collections.abc import Callable

import torch
from torch import Tensor

from alidade.theory import curvature, gradients, invariance, minimax, weights
from alidade.theory.bounds import Bound, Form
from alidade.theory.normalization import batch_norm, dot, lp_norm, moments, project, squared_norm
from alidade.theory.observation import Observation

Evidence = Callable[[Observation], Bound]

RADIUS = 2.0  # lambda; any number but 1, which would hide a missing power
SHRINK = (1.0, 1e-2, 1e-4, 1e-6)  # how far X is shrunk along w for the literal reading of Theorem 4.4


def fact_c1(o: Observation) -> Bound:
    """Fact C.1 against the gradient that autograd sends through the layer."""
    return gradients.fact_c1(o.u, o.y, o.g, o.gamma, o.eps)


def fact_c2(o: Observation) -> Bound:
    """Fact C.2 against one random row of the Jacobian per network."""
    sample = (o.probes.fractions[0] * o.y.shape[1]).long()
    return gradients.fact_c2(o.jacobian_row(sample), sample, o.y, o.gamma, o.eps)


def theorem_4_1(form: Form) -> Evidence:
    """Theorem 4.1 in one form."""
    return lambda o: gradients.theorem_4_1(o.u, o.y, o.g, o.gamma, o.eps, form)


def theorem_4_1_at_y(o: Observation) -> Bound:
    """Theorem 4.1 with the gradient of the network without the layer, taken at y."""
    return gradients.theorem_4_1(o.u, o.y, o.vanilla_gradient(o.y), o.gamma, form="printed v5")


def theorem_4_1_at_identity(o: Observation) -> Bound:
    """The same where the layer is set to do nothing (Observation 4.3), so that both gradients are taken at y.

    The point is y in the rounding in which the layer gives it back, which a saturated tail would otherwise amplify.
    """
    at = moments(o.y)
    y = o.y.requires_grad_()
    gamma, beta = at.s[:, 0], at.mean[:, 0]
    z = batch_norm(y, gamma, beta)
    u, _ = o.gradient_through(z, y)
    return gradients.theorem_4_1(u, o.y, o.vanilla_gradient(z), gamma, form="printed v5")


def observation_4_3(o: Observation) -> Bound:
    """Observation 4.3 through the layer itself."""
    return gradients.observation_4_3(o.y, o.eps)


def theorem_4_2(form: Form) -> Evidence:
    """Theorem 4.2, first form, against Hessian products through the layer."""

    def evidence(o: Observation) -> Bound:
        Qu = project(o.u, moments(o.y, o.eps)) if form == "corrected" else o.u
        return curvature.theorem_4_2(o.product_y(o.u), o.product_z(Qu), o.u, o.y, o.g, o.gamma, o.eps, form)

    return evidence


def theorem_4_2_second(form: Form) -> Evidence:
    """Theorem 4.2, second form."""
    return lambda o: curvature.theorem_4_2_second(
        o.product_y(o.u), o.product_z(o.u), o.product_z(o.g), o.u, o.y, o.g, o.gamma, form
    )


def block_hessian(form: Form) -> Evidence:
    """The Hessian of the unit as a matrix."""
    return lambda o: curvature.block_hessian(o.hessian_y(), o.hessian_z(), o.y, o.g, o.gamma, o.eps, form)


def block_hessian_form(o: Observation) -> Bound:
    """The Hessian of the unit between two random vectors."""
    a, b = o.probes.vectors
    Qb = project(b, moments(o.y, o.eps))
    return curvature.block_hessian_form(a, b, o.product_y(b), o.product_z(Qb), o.y, o.g, o.gamma, o.eps)


def theorem_4_4(form: Form) -> Evidence:
    """Theorem 4.4 in one form, lambda = RADIUS."""
    return lambda o: weights.theorem_4_4(o.u, o.y, o.g, o.gamma, RADIUS, o.eps, form)


def equation_17(o: Observation) -> Bound:
    """Equation (17), lambda = RADIUS."""
    return weights.equation_17(o.u, o.y, o.g, o.gamma, RADIUS)


def theorem_4_4_literal(o: Observation) -> Bound:
    """Cross-entropy, no second normalization: norm(dL/dy)^2 <= 2 norm(V_0)^2 norm(U)^2 / m at every y."""
    X, w = o.networks.X, o.networks.W[:, :, 0]
    along = (o.y[:, :, None] * w[:, None, :]) / squared_norm(w)[:, None, None]
    after = [squared_norm(o.weight_gradient(X - (1 - t) * along, w, o.eps)) for t in SHRINK]
    radius = torch.linalg.matrix_norm(X, 2).square()
    slope = 2 * squared_norm(o.networks.V[:, 0]) * o.networks.U.square().sum(dim=(1, 2)) / o.y.shape[1]
    return weights.theorem_4_4_literal(torch.stack(after, dim=1), radius * slope, o.y, o.gamma)


def equation_58(form: Form) -> Evidence:
    """Equation (58) for the normalized network."""
    return lambda o: minimax.equation_58(o.u, _symmetric(o.hessian_y()), RADIUS, form)


def equation_58_both_sides(form: Form) -> Evidence:
    """Half of the networks after normalization, half before it, where H = k I makes the corrected bound tight."""

    def evidence(o: Observation) -> Bound:
        after = o.probes.fractions[0] < 0.5
        v = torch.where(after[:, None], o.u, o.g)
        A = torch.where(after[:, None, None], _symmetric(o.hessian_y()), _symmetric(o.hessian_z()))
        return minimax.equation_58(v, A, RADIUS, form)

    return evidence


def equation_58_before(o: Observation) -> Bound:
    """Equation (58) for the network before normalization."""
    return minimax.equation_58(o.g, _symmetric(o.hessian_z()), RADIUS, "printed v3")


def theorem_c1(separation: bool) -> Evidence:
    """Theorem C.1 with or without its separation."""

    def evidence(o: Observation) -> Bound:
        g_yhat = dot(o.g, moments(o.y).yhat)
        Hhat, H = _symmetric(o.hessian_y()), _symmetric(o.hessian_z())
        return minimax.theorem_c1(o.u, Hhat, o.g, H, g_yhat, RADIUS, separation)

    return evidence


def _symmetric(A: Tensor) -> Tensor:
    return (A + A.mT) / 2


def lemma_4_5(form: Form) -> Evidence:
    """Lemma 4.5 in one form."""
    return lambda o: weights.lemma_4_5(*_start_and_optimum(o), form)


def lemma_4_5_per_unit(o: Observation) -> Bound:
    """Lemma 4.5 with one factor per unit."""
    return weights.lemma_4_5_per_unit(*_start_and_optimum(o))


def _start_and_optimum(o: Observation) -> tuple[Tensor, Tensor]:
    """The network's own weights as the optimum; a random start with a positive inner product."""
    optimum = o.networks.W.mT
    size = optimum.square().mean(dim=(1, 2), keepdim=True).sqrt()
    start = size * o.probes.weights + o.probes.fractions[0][:, None, None] * optimum
    inner = (start * optimum).sum(dim=(1, 2), keepdim=True)
    return torch.where(inner < 0, -start, start), optimum


def invariant_output(o: Observation) -> Bound:
    """The output of the layer for rescaled weights."""
    a = _factor(o)
    z = batch_norm((o.networks.X @ (a[:, None] * o.networks.W[:, :, 0])[:, :, None])[:, :, 0], o.gamma, o.beta)
    return invariance.scale_invariance_output(z, o.y, o.gamma, o.beta)


def orthogonal(form: Form) -> Evidence:
    """Inner product of weights and their gradient."""

    def evidence(o: Observation) -> Bound:
        w = o.networks.W[:, :, 0]
        gradient = o.weight_gradient(o.networks.X, w, o.eps)
        return invariance.scale_invariance_orthogonality(w, gradient, o.y, o.g, o.gamma, o.eps, form)

    return evidence


def inverse_gradient(o: Observation) -> Bound:
    """Gradients at the weights and at their multiple."""
    a, X, w = _factor(o), o.networks.X, o.networks.W[:, :, 0]
    at_aw, at_w = o.weight_gradient(X, a[:, None] * w, o.eps), o.weight_gradient(X, w, o.eps / a.square())
    return invariance.scale_invariance_gradient(at_aw, at_w, a)


def _factor(o: Observation) -> Tensor:
    """Powers of two from 1/8 to 8 except 1: rescaling by them rounds nothing, so that the tail sees the same z."""
    power = (6 * o.probes.fractions[1]).floor() - 3
    return 2 ** (power + (power >= 0))


def lp_jacobian(p: float) -> Evidence:
    """The gradient that autograd sends through lp normalization."""

    def evidence(o: Observation) -> Bound:
        y = o.y.requires_grad_()
        u, g = o.gradient_through(lp_norm(y, o.gamma, o.beta, p), y)
        return gradients.lp_jacobian(u, o.y, g, o.gamma, p)

    return evidence
