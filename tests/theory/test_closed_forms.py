"""The closed forms agree with torch's own batch normalization, with finite differences and with rational arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from alidade.theory import (
    batch_norm,
    block_hessian,
    block_hessian_form,
    equation_17,
    fact_c1,
    fact_c2,
    lemma_4_5,
    lemma_4_5_per_unit,
    lp_jacobian,
    lp_norm,
    observation_4_3,
    project,
    theorem_4_1,
    theorem_4_2,
    theorem_4_4,
)
from alidade.theory.minimax import equation_58, largest_weight_form
from alidade.theory.normalization import lp_scale, moments
from alidade.theory.weights import largest_weight_gradient

# float64 keeps 2^-53 = 1.1e-16 per operation. The sums here have at most 12 terms and chains of fewer than 100
# operations on numbers near 1: 100 x 1.1e-16 = 1.1e-14, and a factor of 10 for the sensitivity of 1/s.
TIGHT = 1e-13


def loss(z: Tensor) -> Tensor:
    """Couples the samples and is curved in every direction, (..., m) -> (...)."""
    return (z.sin() + 0.3 * z**2).sum(dim=-1) + 0.5 * z.sum(dim=-1).tanh() * z[..., 0]


def example(m: int = 6, n: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(m)
    y = 2 * torch.randn(n, m, dtype=torch.float64, generator=generator) + 1
    gamma, beta = torch.rand(2, n, dtype=torch.float64, generator=generator) + 0.5
    return y, gamma, beta


def torch_batch_norm(y: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> Tensor:
    """Rows are channels. Torch refuses eps = 0; 1e-300 added to a variance near 1 changes no bit of it."""
    return torch.nn.functional.batch_norm(y.T, None, None, gamma, beta, training=True, eps=max(eps, 1e-300)).T


def gradients_and_hessians(y: Tensor, gamma: Tensor, beta: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """u, g, Hhat, H by torch's batch normalization and dense autograd."""
    z = torch_batch_norm(y, gamma, beta, eps)
    hessian = torch.autograd.functional.hessian
    jacobian = torch.autograd.functional.jacobian

    def through(i: int) -> Callable[[Tensor], Tensor]:
        return lambda row: loss(torch_batch_norm(row[None], gamma[i : i + 1], beta[i : i + 1], eps))[0]

    rows = range(len(y))
    u = torch.stack([jacobian(through(i), y[i]) for i in rows])
    Hhat = torch.stack([hessian(through(i), y[i]) for i in rows])
    g = torch.stack([jacobian(loss, z[i]) for i in rows])
    H = torch.stack([hessian(loss, z[i]) for i in rows])
    return u, g, Hhat, H


@pytest.mark.parametrize("eps", [0.0, 0.7])
def test_batch_norm_is_that_of_torch(eps: float) -> None:
    y, gamma, beta = example()
    assert (batch_norm(y, gamma, beta, eps) - torch_batch_norm(y, gamma, beta, eps)).abs().max() < TIGHT


