"""The trace against dense matrices; its standard error against many repetitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.cases import cross_entropy
from tests.reference.curvature import MatrixOperator, dense_hessian, symmetric
from torch import nn

from alidade import Objective, hessian_trace
from alidade.core.errors import CallError
from alidade.landscape.curvature.trace import PILOT

FLAT = symmetric(np.linspace(0.5, 1.5, 80))  # plain sampling is enough
OUTLIERS = symmetric(np.concatenate([np.linspace(0, 0.1, 596), [30.0, 25.0, 20.0, -10.0]]))
BALANCED = symmetric(np.concatenate([np.linspace(-1, 1, 80)]))  # trace 0


@pytest.mark.parametrize(
    ("matrix", "options", "method"),
    [
        (FLAT, {"rtol": 0.05}, "krylov"),
        (OUTLIERS, {"rtol": 0.05}, "krylov"),
        (OUTLIERS, {"rtol": 0.01}, "krylov"),
        (BALANCED, {"rtol": 0.0, "atol": 1.5}, "krylov"),
    ],
)
def test_the_standard_error_is_honest(matrix: np.ndarray, options: dict[str, float], method: str) -> None:
    """Over 200 seeds the truth lies within two standard errors about 95 times in 100, and the estimates are unbiased.

    A stop as soon as the error looks small finds it small by luck; ten samples have heavier tails than a normal. So
    90 % are asked for; with 95 % true, 180 of 200 would be missed with probability 0.1 %.
    """
    traces = [hessian_trace(MatrixOperator(matrix), **options, seed=seed) for seed in range(200)]
    errors = np.array([trace.value for trace in traces]) - np.trace(matrix)
    spreads = np.array([trace.standard_error for trace in traces])
    methods = [trace.method for trace in traces]
    assert all(trace.converged for trace in traces)
    assert max(set(methods), key=methods.count) == method
    assert (np.abs(errors) <= 2 * spreads).mean() >= 0.90
    assert abs(errors.mean()) < 4 * errors.std() / np.sqrt(200)
    assert spreads.mean() / errors.std() == pytest.approx(1, abs=0.35)


def test_outliers_are_taken_out_where_that_saves_products() -> None:
    trace = hessian_trace(MatrixOperator(OUTLIERS), rtol=0.01)
    samples = np.random.default_rng(0).choice([-1.0, 1.0], size=(4000, len(OUTLIERS)))
    spread = np.einsum("ni,ij,nj->n", samples, OUTLIERS, samples).std()
    assert trace.matvecs < 0.2 * (spread / (0.01 * np.trace(OUTLIERS))) ** 2


@pytest.mark.parametrize("norm", [nn.Identity(), nn.BatchNorm1d(8), nn.LayerNorm(8)], ids=str)
def test_it_is_that_of_the_dense_hessian(norm: nn.Module) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), norm, nn.Tanh(), nn.Linear(8, 4)).double()
    batch = (torch.randn(16, 5, dtype=torch.float64), torch.arange(16) % 4)
    expected = np.trace(dense_hessian(model, cross_entropy, batch))
    trace = hessian_trace(Objective(model, cross_entropy, batch), rtol=0.02)
    assert trace.converged
    # Where every dimension was taken there is no error but that of 110 float64 products.
    assert abs(trace.value - expected) <= 4 * trace.standard_error + 1e-12 * abs(expected)
    assert trace.standard_error <= 0.02 * abs(trace.value)


def test_few_dimensions_are_taken_one_by_one() -> None:
    trace = hessian_trace(MatrixOperator(symmetric(np.arange(PILOT))))
    assert (trace.method, trace.matvecs, trace.standard_error) == ("exact", PILOT, 0.0)
    assert trace.value == pytest.approx(45)


@pytest.mark.parametrize("products", [2, 5, 10, 19, 25])
def test_the_products_are_respected_and_what_is_not_met_says_so(products: int) -> None:
    operator = MatrixOperator(BALANCED)
    trace = hessian_trace(operator, rtol=1e-6, max_matvecs=products)
    assert operator.matvecs == trace.matvecs == products
    assert not trace.converged
    assert [row.status for row in trace.rows(0)] == ["not_converged", "ok", "ok"]


@pytest.mark.parametrize("options", [{"rtol": -1.0}, {"rtol": 0.0}, {"atol": float("inf")}, {"max_matvecs": 1}])
def test_wrong_calls_get_one_line(options: dict[str, float]) -> None:
    with pytest.raises(CallError, match="expected"):
        hessian_trace(MatrixOperator(FLAT), **options)
