"""The lp norms of section 3.3: values, Jacobians, running averages."""

from __future__ import annotations

import math

import pytest
import torch
from tests.reference.norms import lp_backward, lp_norm, lp_scale
from torch import Tensor, nn

import alidade
from alidade.core.errors import CallError
from alidade.landscape.statistics import describe_statistics, switch_statistics
from alidade.nn import LpNorm, NoisyBatchNorm

ORDERS = [1, 2, math.inf]
SHAPES = [(9, 3), (4, 3, 5), (4, 3, 2, 3)]


def layer_and_input(p: float, shape: tuple[int, ...], eps: float = 1e-5) -> tuple[LpNorm, Tensor]:
    torch.manual_seed(len(shape))
    layer = LpNorm(p, shape[1], eps).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([0.5, -2.0, 3.0]))
        layer.bias.copy_(torch.tensor([1.0, 0.0, -4.0]))
    return layer, torch.randn(shape, dtype=torch.float64) + 0.7


def by_unit(y: Tensor) -> list[list[float]]:
    return y.detach().transpose(0, 1).flatten(1).tolist()


def assert_units(found: Tensor, expected: list[list[float]]) -> None:
    """Sums of at most 24 numbers of order 1 and a handful of operations: some tens of roundings of 1.1e-16."""
    twin = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(found.transpose(0, 1).flatten(1), twin, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("eps", [0.0, 1e-5, 0.3])
def test_values_are_those_of_the_definition(p: float, shape: tuple[int, ...], eps: float) -> None:
    layer, y = layer_and_input(p, shape, eps)
    expected = [
        lp_norm(unit, p, gamma, beta, eps)
        for unit, gamma, beta in zip(by_unit(y), layer.weight.tolist(), layer.bias.tolist(), strict=True)
    ]
    assert_units(layer(y), expected)


@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_jacobian_is_that_of_the_fact_sheet(p: float, shape: tuple[int, ...]) -> None:
    layer, y = layer_and_input(p, shape, eps=0.0)
    g = torch.randn_like(y)
    (found,) = torch.autograd.grad(layer(y.requires_grad_()), y, g)
    expected = [
        lp_backward(unit, gradient, p, gamma)
        for unit, gradient, gamma in zip(by_unit(y), by_unit(g), layer.weight.tolist(), strict=True)
    ]
    assert_units(found, expected)


@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize("shape", [(6, 3), (2, 3, 2, 2)])
@pytest.mark.parametrize("training", [True, False])
def test_both_derivatives_are_those_of_central_differences(p: float, shape: tuple[int, ...], training: bool) -> None:
    """In the input, gain and shift; the step 1e-6 crosses no sign and no change of the largest sample."""
    layer, y = layer_and_input(p, shape)
    layer.train(training)
    assert y.abs().min() > 1e-4
    largest = y.abs().transpose(0, 1).flatten(1).topk(2).values
    assert (largest[:, 0] - largest[:, 1]).min() > 1e-4
    inputs = (y.requires_grad_(), *(p.detach().clone().requires_grad_() for p in layer.parameters()))

    def normalized(y: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (y,))

    assert torch.autograd.gradcheck(normalized, inputs)
    assert torch.autograd.gradgradcheck(normalized, inputs)


@pytest.mark.parametrize("p", ORDERS)
def test_the_scale_of_the_input_is_divided_out_and_the_mean_is_not(p: float) -> None:
    layer, y = layer_and_input(p, (9, 3), eps=0.0)
    torch.testing.assert_close(layer(1000 * y), layer(y), rtol=1e-12, atol=1e-12)
    assert not torch.allclose(layer(y + 5), layer(y), rtol=0.1)  # BatchNorm would not see the shift


@pytest.mark.parametrize("p", ORDERS)
@pytest.mark.parametrize("constant", [0.0, 3.0])
def test_a_constant_unit_is_the_shift(p: float, constant: float) -> None:
    layer, _ = layer_and_input(p, (9, 3))
    y = torch.full((8, 3), constant, dtype=torch.float64, requires_grad=True)
    out = layer(y)
    assert torch.equal(out, layer.bias.detach().expand(8, 3))
    (gradient,) = torch.autograd.grad(out.square().sum(), y, create_graph=True)
    (second,) = torch.autograd.grad(gradient.sum(), y)
    assert gradient.isfinite().all()
    assert second.isfinite().all()
    assert float(gradient.detach().abs().max()) < 1e-9  # every sample has the same gradient, and the mean goes


@pytest.mark.parametrize("p", ORDERS)
def test_running_averages_are_those_of_batch_norm_with_another_scale(p: float) -> None:
    layer, y = layer_and_input(p, (4, 3, 2, 3))
    reference = nn.BatchNorm2d(3).double()
    scale = torch.ones(3, dtype=torch.float64)
    for batch in (y, 3 * y - 1, y.square()):
        layer(batch)
        reference(batch)
        scales = [lp_scale(unit, p) for unit in by_unit(batch)]
        scale = 0.9 * scale + 0.1 * torch.tensor(scales, dtype=torch.float64)
    torch.testing.assert_close(layer.running_mean, reference.running_mean)
    torch.testing.assert_close(layer.running_scale, scale)
    assert int(layer.num_batches_tracked) == 3
    before = {name: buffer.clone() for name, buffer in layer.named_buffers()}
    gain = (layer.weight / (scale.square() + layer.eps).sqrt())[:, None, None]
    expected = (y - layer.running_mean[:, None, None]) * gain + layer.bias[:, None, None]
    torch.testing.assert_close(layer.eval()(y), expected)
    torch.testing.assert_close(layer(y[:1]), expected[:1])  # a sample alone comes out the same
    assert all(torch.equal(before[name], buffer) for name, buffer in layer.named_buffers())


def test_running_averages_of_two_batches_by_hand() -> None:
    layer = LpNorm("inf", 1)
    layer(torch.tensor([[1.0], [-3.0]]))  # mean -1, scale 3
    layer(torch.tensor([[4.0], [2.0]]))  # mean 3, scale 4
    assert layer.running_mean.tolist() == pytest.approx([0.9 * -0.1 + 0.3])
    assert layer.running_scale.tolist() == pytest.approx([0.9 * (0.9 + 0.3) + 0.4])


@pytest.mark.parametrize("make", [lambda: LpNorm(1, 4), lambda: NoisyBatchNorm(4, dims=1)])
def test_probes_see_and_switch_its_statistics(make: object) -> None:
    model = nn.Sequential(nn.Linear(3, 4), make(), nn.Dropout(0.5))  # type: ignore[operator]
    assert describe_statistics(model) == "batch"
    with pytest.raises(CallError, match="has tracked no batch"):
        alidade.Objective(model, lambda model, x: model(x).square().sum(), torch.randn(8, 3), statistics="running")
    model(torch.randn(8, 3))
    switch_statistics(model, "running")
    assert describe_statistics(model) == "running"
    modes = {type(module).__name__: module.training for module in model.modules()}
    assert modes.get("LpNorm", False) is modes.get("BatchNorm1d", False) is False
    assert modes["Dropout"] is modes.get("UnitNoise", True) is True  # noise and dropout keep their modes


def test_an_objective_on_running_statistics_is_that_of_eval_mode() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(3, 4), LpNorm(2, 4)).double(), torch.randn(8, 3).double()
    model(x)
    objective = alidade.Objective(model, lambda model, x: model(x).square().sum(), x, statistics="running")
    value = objective.value()
    assert objective.statistics == "running"
    assert torch.equal(value, model.eval()(x).square().sum())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: LpNorm(3, 4), "p: expected 1, 2 or 'inf', got 3"),
        (lambda: LpNorm(1, 4)(torch.ones(2, 3)), r"y: expected shape \(batch, 4, ...\), got \(2, 3\)"),
        (lambda: LpNorm(1, 4)(torch.ones(4)), r"y: expected shape \(batch, 4, ...\), got \(4,\)"),
        (lambda: LpNorm(1, 4)(torch.ones(1, 4)), r"more than one sample per unit in train mode, got shape \(1, 4\)"),
    ],
)
def test_wrong_calls_say_what_was_expected(call: object, message: str) -> None:
    with pytest.raises(CallError, match=message):
        call()  # type: ignore[operator]
