"""The networks that the paper trains."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from alidade.core.errors import CallError
from alidade.nn import GroupRMSNorm, LpNorm, NoisyBatchNorm, UnitNoise, norm, vgg
from alidade.nn.norm import CENTRING, groups_of
from alidade.nn.vgg import PLANS

KINDS = {
    "none": nn.Identity, "batch": nn.BatchNorm2d, "noisy": NoisyBatchNorm, "noise": UnitNoise, "l1": LpNorm,
    "l2": LpNorm, "linf": LpNorm, "layer": nn.GroupNorm, "group": nn.GroupNorm, "rms": GroupRMSNorm,
}  # fmt: skip


@pytest.mark.parametrize("conv_layers", [8, 10, 13, 16])
@pytest.mark.parametrize("name", KINDS)
def test_a_vgg_has_its_layers_in_order(conv_layers: int, name: str) -> None:
    network = vgg(conv_layers, width=1 / 16, norm=name, in_channels=1, classes=7)
    children = [(label, module) for label, module in network.features.named_children() if "pool" not in label]
    numbers = range(1, conv_layers + 1)
    assert [label for label, _ in children] == [f"{kind}{k}" for k in numbers for kind in ("conv", "norm", "relu")]
    assert [type(module) for _, module in children] == [nn.Conv2d, KINDS[name], nn.ReLU] * conv_layers
    # A bias stays where the norm would not subtract it from each channel.
    assert all((conv.bias is None) == (name in CENTRING) for _, conv in children[::3])
    images = torch.randn(3, 1, 32, 32)
    logits = network(images)
    assert logits.shape == (3, 7)
    gradient = torch.autograd.grad(logits.square().sum(), network.features.conv1.weight)[0]
    assert gradient.isfinite().all()


@pytest.mark.parametrize(("conv_layers", "vgg_name"), [(8, 11), (10, 13), (13, 16), (16, 19)])
def test_the_plans_are_those_of_simonyan_and_zisserman(conv_layers: int, vgg_name: int) -> None:
    """Table 1: VGG-n has n - 3 convolutions in five blocks; only the number in each block differs."""
    in_blocks = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}[vgg_name]
    expected: list[int | str] = []
    for count, channels in zip(in_blocks, (64, 128, 256, 512, 512), strict=True):
        expected += [channels] * count + ["M"]
    assert list(PLANS[conv_layers]) == expected
    assert sum(in_blocks) == conv_layers == vgg_name - 3


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(("dims", "shape"), [(1, (6, 8)), (2, (6, 8, 3, 3)), (3, (6, 8, 2, 2, 2))])
def test_every_norm_keeps_the_shape_and_differentiates_twice(name: str, dims: int, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer = norm(name, 8, dims).double()
    y = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    out = layer(y)
    assert out.shape == shape
    (gradient,) = torch.autograd.grad(out.pow(3).sum(), y, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), y)
    assert second.isfinite().all()
    assert second.any()


@pytest.mark.parametrize("name", ["layer", "group", "rms"])
@pytest.mark.parametrize(("dims", "shape"), [(1, (5, 8)), (2, (5, 8, 3, 3))])
def test_norms_of_single_samples_are_those_of_their_definition(name: str, dims: int, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer, y = norm(name, 8, dims).double(), torch.randn(shape, dtype=torch.float64) + 0.5
    gain, shift = torch.randn(2, 8, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(gain)
        if name != "rms":
            layer.bias.copy_(shift)
    for sample, found in zip(y, layer(y), strict=True):
        groups = sample.reshape(4 if name == "group" else 1, -1)  # 8 channels: 4 groups of two
        centred = groups if name == "rms" else groups - groups.mean(1, keepdim=True)
        scaled = (centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt()).reshape(8, -1)
        expected = scaled * gain[:, None] + (0 if name == "rms" else shift[:, None])
        torch.testing.assert_close(found.reshape(8, -1), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("features", [*range(1, 70), 96, 512])
def test_groups_divide_the_channels_and_are_never_single_ones(features: int) -> None:
    groups = groups_of(features)
    allowed = [g for g in range(1, 33) if features % g == 0 and (features // g > 1 or features == 1)]
    assert groups == max(allowed)


def test_the_widest_has_the_parameters_of_vgg16() -> None:
    """Convolutions 3x3 of VGG-16 (Simonyan & Zisserman 2015, configuration D) and a head of 512 x 10."""
    channels = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    expected = sum(9 * a * b + b for a, b in pairwise(channels)) + 512 * 10 + 10
    assert sum(p.numel() for p in vgg(13).parameters()) == expected == 14_719_818


@pytest.mark.parametrize("init", ["he", "glorot"])
def test_weights_have_the_variance_of_their_initialization(init: str) -> None:
    torch.manual_seed(0)
    network = vgg(8, width=0.5, norm="none", init=init)
    for module in network.modules():
        if not isinstance(module, nn.Conv2d | nn.Linear):
            continue
        out, fan_in = module.weight.shape[0], module.weight[0].numel()
        fan_out = out * module.weight[0, 0].numel() if module.weight.ndim == 4 else out
        he = (2 if isinstance(module, nn.Conv2d) else 1) / fan_in
        variance = he if init == "he" else 2 / (fan_in + fan_out)
        # The variance of n normal draws has the relative deviation sqrt(2 / n), of uniform ones less: 5 of it.
        assert float(module.weight.detach().var()) == pytest.approx(
            variance, rel=5 * math.sqrt(2 / module.weight.numel())
        )
        assert module.bias is None or not module.bias.any()


def test_noise_has_the_moments_of_algorithm_1() -> None:
    """E a = E m = 0 and E s = (1 + 1.25) / 2 over units; within a unit mean and scale are shared."""
    torch.manual_seed(0)
    units, samples = 4000, 200
    layer = UnitNoise(units)
    at_zero, at_ten = (layer(torch.full((samples, units), value, dtype=torch.float64)) for value in (0.0, 10.0))
    shift, spread = at_zero.mean(0), at_zero - at_zero.mean(0)
    # A mean of k values of deviation d has the deviation d / sqrt(k); five of it. U(-1/2, 1/2): d = 0.289; plus the
    # mean over the samples of U(-0.1, 0.1), d = 0.0577 / sqrt(200).
    assert float(shift.mean()) == pytest.approx(0, abs=5 * 0.289 / math.sqrt(units))
    assert float(shift.abs().max()) < 0.5 + 5 * 0.0577 / math.sqrt(samples)
    assert float(shift.var()) == pytest.approx(1 / 12, rel=5 * math.sqrt(2 / units))
    assert float(spread.abs().max()) < 0.2 + 5 * 0.0577 / math.sqrt(samples)
    assert float(spread.var()) == pytest.approx(0.2**2 / 12, rel=0.02)  # (n - 1) / n, and sqrt(2 / 800000) = 0.0016
    scale = at_ten.mean(0) / 10  # its mean over units: 1.125, deviation sqrt(0.0052 + 0.083 / 100)
    assert float(scale.mean()) == pytest.approx(1.125, abs=5 * 0.078 / math.sqrt(units))
    assert not torch.equal(at_zero, layer(torch.zeros(samples, units, dtype=torch.float64)))  # fresh in every pass


@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 3, 3)])
def test_noise_is_off_in_eval_mode_and_keeps_shape_and_type(shape: tuple[int, ...]) -> None:
    layer, a = UnitNoise(4), torch.randn(shape, dtype=torch.float64)
    assert (layer(a).shape, layer(a).dtype) == (a.shape, a.dtype)
    assert torch.equal(layer.eval()(a), a)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: norm("l3", 3), "norm: expected one of 'none', 'batch', .* 'rms', got 'l3'"),
        (lambda: norm("batch", 3, dims=4), r"dims: expected one of \[1, 2, 3\], got 4"),
        (lambda: vgg(9), r"conv_layers: expected one of \[8, 10, 13, 16\], got 9"),
        (lambda: vgg(init="zero"), "init: expected 'he' or 'glorot', got 'zero'"),
        (lambda: vgg(norm="l3"), "norm: expected one of"),
    ],
)
def test_unknown_names_list_the_known_ones(call: object, message: str) -> None:
    with pytest.raises(CallError, match=message):
        call()  # type: ignore[operator]