@pytest.mark.parametrize("eps", [0.0, 0.7])
def test_gradient_and_hessian_through_torchs_batch_norm(eps: float) -> None:
    y, gamma, beta = example()
    u, g, Hhat, H = gradients_and_hessians(y, gamma, beta, eps)
    Qu = project(u, moments(y, eps))
    a, b = torch.randn(2, *y.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    Qb = project(b, moments(y, eps))

    def times(A: Tensor, v: Tensor) -> Tensor:
        return (A @ v[:, :, None])[:, :, 0]

    bounds = [
        fact_c1(u, y, g, gamma, eps),
        theorem_4_1(u, y, g, gamma, eps),
        theorem_4_2(times(Hhat, u), times(H, Qu), u, y, g, gamma, eps),
        block_hessian(Hhat, H, y, g, gamma, eps),
        block_hessian(Hhat, H, y, g, gamma, eps, "printed v3"),
        block_hessian_form(a, b, times(Hhat, b), times(H, Qb), y, g, gamma, eps),
        theorem_4_4(u, y, g, gamma, 3.0, eps),
    ]
    for bound in bounds:
        assert bound.ok.all()
        assert bound.relative_slack.abs().max() < TIGHT


def test_gradient_agrees_with_central_differences() -> None:
    y, gamma, beta = example()
    u, g, _, _ = gradients_and_hessians(y, gamma, beta, 0.0)
    # Central differences: h^2 |f'''| / 6 + 2^-53 |f| / h with h = 1e-5: 1e-11 + 1e-11, and a factor of 50 for f'''.
    h = 1e-5
    steps = h * torch.eye(y.shape[1], dtype=torch.float64)[:, None, :]
    up, down = (torch.stack([loss(batch_norm(y + sign * d, gamma, beta)) for d in steps], dim=1) for sign in (1, -1))
    difference = (up - down) / (2 * h)
    assert (difference - u).abs().max() < 1e-9
    bound = fact_c1(difference, y, g, gamma)
    assert (bound.lhs - bound.rhs).abs().max() < 1e-9


def test_jacobian_of_torchs_batch_norm_row_by_row() -> None:
    y, gamma, beta = example(n=2)
    jacobian = torch.autograd.functional.jacobian(lambda rows: torch_batch_norm(rows, gamma, beta, 0.3), y)
    for sample in range(y.shape[1]):
        row = torch.stack([jacobian[i, sample, i] for i in range(2)])
        assert fact_c2(row, torch.full((2,), sample), y, gamma, 0.3).relative_slack.abs().max() < TIGHT


def exact_case() -> dict[str, list[Fraction]]:
    """m = 4 with sigma = 2 exactly; L = sum of c_b z_b^2 / 2, so that g_b = c_b z_b and H = diag(c)."""
    y, c, gamma, beta = (
        [Fraction(v) for v in (1, 5, 1, 5)],
        [Fraction(v) for v in (1, 2, 3, 5)],
        Fraction(3),
        Fraction(1, 2),
    )
    yhat = [(v - 3) / Fraction(2) for v in y]
    z = [gamma * v + beta for v in yhat]
    g = [a * b for a, b in zip(c, z, strict=True)]
    m, s = 4, Fraction(2)
    inner = sum(a * b for a, b in zip(g, yhat, strict=True))
    u = [gamma / (m * s) * (m * g[b] - sum(g) - yhat[b] * inner) for b in range(m)]
    return {"y": y, "c": c, "g": g, "u": u, "yhat": yhat}


def test_rational_arithmetic_gives_the_same_numbers() -> None:
    case = exact_case()
    u = case["u"]
    exact = sum(v * v for v in u)
    g, yhat = case["g"], case["yhat"]
    inner = sum(a * b for a, b in zip(g, yhat, strict=True))
    predicted = Fraction(9, 4) * (sum(v * v for v in g) - sum(g) ** 2 / 4 - inner**2 / 4)
    assert exact == predicted
    y = torch.tensor([[float(v) for v in case["y"]]], dtype=torch.float64, requires_grad=True)
    c = torch.tensor([float(v) for v in case["c"]], dtype=torch.float64)
    z = batch_norm(y, torch.tensor([3.0]).double(), torch.tensor([0.5]).double())
    measured, at_z = torch.autograd.grad((c * z**2).sum() / 2, (y, z))
    assert (measured[0] - torch.tensor([float(v) for v in u])).abs().max() < TIGHT
    bound = theorem_4_1(measured, y.detach(), at_z, torch.tensor([3.0]).double())
    assert bound.lhs.item() == pytest.approx(float(exact), rel=TIGHT)
    assert bound.rhs.item() == pytest.approx(float(exact), rel=TIGHT)


@pytest.mark.parametrize("p", [1.0, 2.0, float("inf")])
def test_lp_norms_follow_their_definition(p: float) -> None:
    y, gamma, beta = example()
    scale = {1.0: y.abs().mean(dim=1), 2.0: (y**2).mean(dim=1) ** 0.5, float("inf"): y.abs().max(dim=1).values}[p]
    assert torch.allclose(lp_scale(y, p)[:, 0], scale, rtol=TIGHT)
    y.requires_grad_()
    z = lp_norm(y, gamma, beta, p)
    assert (z - beta[:, None] - gamma[:, None] * (y - y.mean(1, keepdim=True)) / scale[:, None]).abs().max() < TIGHT
    u, g = torch.autograd.grad(loss(z).sum(), (y, z))
    assert lp_jacobian(u, y.detach(), g, gamma, p).relative_slack.abs().max() < TIGHT
    # No projector: the gradient of L1, L2 or Linf normalization is not orthogonal to yhat.
    assert (u * (y - y.mean(1, keepdim=True))).sum(1).abs().min() > 1e-3


def test_no_input_of_the_ball_beats_the_rank_one_input() -> None:
    y, gamma, beta = example()
    u, _, _, _ = gradients_and_hessians(y, gamma, beta, 0.0)
    generator = torch.Generator().manual_seed(0)
    best = largest_weight_gradient(u, 2.0)
    for _ in range(200):
        X = torch.randn(*y.shape, 3, dtype=torch.float64, generator=generator)
        X = 2 * X / torch.linalg.matrix_norm(X, 2)[:, None, None]
        assert ((X.mT @ u[:, :, None]).square().sum(dim=(1, 2)) <= best * (1 + TIGHT)).all()


def test_no_input_of_the_ball_beats_the_corrected_equation_58() -> None:
    y, gamma, beta = example()
    u, _, Hhat, _ = gradients_and_hessians(y, gamma, beta, 0.0)
    generator = torch.Generator().manual_seed(0)
    bound = equation_58(u, Hhat, 1.0)
    for _ in range(500):
        X = torch.randn(*y.shape, 2, dtype=torch.float64, generator=generator)
        X = X / torch.linalg.matrix_norm(X, 2)[:, None, None]
        at_w = X.mT @ u[:, :, None]
        form = (at_w.mT @ X.mT @ Hhat @ X @ at_w)[:, 0, 0]
        assert (form <= bound.lhs + TIGHT).all()  # the ascent found at least as much
        assert (form <= bound.rhs + TIGHT).all()


def test_the_ascent_finds_the_exact_maximum() -> None:
    v, A = torch.tensor([[1.0, 0.0]]).double(), torch.tensor([[[1.0, 1.0], [1.0, 2.0]]]).double()
    angle = torch.linspace(0, 2 * torch.pi, 100_001, dtype=torch.float64)
    r = torch.stack([0.5 + 0.5 * angle.cos(), 0.5 * angle.sin()], dim=1)
    grid = ((r @ A[0]) * r).sum(dim=1).max().item()
    assert largest_weight_form(v, A).item() == pytest.approx(8 / 5)
    assert grid == pytest.approx(8 / 5, abs=1e-8)  # the maximum is quadratic in a grid step of 6e-5
    assert largest_weight_form(0 * v, A).item() == 0


def test_hhat_is_never_positive_semidefinite() -> None:
    y, gamma, beta = example()
    u, _, Hhat, _ = gradients_and_hessians(y, gamma, beta, 0.0)
    at = moments(y)
    along = (Hhat @ at.yhat[:, :, None])[:, :, 0]
    assert (along + u / at.s).abs().max() < 10 * TIGHT  # Hhat yhat = -u / sigma
    assert (along * at.yhat).sum(dim=1).abs().max() < 10 * TIGHT  # yhat'Hhat yhat = 0
    assert (torch.linalg.eigvalsh(Hhat)[:, 0] < -1e-3).all()


def test_the_lemmas_ray_is_the_nearest_point_of_the_ray() -> None:
    generator = torch.Generator().manual_seed(4)
    start, optimum = torch.randn(2, 50, 3, 4, dtype=torch.float64, generator=generator)
    bound, finer = lemma_4_5(start, optimum), lemma_4_5_per_unit(start, optimum)
    assert 10 < bound.ok.sum() < 40
    assert set(bound.status) == {"ok", "a hypothesis does not hold for this instance"}
    for k in torch.linspace(0.01, 3, 100, dtype=torch.float64):
        distance = (start - k * optimum).square().sum(dim=(1, 2))
        assert (distance[bound.ok] >= bound.lhs[bound.ok] - TIGHT).all()
    assert (finer.lhs <= bound.lhs + TIGHT).all()
    assert (finer.lhs < 0.99 * bound.lhs).any()


def test_the_identity_setting_leaves_the_loss_as_it_is() -> None:
    y, _, _ = example()
    at = moments(y)
    assert (loss(batch_norm(y, at.s[:, 0], at.mean[:, 0])) - loss(y)).abs().max() < TIGHT
    assert not observation_4_3(y).violated.any()


def test_printed_forms_fail_where_the_corrected_ones_hold() -> None:
    y, gamma, beta = example()
    u, g, _, _ = gradients_and_hessians(y, gamma, beta, 0.0)
    assert theorem_4_1(u, y, g, gamma, form="printed v3").violated.all()
    assert not theorem_4_1(u, y, g, gamma, form="printed v5").violated.any()
    assert equation_17(u, y, g, gamma).violated.all()
    lhs, rhs, slack = theorem_4_1(u, y, g, gamma)
    assert torch.equal(slack, rhs - lhs)
