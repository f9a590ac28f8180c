"""Residual networks: shapes, counts, shortcuts, names."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import alidade
from alidade.core.errors import CallError
from alidade.nn import resnet


def expected_parameters(depth: int, stages: tuple[int, int, int], with_norm: bool, in_channels: int = 3) -> int:
    """Convolutions 3x3; a gain and a shift per channel with a norm, a bias without; a head of 10."""
    n, per_channel = (depth - 2) // 6, 2 if with_norm else 1
    pairs = [(in_channels, stages[0])]
    for number, stage in enumerate(stages):
        pairs += [(stages[max(0, number - 1)], stage)] + [(stage, stage)] * (2 * n - 1)
    return sum(9 * a * b + per_channel * b for a, b in pairs) + 10 * stages[2] + 10


@pytest.mark.parametrize("depth", [8, 20, 32])
@pytest.mark.parametrize("norm", ["none", "batch"])
def test_the_parameters_are_those_of_the_plan(depth: int, norm: str) -> None:
    count = sum(p.numel() for p in resnet(depth, norm=norm).parameters())
    assert count == expected_parameters(depth, (16, 32, 64), norm == "batch")


def test_a_narrow_one_has_its_shapes_and_names() -> None:
    network = resnet(14, width=0.25, norm="l2", in_channels=1, classes=7)
    shapes: dict[str, tuple[int, ...]] = {}
    for name, module in network.named_modules():
        module.register_forward_hook(lambda module, inputs, output, name=name: shapes.update({name: output.shape}))
    assert network(torch.randn(2, 1, 32, 32)).shape == (2, 7)
    assert shapes["conv"] == shapes["blocks.block2"] == (2, 4, 32, 32)
    assert shapes["blocks.block3.conv1"] == shapes["blocks.block4.norm2"] == (2, 8, 16, 16)
    assert shapes["blocks.block5"] == shapes["blocks.block6"] == (2, 16, 8, 8)
    assert all(module.bias is None for module in network.modules() if isinstance(module, nn.Conv2d))


def test_blocks_whose_branch_is_zero_pass_their_input_on() -> None:
    """Then the network is: convolution, ReLU, every second pixel twice, mean, head; added channels are 0."""
    torch.manual_seed(0)
    network, images = resnet(8, width=0.25, norm="none").double(), torch.randn(2, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        for name, parameter in network.blocks.named_parameters():
            if "conv2" in name:
                parameter.zero_()
    kept = F.relu(network.conv(images))[:, :, ::4, ::4].mean((2, 3))
    torch.testing.assert_close(network(images), kept @ network.head.weight[:, :4].T + network.head.bias)


def test_it_differentiates_twice() -> None:
    torch.manual_seed(0)
    network, images = resnet(8, width=0.25).double(), torch.randn(4, 3, 8, 8, dtype=torch.float64)
    objective = alidade.Objective(network, lambda model, x: model(x).square().mean(), images)
    v = {name: torch.randn_like(p) for name, p in objective.parameters.items()}
    other = {name: torch.randn_like(p) for name, p in objective.parameters.items()}
    there, back = objective.hvp(v), objective.hvp(other)  # the Hessian is symmetric: <u, H v> = <v, H u>
    products = [sum(float((a[name] * b[name]).sum()) for name in v) for a, b in ((other, there), (v, back))]
    assert products[0] == pytest.approx(products[1], rel=1e-9)
    assert abs(products[0]) > 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: resnet(18), r"depth: expected 6 n \+ 2 \(8, 14, 20, ...\), got 18"),
        (lambda: resnet(2), r"depth: expected 6 n \+ 2"),
        (lambda: resnet(norm="l3"), "norm: expected one of"),
        (lambda: resnet(init="zero"), "init: expected 'he' or 'glorot', got 'zero'"),
    ],
)
def test_wrong_calls_say_what_was_expected(call: object, message: str) -> None:
    with pytest.raises(CallError, match=message):
        call()  # type: ignore[operator]
