"""The deep linear network: layers, gains, and the matrices multiplied before the data."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import alidade
from alidade.core.errors import CallError
from alidade.nn import DeepLinear, LpNorm, deep_linear


def squared_error(network: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return (network(batch[0]) - batch[1]).square().sum()


def paper_like(norm: str = "none", layers: int = 25) -> tuple[DeepLinear, tuple[Tensor, Tensor]]:
    torch.manual_seed(0)
    x = torch.randn(1000, 10, dtype=torch.float64)
    return deep_linear(layers, norm=norm).double(), (x, x @ torch.randn(10, 10, dtype=torch.float64))


def test_layers_are_named_as_the_paper_counts_them() -> None:
    network = deep_linear(norm="batch")
    expected = [name for k in range(1, 26) for name in (f"linear{k}", f"norm{k}")]
    assert [name for name, _ in network.layers.named_children()] == expected
    linear = [module for module in network.layers if isinstance(module, nn.Linear)]
    assert all(module.weight.shape == (10, 10) and module.bias is None for module in linear)
    assert sum(isinstance(module, nn.BatchNorm1d) for module in network.layers) == 25
    assert {p.dtype for p in network.parameters()} == {torch.float32}


def test_weights_have_the_gain_of_glorot() -> None:
    """Uniform on +-sqrt(6 / (fan_in + fan_out)): deviation sqrt(2 / (fan_in + fan_out))."""
    torch.manual_seed(0)
    weights = torch.cat([p.detach().flatten() for p in deep_linear(layers=40, width=50).parameters()])
    # The variance of n uniform draws has the relative deviation sqrt(0.8 / n): five of it.
    assert float(weights.var()) == pytest.approx(2 / 100, rel=5 * math.sqrt(0.8 / len(weights)))
    assert math.sqrt(6 / 100) * 0.999 < float(weights.abs().max()) <= math.sqrt(6 / 100)


def test_the_network_is_the_product_of_its_matrices() -> None:
    network, (x, _) = paper_like(layers=4)
    matrices = [module.weight for module in network.layers if isinstance(module, nn.Linear)]
    product = reduce(lambda done, matrix: matrix @ done, matrices)
    torch.testing.assert_close(network(x), x @ product.T, rtol=1e-12, atol=1e-12)


@pytest.fixture
def no_linear_layer_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(module: nn.Linear, x: Tensor) -> Tensor:
        raise AssertionError("a linear layer was called")

    monkeypatch.setattr(nn.Linear, "forward", refuse)


@pytest.mark.usefixtures("no_linear_layer_is_called")
def test_while_nobody_watches_the_layers_are_not_called() -> None:
    network, batch = paper_like()
    squared_error(network, batch).backward()
    assert all(p.grad is not None for p in network.parameters())


def _replace(layer: nn.Module) -> None:
    layer.forward = lambda x: type(layer).forward(layer, x)  # type: ignore[method-assign]


WATCHES: dict[str, Callable[[nn.Module], Any]] = {
    "forward": lambda layer: layer.register_forward_hook(lambda module, inputs, output: None),
    "pre": lambda layer: layer.register_forward_pre_hook(lambda module, inputs: None),
    "backward": lambda layer: layer.register_full_backward_hook(lambda module, inputs, outputs: None),
    "backward_pre": lambda layer: layer.register_full_backward_pre_hook(lambda module, outputs: None),
    "replaced": _replace,
    "parametrized": lambda layer: nn.utils.parametrize.register_parametrization(layer, "weight", nn.Identity()),
}


@pytest.mark.parametrize("watch", WATCHES)
def test_watched_layers_are_called_and_nothing_else_changes(watch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loss and gradient agree to rounding: 25 products of matrices of norm 1 to 3, in one order or the other."""
    network, batch = paper_like()
    free = squared_error(network, batch)
    gradients = torch.autograd.grad(free, list(network.parameters()))
    WATCHES[watch](network.layers.linear9)
    calls: list[nn.Module] = []
    original = nn.Linear.forward
    monkeypatch.setattr(nn.Linear, "forward", lambda module, x: calls.append(module) or original(module, x))
    watched = squared_error(network, batch)
    assert len(calls) == 25
    torch.testing.assert_close(watched, free, rtol=1e-11, atol=0)
    there = torch.autograd.grad(watched, list(network.parameters()))
    for here, other in zip(gradients, there, strict=True):
        assert float((other - here).norm()) <= 1e-10 * float(here.norm())


def test_a_hook_anywhere_in_torch_counts_as_watching() -> None:
    network, (x, _) = paper_like()
    seen: list[nn.Module] = []
    hook = nn.modules.module.register_module_forward_hook(lambda module, inputs, output: seen.append(module))
    try:
        network(x)
    finally:
        hook.remove()
    assert len([module for module in seen if isinstance(module, nn.Linear)]) == 25


def test_the_activations_of_every_layer_can_be_measured() -> None:
    network, (x, y) = paper_like()
    layers = ["layers.linear1", "layers.linear11", "layers.norm24"]
    found = alidade.activation_statistics(network, squared_error, (x, y), layers)
    expected = x
    for module in list(network.layers)[:48]:
        expected = module(expected)
    assert tuple(found.layers) == tuple(layers)
    assert found["layers.norm24"].units.mean == pytest.approx(expected.mean(0).detach().numpy(), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("norm", ["none", "l1"])
def test_hessian_vector_products_are_those_of_differences(norm: str) -> None:
    """Central differences of the gradient with a step h err by h^2 times the fourth derivative, and by eps / h."""
    torch.manual_seed(0)
    network = deep_linear(3, 4, norm=norm).double()
    batch = (torch.randn(20, 4, dtype=torch.float64), torch.randn(20, 4, dtype=torch.float64))
    objective = alidade.Objective(network, squared_error, batch)
    v = {name: torch.randn_like(p) for name, p in objective.parameters.items()}
    h = 1e-5
    ends = [
        objective.gradient({name: p + sign * h * v[name] for name, p in objective.parameters.items()})
        for sign in (1, -1)
    ]
    for name, product in objective.hvp(v).items():
        torch.testing.assert_close(product, (ends[0][name] - ends[1][name]) / (2 * h), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("norm", "kind"), [("none", nn.Identity), ("linf", LpNorm), ("layer", nn.LayerNorm)])
def test_a_norm_stands_behind_every_layer(norm: str, kind: type[nn.Module]) -> None:
    network, (x, _) = paper_like(norm, layers=3)
    assert [type(module) for module in network.layers] == [nn.Linear, kind] * 3
    assert network(x).shape == (1000, 10)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: deep_linear(0), "layers, width: expected at least 1 of each, got 0 and 10"),
        (lambda: deep_linear(width=0), "layers, width: expected at least 1 of each, got 25 and 0"),
        (lambda: deep_linear(norm="l3"), "norm: expected one of 'none', 'batch'"),
        (lambda: deep_linear(init="zero"), "init: expected 'he' or 'glorot', got 'zero'"),
    ],
)
def test_wrong_calls_say_what_was_expected(call: object, message: str) -> None:
    with pytest.raises(CallError, match=message):
        call()  # type: ignore[operator]
