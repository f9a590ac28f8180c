"""The rescaled objective is the same function; its gradient and Hessian change as theory says."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from alidade import Objective, line_profile
from alidade.errors import CallError
from alidade.nn import NoisyBatchNorm, vgg
from alidade.probes.rescaling import normalized_layers, rescaled


def _loss(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def _objective(*norms: nn.Module) -> Objective:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(5, 8), norms[0], nn.Tanh(), nn.Linear(8, 8), norms[1], nn.Tanh(), nn.Linear(8, 4)
    ).double()
    for module in model.modules():
        if hasattr(module, "eps"):
            module.eps = 1e-30  # the invariance is exact without it
    return Objective(model, _loss, (torch.randn(16, 5, dtype=torch.float64), torch.arange(16) % 4))


NORMS = {
    "batch": lambda: nn.BatchNorm1d(8),
    "layer": lambda: nn.LayerNorm(8),
    "group": lambda: nn.GroupNorm(2, 8),
    "rms": lambda: nn.RMSNorm(8),
    "noisy": lambda: NoisyBatchNorm(8, 1),
}


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("factor", [0.25, 4.0])
def test_the_loss_stays_and_derivatives_change_as_theory_says(name: str, factor: float) -> None:
    objective = _objective(NORMS[name](), NORMS[name]())
    scaled = rescaled(objective, factor)
    # Float64; powers of two scale without rounding, so that only sums of other sizes differ.
    torch.testing.assert_close(scaled.value(), objective.value(), rtol=1e-12, atol=0)
    before, after = objective.gradient(), scaled.gradient()
    direction = {parameter: torch.randn_like(value) for parameter, value in before.items()}
    moved = {p: factor * v if p in ("0.weight", "0.bias", "3.weight", "3.bias") else v for p, v in direction.items()}
    first, second = objective.hvp(direction), scaled.hvp(moved)  # H' = S^-1 H S^-1 for theta' = S theta
    for parameter in before:
        by = factor if parameter in ("0.weight", "0.bias", "3.weight", "3.bias") else 1.0
        torch.testing.assert_close(after[parameter], before[parameter] / by, rtol=1e-9, atol=1e-13)
        torch.testing.assert_close(second[parameter], first[parameter] / by, rtol=1e-8, atol=1e-12)


def test_raw_smoothness_moves_and_relative_profiles_do_not() -> None:
    objective = _objective(nn.BatchNorm1d(8), nn.BatchNorm1d(8))
    small, large = (line_profile(rescaled(objective, f), [0.1]) for f in (0.25, 4.0))
    assert small.max_effective_smoothness > 4 * large.max_effective_smoothness
    twins = [line_profile(rescaled(objective, f), [0.1], coordinates="relative") for f in (0.25, 4.0)]
    assert twins[0].gradient_distances == pytest.approx(twins[1].gradient_distances, rel=1e-9)
    assert twins[0].losses == pytest.approx(twins[1].losses, rel=1e-12)


def test_only_what_a_norm_takes_directly_is_scaled() -> None:
    torch.manual_seed(0)
    images = (torch.randn(4, 3, 32, 32), torch.arange(4))
    found = normalized_layers(Objective(vgg(8, 0.05, "batch"), _loss, images))
    assert found == tuple(f"features.conv{number}" for number in range(1, 9))
    apart = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.BatchNorm1d(8), nn.Linear(8, 4))
    with pytest.raises(CallError, match="expected a linear layer or convolution directly before a norm, found none"):
        rescaled(Objective(apart, _loss, (torch.randn(16, 5), torch.arange(16) % 4)), 2.0)


@pytest.mark.parametrize("factor", [0.0, -1.0, float("nan")])
def test_a_factor_must_be_positive(factor: float) -> None:
    objective = _objective(nn.BatchNorm1d(8), nn.BatchNorm1d(8))
    with pytest.raises(CallError, match="factor: expected a number above 0"):
        rescaled(objective, factor)
