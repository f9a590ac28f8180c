"""What must hold for any batch that Hypothesis thinks of."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from alidade.theory import batch_norm, fact_c1, project, theorem_4_1, theorem_4_1_terms
from alidade.theory.normalization import moments

NUMBERS = st.floats(-100, 100, allow_nan=False, width=32)
QUICK = settings(max_examples=60, deadline=None)


@st.composite
def batches(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, float]:
    """y and g of shape (1, m), gamma, eps."""
    m = draw(st.integers(2, 9))
    y, g = (torch.tensor([draw(st.lists(NUMBERS, min_size=m, max_size=m))], dtype=torch.float64) for _ in range(2))
    gamma = torch.tensor([draw(st.floats(0.01, 100))], dtype=torch.float64)
    return y, g, gamma, draw(st.sampled_from([0.0, 1e-5, 1.0]))


def condition(y: Tensor) -> float:
    """How much the rounding of y's mean is magnified by 1/sigma."""
    spread = y.std(correction=0).item()
    return 1.0 + y.abs().max().item() / spread if spread > 0 else float("inf")


@QUICK
@given(batches())
def test_every_instance_is_judged_or_has_a_reason(batch: tuple[Tensor, Tensor, Tensor, float]) -> None:
    y, g, gamma, eps = batch
    leaf = y.clone().requires_grad_()
    z = batch_norm(leaf, gamma, torch.zeros(1, dtype=torch.float64), eps)
    (u,) = torch.autograd.grad(z, leaf, grad_outputs=g)
    for bound in (fact_c1(u, y, g, gamma, eps), theorem_4_1(u, y, g, gamma, eps)):
        assert all(torch.isfinite(side).all() for side in bound)
        if condition(y) < 1e4:  # the sides share y's rounding, magnified: 1e4 x 2^-53 x 10 sums = 1e-11 < 1e-9
            assert not bound.violated.any()
        if not bound.ok.any():
            assert bound.status[0].split(":")[0] in {"sigma is 0", "every term is 0"}


@QUICK
@given(batches(), st.floats(-50, 50), st.integers(-20, 20))
def test_shift_and_scale_of_the_input(batch: tuple[Tensor, Tensor, Tensor, float], shift: float, power: int) -> None:
    """The gradient falls as 1/scale, every share stays: a shift is invisible, a factor a enters as 1/a^2."""
    y, g, gamma, _ = batch
    if max(condition(y), condition(y + shift)) > 1e3:
        return
    here = theorem_4_1_terms(g, y, gamma, 0.0)
    there = theorem_4_1_terms(g, 2.0**power * (y + shift), gamma, 0.0)
    # yhat keeps 1e3 x 2^-53 = 1e-13 of itself, its products with g ten terms of that: 1e-12 of the largest term
    tolerance = 1e-9 * (here.before * here.factor)
    assert (there.after * 4.0**power - here.after).abs() <= tolerance
    assert (there.alignment - here.alignment).abs() <= 1e-9 * here.before


@QUICK
@given(batches())
def test_p_is_an_orthogonal_projector(batch: tuple[Tensor, Tensor, Tensor, float]) -> None:
    y, v, _, _ = batch
    if condition(y) > 1e4:
        return
    at = moments(y)
    once = project(v, at)
    size = v.abs().max() + 1e-30
    assert (project(once, at) - once).abs().max() <= 1e-10 * size
    assert once.sum().abs() <= 1e-10 * size
    assert (once * at.yhat).sum().abs() <= 1e-10 * size
    assert once.square().sum() <= v.square().sum() * (1 + 1e-10)


@QUICK
@given(batches(), st.permutations(range(3)))
def test_the_order_of_instances_does_not_matter(batch: tuple[Tensor, Tensor, Tensor, float], order: list[int]) -> None:
    y, g, gamma, eps = batch
    ys, gs, gammas = y * torch.tensor([[1.0], [2.0], [3.0]]).double(), g.expand(3, -1), gamma.expand(3)
    one, other = (theorem_4_1(gs, a, gs, gammas, eps) for a in (ys, ys[order]))
    assert torch.allclose(one.rhs[order], other.rhs, rtol=1e-12)  # sums of at most 9 terms, in any order
    assert torch.equal(one.code[order], other.code)
