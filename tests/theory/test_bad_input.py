"""Wrong calls get one line that says what to do; degenerate instances get a status, never NaN."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from alidade.core.errors import CallError
from alidade.theory import (
    batch_norm,
    block_hessian,
    equation_58,
    fact_c1,
    lemma_4_5,
    lp_norm,
    observation_4_3,
    scale_invariance_gradient,
    scale_invariance_orthogonality,
    theorem_4_1,
    theorem_4_2_second,
    theorem_4_4,
)

Y = torch.tensor([[1.0, 2.0, 4.0], [0.0, 5.0, 1.0]], dtype=torch.float64)
ONE = torch.ones(2, dtype=torch.float64)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: theorem_4_1(Y, Y, Y, ONE, form="printed v4"), "form: expected one of printed v3, printed v5, correc"),
        (lambda: fact_c1(Y, Y, Y, ONE, form="printed v5"), "form: expected one of printed v3, corrected; got"),
        (lambda: theorem_4_1(Y, Y[0], Y, ONE), r"y: expected a floating-point tensor of shape \(instances, m\); got"),
        (lambda: theorem_4_1(Y, Y.long(), Y, ONE), "y: expected a floating-point tensor"),
        (lambda: theorem_4_1(Y[:, :2], Y, Y, ONE), r"u: expected shape \(2, 3\) like y; got \(2, 2\)"),
        (lambda: theorem_4_1(Y, Y, Y, ONE[:1]), r"gamma: expected shape \(2,\), one per instance; got \(1,\)"),
        (lambda: theorem_4_1(Y, Y, Y, ONE, eps=-1.0), "eps: expected one number >= 0, or 2 of them"),
        (lambda: theorem_4_1(Y, Y, Y, ONE, eps=torch.ones(3)), "eps: expected one number >= 0, or 2 of them; got 3"),
        (lambda: theorem_4_4(Y, Y, Y, ONE, radius=0.0), "radius: expected a number above 0; got 0.0"),
        (lambda: equation_58(Y, torch.eye(3)), r"A: expected shape \(2, 3, 3\)"),
        (lambda: equation_58(Y, torch.eye(3).expand(2, 3, 3), radius=-1.0), "radius: expected a number above 0"),
        (lambda: lemma_4_5(Y, Y), r"start, optimum: expected two tensors of one shape \(instances, units, d\)"),
        (lambda: lp_norm(Y, ONE, ONE, 3), "p: expected 1, 2 or inf; got 3"),
        (lambda: batch_norm(torch.empty(2, 0), ONE, ONE), r"y: expected .* got \(2, 0\)"),
        (lambda: scale_invariance_orthogonality(Y, Y[:, :2], Y, Y, ONE), r"w, weight_gradient: expected two tensors"),
    ],
)
def test_a_wrong_call_says_what_to_do(call: Callable[[], object], message: str) -> None:
    with pytest.raises(CallError, match=message) as error:
        call()
    assert "\n" not in str(error.value)


def test_each_reason_is_told_and_nothing_is_nan() -> None:
    y = Y.repeat(3, 1)
    y[1], y[2, 0], gamma = 1 / 3, float("inf"), torch.tensor([1.0, 1.0, 1.0, 0.0, float("nan"), 1.0]).double()
    g = torch.ones_like(y)
    g[5] = 0
    H = torch.eye(3).double().expand(6, 3, 3)
    bounds = [
        fact_c1(g, y, g, gamma),
        theorem_4_1(g, y, g, gamma),
        theorem_4_4(g, y, g, gamma),
        block_hessian(H, H, y, g, gamma),
    ]
    for bound in bounds:
        reasons = [reason.split(":")[0] for reason in bound.status]
        assert reasons[:5] == ["ok", "sigma is 0", "not finite", "gamma is 0", "not finite"]
        for side in (*bound, bound.scale, bound.relative_slack):
            assert torch.isfinite(side).all()
            assert not side[1:5].any()
        assert not bound.violated[1:5].any()
    assert bounds[1].status[5] == "every term is 0: nothing to compare"


@pytest.mark.parametrize("eps", [0.0, 1e-5])
def test_one_sample_is_said_to_be_one(eps: float) -> None:
    one = torch.ones(2, 1)
    for bound in (theorem_4_1(one, one, one, torch.ones(2), eps), observation_4_3(one, eps)):
        assert bound.status == ("m is 1: one value has no spread",) * 2
        assert torch.isfinite(bound.slack).all()


def test_instances_outside_a_hypothesis_are_not_judged() -> None:
    g, u = Y, 2 * Y
    bound = theorem_4_2_second(-u, -u, -g, u, Y, g, ONE)  # H = -I is no convex direction
    assert set(bound.status) == {"a hypothesis does not hold for this instance"}
    assert not bound.violated.any()
    negative = scale_invariance_gradient(Y, Y, -ONE)
    assert not negative.ok.any()
