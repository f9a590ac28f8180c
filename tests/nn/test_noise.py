"""Algorithm 1, every distribution by itself and all together."""

from __future__ import annotations

import random

import pytest
import torch
from scipy import stats
from tests.reference.norms import algorithm_1
from torch import Tensor, nn

from alidade.nn import NoisyBatchNorm, UnitNoise, deep_linear, norm

#: A test at a fixed seed passes or fails for good; a right sampler would fail one seed in a thousand.
LEVEL = 1e-3


def shifts_and_factors(layer: UnitNoise, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """m and s of one forward pass: what comes out of 0, and the difference to what comes out of 1."""
    outputs = []
    for value in (0.0, 1.0):
        torch.manual_seed(7)
        outputs.append(layer(torch.full(shape, value, dtype=torch.float64)))
    return outputs[0], outputs[1] - outputs[0]


@pytest.mark.parametrize("shape", [(50, 2000), (2, 2000, 5, 5)])
def test_units_draw_their_moments_and_samples_draw_around_them(shape: tuple[int, ...]) -> None:
    quiet = {"mean_spread": 0.0, "scale_spread": 0.0}
    shifts, factors = shifts_and_factors(UnitNoise(2000, **quiet), shape)
    for found, (low, high) in ((shifts, (-0.5, 0.5)), (factors, (1.0, 1.25))):
        units = found.transpose(0, 1).flatten(1)
        assert float((units - units[:, :1]).abs().max()) < 1e-15  # one draw per unit: all samples of it agree
        assert stats.kstest(units[:, 0].numpy(), "uniform", (low, high - low)).pvalue > LEVEL
    alike = {"mean_range": 0.0, "scale_limit": 1.0}
    shifts, factors = shifts_and_factors(UnitNoise(2000, **alike), shape)
    assert stats.kstest(shifts.flatten().numpy(), "uniform", (-0.1, 0.2)).pvalue > LEVEL
    assert stats.kstest(factors.flatten().numpy(), "norm", (1.0, 0.1)).pvalue > LEVEL  # 0.1 is the deviation


def test_all_together_it_is_algorithm_1() -> None:
    """Two samples, layer and naive twin, of one number per unit (numbers of one unit are not independent)."""
    torch.manual_seed(1)
    for a in (0.0, 1.0, -3.0):
        found = UnitNoise(3000)(torch.full((1, 3000), a, dtype=torch.float64))[0].numpy()
        expected = [row[0] for row in algorithm_1(a, 3000, 1, random.Random(2))]
        assert stats.ks_2samp(found, expected).pvalue > LEVEL
    pairs = UnitNoise(3000)(torch.zeros(2, 3000, dtype=torch.float64)).numpy()
    twin = algorithm_1(0.0, 3000, 2, random.Random(3))
    assert stats.ks_2samp(pairs[0] - pairs[1], [row[0] - row[1] for row in twin]).pvalue > LEVEL
    assert stats.ks_2samp(pairs[0] + pairs[1], [row[0] + row[1] for row in twin]).pvalue > LEVEL


@pytest.mark.parametrize(("dims", "shape"), [(1, (16, 4)), (2, (8, 4, 3, 3))])
def test_the_noise_comes_after_the_affine_map(dims: int, shape: tuple[int, ...]) -> None:
    layer, y = NoisyBatchNorm(4, dims).double(), torch.randn(shape, dtype=torch.float64)
    with torch.no_grad():
        layer[0].weight.fill_(3.0)
        layer[0].bias.fill_(5.0)
    torch.manual_seed(7)
    found = layer(y)
    shifts, factors = shifts_and_factors(layer[1], shape)
    mean, variance = (moment.view(1, 4, *(1,) * dims)[..., 0] if dims == 1 else moment.view(1, 4, 1, 1)
                      for moment in _moments(y))  # fmt: skip
    expected = factors * (3 * (y - mean) / (variance + 1e-5).sqrt() + 5) + shifts
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def _moments(y: Tensor) -> tuple[Tensor, Tensor]:
    units = y.transpose(0, 1).flatten(1)
    return units.mean(1), units.var(1, correction=0)


def test_noise_is_fresh_per_layer_and_step() -> None:
    seen: list[Tensor] = []
    network = deep_linear(3, 5, norm="noise")
    for module in network.modules():
        if isinstance(module, UnitNoise):
            module.register_forward_hook(lambda module, inputs, output: seen.append(output - inputs[0]))
    for _ in range(2):
        network(torch.zeros(4, 5))  # behind the first layer the noise is on noise: only that it differs is checked
    assert len(seen) == 6
    assert all(not torch.equal(one, other) for k, one in enumerate(seen) for other in seen[:k])


def test_noise_without_norm_is_the_noise_alone() -> None:
    layer = norm("noise", 4)
    assert isinstance(layer, UnitNoise)
    assert not isinstance(layer, nn.Sequential)
    assert not list(layer.parameters())
