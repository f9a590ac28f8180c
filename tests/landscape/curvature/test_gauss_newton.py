"""The Gauss-Newton matrix against dense J' H_C J, with J from torch.func and H_C from closed forms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tests.reference.curvature import dense_hessian
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from alidade import (
    CurvatureOperator,
    Objective,
    batch_sharpness,
    directional_curvature,
    hessian_trace,
    spectral_density,
    top_eigenvalues,
)
from alidade.errors import CallError, RefusedError
from alidade.landscape.conditions import Part, conditions_now
from alidade.nn import resnet, transformer

Pair = tuple[Callable[[nn.Module, Any], Any], Callable[[Any, Any], Tensor]]
CLASSIFY: Pair = (lambda model, batch: model(batch[0]), lambda outputs, batch: F.cross_entropy(outputs, batch[1]))
SQUARED: Pair = (lambda model, batch: model(batch[0]), lambda outputs, batch: (outputs - batch[1]).square().sum() / 2)


def _mlp(*norm: nn.Module) -> nn.Module:
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(3, 6), *norm, nn.GELU(), nn.Linear(6, 4)).double()


def _batch(n: int = 7) -> tuple[Tensor, Tensor]:
    return torch.randn(n, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(6)), torch.arange(n) % 4


def _jacobian(model: nn.Module, forward: Callable[[nn.Module, Any], Tensor], batch: Any) -> Tensor:
    """(outputs, parameters), one output at a time by reverse mode."""
    outputs = forward(model, batch).reshape(-1)
    parameters = [p for p in model.parameters() if p.requires_grad]
    rows = [torch.autograd.grad(entry, parameters, retain_graph=True, allow_unused=True) for entry in outputs]
    zeros = [torch.zeros_like(p) for p in parameters]
    return torch.stack(
        [torch.cat([(z if g is None else g).reshape(-1) for g, z in zip(row, zeros, strict=True)]) for row in rows]
    )


def _softmax_hessian(logits: Tensor) -> Tensor:
    """Of the mean cross-entropy over N rows: blocks (diag(p) - p p') / N."""
    p = torch.softmax(logits, 1)
    return torch.block_diag(*[(torch.diag(row) - torch.outer(row, row)) / len(p) for row in p])


def _dense(operator: CurvatureOperator) -> np.ndarray:
    return torch.stack([operator.matvec(unit) for unit in torch.eye(operator.dimension).double()]).numpy()


@pytest.mark.parametrize(
    "norm", [(), (nn.BatchNorm1d(6),), (nn.LayerNorm(6),), (nn.RMSNorm(6),)], ids=["none", "batch", "layer", "rms"]
)
@pytest.mark.parametrize("training", [True, False], ids=["batch", "running"])
def test_cross_entropy(norm: tuple[nn.Module, ...], training: bool) -> None:
    model, batch = _mlp(*norm), _batch()
    CLASSIFY[0](model, batch)  # a batch is tracked
    model.train(training)
    jacobian = _jacobian(model, CLASSIFY[0], batch)
    expected = (jacobian.T @ _softmax_hessian(model(batch[0]).detach()) @ jacobian).numpy()
    operator = CurvatureOperator(Objective(model, CLASSIFY, batch), matrix="gauss_newton")
    assert np.allclose(_dense(operator), expected, rtol=0, atol=1e-12 * np.abs(expected).max())
    values = np.linalg.eigvalsh(expected)
    top = top_eigenvalues(operator, k=3, rtol=1e-8)
    assert np.allclose(top.eigenvalues, values[:-4:-1], rtol=1e-9)
    trace = hessian_trace(Objective(model, CLASSIFY, batch), rtol=0.01, matrix="gauss_newton")
    assert abs(trace.value - values.sum()) <= 4 * trace.standard_error + 1e-10
    spectrum = spectral_density(Objective(model, CLASSIFY, batch), probes=2, matrix="gauss_newton")
    assert spectrum.nodes.min() > -1e-10 * values[-1]  # convex criterion: no negative curvature
    assert spectrum.width == pytest.approx(np.ptp(values), rel=1e-3)


def test_squared_error_is_the_jacobians_square_and_differs_from_the_hessian_by_the_residuals() -> None:
    model = _mlp()
    batch = (_batch()[0], torch.randn(7, 4, dtype=torch.float64))
    jacobian = _jacobian(model, SQUARED[0], batch)
    objective = Objective(model, SQUARED, batch)
    found = _dense(CurvatureOperator(objective, matrix="gauss_newton"))
    assert np.allclose(found, (jacobian.T @ jacobian).numpy(), rtol=0, atol=1e-12 * np.abs(found).max())
    hessian = dense_hessian(model, objective.loss_fn, batch)
    assert np.abs(hessian - found).max() > 0.1 * np.abs(hessian).max()
    interpolated = (batch[0], model(batch[0]).detach())  # residuals of 0: both are the same matrix
    here = Objective(model, SQUARED, interpolated)
    assert np.allclose(_dense(CurvatureOperator(here)), found, rtol=0, atol=1e-12 * np.abs(found).max())


def test_outputs_may_be_a_nest_of_tensors() -> None:
    class TwoHeads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.left, self.right = nn.Linear(3, 5), nn.Linear(5, 4), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> dict[str, Any]:
            y = self.body(x).tanh()
            return {"logits": self.left(y), "extra": [self.right(y), x.sum(), "text"]}

    torch.manual_seed(0)
    model, batch = TwoHeads().double(), _batch()

    def criterion(outputs: dict[str, Any], batch: Any) -> Tensor:
        return F.cross_entropy(outputs["logits"], batch[1]) + outputs["extra"][0].square().mean() * outputs["extra"][1]

    operator = CurvatureOperator(Objective(model, (lambda m, b: m(b[0]), criterion), batch), matrix="gauss_newton")
    left = _jacobian(model, lambda m, b: m(b[0])["logits"], batch)
    right = _jacobian(model, lambda m, b: m(b[0])["extra"][0], batch)
    logits = model(batch[0])["logits"].detach()
    expected = left.T @ _softmax_hessian(logits) @ left + 2 * float(batch[0].sum()) / 14 * right.T @ right
    found = _dense(operator)
    assert np.allclose(found, expected.numpy(), rtol=0, atol=1e-12 * np.abs(found).max())


@pytest.mark.parametrize(
    "build", [lambda: resnet(8, width=1 / 16, in_channels=1, classes=4), None], ids=["resnet", "lm"]
)
def test_networks_of_the_project(build: Callable[[], nn.Module] | None) -> None:
    torch.manual_seed(0)
    if build is None:
        model = transformer(vocab=5, context=4, layers=1, heads=2, width=4).double()
        tokens = torch.arange(8).view(2, 4) % 5
        pair: Pair = (
            lambda m, x: m(x)[:, :-1].flatten(0, 1),
            lambda outputs, x: F.cross_entropy(outputs, x[:, 1:].flatten()),
        )
        batch: Any = tokens
    else:
        model, pair = build().double(), CLASSIFY
        batch = (torch.randn(5, 1, 8, 8).double(), torch.arange(5) % 4)
    jacobian = _jacobian(model, pair[0], batch)
    curved = _softmax_hessian(pair[0](model, batch).detach())
    operator = CurvatureOperator(Objective(model, pair, batch), matrix="gauss_newton")
    vector = torch.randn(operator.dimension, dtype=torch.float64)
    expected = jacobian.T @ (curved @ (jacobian @ vector))
    assert torch.allclose(operator.matvec(vector), expected, rtol=0, atol=1e-11 * float(expected.norm()))


def test_blocks_parts_and_the_gradient() -> None:
    model, (x, y) = _mlp(nn.LayerNorm(6)), _batch(8)
    objective = Objective(model, CLASSIFY, (x, y))
    whole = CurvatureOperator(objective, matrix="gauss_newton")
    dense = _dense(whole)
    block = CurvatureOperator(objective, names=["3"], matrix="gauss_newton")
    size = block.dimension
    assert np.allclose(_dense(block), dense[-size:, -size:], atol=1e-13)
    now = conditions_now(model)
    parts = [Part((x[:3], y[:3]), now, 3 / 8), Part((x[3:], y[3:]), now, 5 / 8)]
    split = CurvatureOperator(Objective.of_parts(model, CLASSIFY, parts), matrix="gauss_newton")
    assert np.allclose(_dense(split), dense, atol=1e-13)
    assert (split.route, split.gradient()) == ("gauss_newton_rebuilt", None)
    expected = whole.block.flat(objective.gradient())
    assert torch.allclose(whole.gradient(), expected, rtol=0, atol=1e-14)
    g = expected.numpy()
    assert batch_sharpness(whole).value == pytest.approx(g @ dense @ g / (g @ g))
    along = directional_curvature(objective, objective.gradient(), matrix="gauss_newton")
    assert along.value == pytest.approx(g @ dense @ g / (g @ g))


def test_a_forward_that_changes_its_batch_gets_it_fresh() -> None:
    model, batch = _mlp(), [_batch()[0].clone(), _batch()[1]]
    before = batch[0].clone()

    def forward(model: nn.Module, batch: Any) -> Tensor:
        batch[0].sub_(1.0)
        return model(batch.pop(0))

    pair: Pair = (forward, lambda outputs, batch: F.cross_entropy(outputs, batch[0]))
    operator = CurvatureOperator(Objective(model, pair, batch), matrix="gauss_newton")
    jacobian = _jacobian(model, lambda m, b: m(b), before - 1.0)
    expected = jacobian.T @ _softmax_hessian(model(before - 1.0).detach()) @ jacobian
    assert np.allclose(_dense(operator), expected.numpy(), atol=1e-13)
    assert len(batch) == 2
    assert torch.equal(batch[0], before)


def test_a_linear_criterion_has_none() -> None:
    model, batch = _mlp(), _batch()
    pair: Pair = (CLASSIFY[0], lambda outputs, batch: outputs.sum())
    operator = CurvatureOperator(Objective(model, pair, batch), matrix="gauss_newton")
    assert not operator.matvec(torch.ones(operator.dimension).double()).any()


class _Reentrant(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 5), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(checkpoint(lambda y: self.first(y).tanh(), x.clone().requires_grad_(), use_reentrant=True))


def test_what_has_no_gauss_newton_matrix_is_refused_in_one_line() -> None:
    model, batch = _mlp(), _batch()
    with pytest.raises(CallError, match=r"expected an objective made with \(forward, criterion\)"):
        top_eigenvalues(Objective(model, lambda m, b: m(b[0]).sum(), batch), matrix="gauss_newton")
    detached: Pair = (lambda m, b: m(b[0]).detach(), CLASSIFY[1])
    with pytest.raises(CallError, match="expected outputs that depend on the parameters"):
        top_eigenvalues(Objective(model, detached, batch), matrix="gauss_newton")
    aside: Pair = (CLASSIFY[0], lambda outputs, batch: outputs.detach().sum())
    with pytest.raises(CallError, match="criterion: expected a loss that depends on the outputs"):
        top_eigenvalues(Objective(model, aside, batch), matrix="gauss_newton")
    with pytest.raises(RefusedError, match="use_reentrant=False"):
        top_eigenvalues(Objective(_Reentrant().double(), CLASSIFY, batch), matrix="gauss_newton")
    endless: Pair = (CLASSIFY[0], lambda outputs, batch: outputs.exp().exp().exp().exp().sum())
    with pytest.raises(RefusedError, match="finite"):
        top_eigenvalues(Objective(model, endless, batch), matrix="gauss_newton")
