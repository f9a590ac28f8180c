"""What must hold for any network, scale and list of step sizes."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.cases import cross_entropy
from torch import nn

from alidade import Objective, line_profile

FEW = settings(max_examples=25, deadline=None)
SEEDS = st.integers(0, 10_000)
SCALES = st.lists(st.floats(-3.0, 3.0).map(lambda power: 2.0**power), min_size=7, max_size=7)
ARRAYS = ("losses", "gradient_distances", "gradient_cosines", "effective_smoothness", "directional_curvature")


def _batch(seed: int, n: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 5, generator=generator, dtype=torch.float64), torch.arange(n) % 3


def _normalized(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 7, bias=False), nn.BatchNorm1d(7, eps=1e-30), nn.Tanh(), nn.Linear(7, 3)).double()


def _plain_relu(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 7, bias=False), nn.ReLU(), nn.Linear(7, 3, bias=False)).double()


def _close(first: Any, second: Any, rtol: float) -> None:
    for name in ARRAYS:
        np.testing.assert_allclose(getattr(first, name), getattr(second, name), rtol=rtol, atol=1e-11, err_msg=name)


@FEW
@given(SEEDS, SCALES)
def test_rescaling_filters_before_a_norm_leaves_the_relative_profile_alone(seed: int, scales: list[float]) -> None:
    model, batch = _normalized(seed), _batch(seed)
    scaled = copy.deepcopy(model)
    scaled[0].weight.data *= torch.tensor(scales, dtype=torch.float64)[:, None]
    profiles = [
        line_profile(Objective(m, cross_entropy, batch), [0.02, 0.1], coordinates="relative") for m in (model, scaled)
    ]
    _close(*profiles, rtol=1e-7)  # differences of gradients lose up to 8 of 16 digits at the smallest step


@FEW
@given(SEEDS, st.floats(-3.0, 3.0).map(lambda power: 2.0**power))
def test_rescaling_between_the_layers_of_a_relu_network_leaves_the_relative_profile_alone(
    seed: int, factor: float
) -> None:
    """Every filter of a layer by the same factor, the next layer by its inverse: the function stays."""
    model, batch = _plain_relu(seed), _batch(seed)
    scaled = copy.deepcopy(model)
    scaled[0].weight.data *= factor
    scaled[2].weight.data /= factor
    profiles = [
        line_profile(Objective(m, cross_entropy, batch), [0.02, 0.1], coordinates="relative") for m in (model, scaled)
    ]
    np.testing.assert_allclose(profiles[0].losses, profiles[1].losses, rtol=1e-9)
    np.testing.assert_allclose(profiles[0].gradient_distances, profiles[1].gradient_distances, rtol=1e-6, atol=1e-9)


@FEW
@given(SEEDS, st.floats(-2.0, 2.0).map(lambda power: 2.0**power))
def test_raw_quantities_scale_as_theory_says(seed: int, factor: float) -> None:
    """With every weight before the norm times a, its gradient is 1/a times: one layer, all else frozen."""
    model, batch = _normalized(seed), _batch(seed)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name == "0.weight")
    scaled = copy.deepcopy(model)
    scaled[0].weight.data *= factor
    first = line_profile(Objective(model, cross_entropy, batch), [0.1])
    # w -> a w, g -> g / a: the step eta g / a on a w is the step eta / a^2 on w
    second = line_profile(Objective(scaled, cross_entropy, batch), [0.1 * factor**2])
    np.testing.assert_allclose(second.losses, first.losses, rtol=1e-9)
    np.testing.assert_allclose(second.gradient_norm * factor, first.gradient_norm, rtol=1e-9)
    np.testing.assert_allclose(second.gradient_distances * factor, first.gradient_distances, rtol=1e-6)
    np.testing.assert_allclose(second.effective_smoothness * factor**2, first.effective_smoothness, rtol=1e-6)


def _moved_alike(model: nn.Module, scaled: nn.Module, scales: dict[str, torch.Tensor], seed: int) -> None:
    """Where weights are a times as large, the direction a d leads to the same function, and gradients are g / a."""
    first, second = (Objective(m, cross_entropy, _batch(seed)) for m in (model, scaled))
    along = {name: gradient.clone() for name, gradient in first.gradient().items()}
    etas = [-0.1, 0.05, 0.3]
    plain = line_profile(first, etas, direction=along)
    other = line_profile(second, etas, direction={name: scales[name] * value for name, value in along.items()})
    np.testing.assert_allclose(other.losses, plain.losses, rtol=1e-9)
    base = first.gradient()
    expected = {name: value / scales[name] for name, value in base.items()}
    np.testing.assert_allclose(
        other.gradient_norm, sum(float(g.square().sum()) for g in expected.values()) ** 0.5, rtol=1e-7
    )
    for eta, distance in zip(etas, other.gradient_distances, strict=True):
        there = first.gradient({name: p - eta * along[name] for name, p in first.parameters.items()})
        changes = ((there[name] - base[name]) / scales[name] for name in base)
        # differences of gradients lose up to 3 of 16 digits at these step sizes
        np.testing.assert_allclose(distance, sum(float(c.square().sum()) for c in changes) ** 0.5, rtol=1e-6)


@FEW
@given(SEEDS, SCALES)
def test_raw_gradients_of_rescaled_filters_before_a_norm_are_divided_filter_by_filter(
    seed: int, factors: list[float]
) -> None:
    model = _normalized(seed)
    scales = {name: torch.ones(()).double() for name, _ in model.named_parameters()}
    scales["0.weight"] = torch.tensor(factors, dtype=torch.float64)[:, None]
    scaled = copy.deepcopy(model)
    scaled[0].weight.data *= scales["0.weight"]
    _moved_alike(model, scaled, scales, seed)


@FEW
@given(SEEDS, SCALES)
def test_raw_gradients_of_a_relu_network_scale_with_its_units(seed: int, factors: list[float]) -> None:
    """Every unit by a factor of its own, which the next layer divides out again."""
    model, units = _plain_relu(seed), torch.tensor(factors, dtype=torch.float64)
    scaled = copy.deepcopy(model)
    scaled[0].weight.data *= units[:, None]
    scaled[2].weight.data /= units
    _moved_alike(model, scaled, {"0.weight": units[:, None], "2.weight": 1 / units}, seed)


@FEW
@given(SEEDS, st.floats(-9.0, 0.0).map(lambda power: 10.0**power))
def test_what_is_below_the_resolution_is_marked_and_the_resolution_holds(seed: int, eta: float) -> None:
    """In float32 the smoothness is that of float64 along the same line, to its resolution."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 3))
    x, y = _batch(seed)
    objective = Objective(model, cross_entropy, (x.float(), y))
    found = line_profile(objective, [eta])
    direction = {name: value.double() for name, value in objective.gradient().items()}
    exact = Objective(copy.deepcopy(model).double(), cross_entropy, (x.float().double(), y))
    expected = line_profile(exact, [eta], direction=direction).effective_smoothness[0]
    assert abs(found.effective_smoothness[0] - expected) <= found.resolution[0]
    below = found.effective_smoothness[0] <= found.resolution[0]
    assert found.status == ("below_resolution" if below else "ok",)


@FEW
@given(SEEDS, st.permutations([0.01, 0.05, 0.2, 1.0]))
def test_permuting_the_step_sizes_permutes_the_profile(seed: int, order: list[float]) -> None:
    objective = Objective(_normalized(seed), cross_entropy, _batch(seed))
    plain = line_profile(objective, [0.01, 0.05, 0.2, 1.0])
    permuted = line_profile(objective, order)
    places = [[0.01, 0.05, 0.2, 1.0].index(eta) for eta in order]
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(permuted, name), getattr(plain, name)[places])
    assert permuted.loss_band == plain.loss_band
    assert permuted.max_effective_smoothness == plain.max_effective_smoothness


@FEW
@given(SEEDS, st.integers(1, 11))
def test_a_mean_over_examples_splits_into_batches(seed: int, cut: int) -> None:
    """Without batch statistics the loss of a batch is the weighted mean of the losses of its parts."""
    model, (x, y) = _plain_relu(seed), _batch(seed)
    direction = Objective(model, cross_entropy, (x, y)).gradient()
    whole, left, right = (
        line_profile(Objective(model, cross_entropy, part), [0.1, 0.4], direction=direction).losses
        for part in ((x, y), (x[:cut], y[:cut]), (x[cut:], y[cut:]))
    )
    np.testing.assert_allclose(whole, (cut * left + (12 - cut) * right) / 12, rtol=1e-12)


@FEW
@given(SEEDS)
def test_small_steps_see_the_hessian(seed: int) -> None:
    """Smooth network, float64: beta tends to |Hd| / |d| and the signed curvature to d'Hd / |d|^2."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    objective = Objective(model, cross_entropy, _batch(seed))
    gradient = objective.gradient()
    product = objective.hvp(gradient)
    flat = [torch.cat([part[name].reshape(-1) for name in gradient]) for part in (gradient, product)]
    smoothness = float(flat[1].norm() / flat[0].norm())
    curvature = float(flat[0] @ flat[1] / (flat[0] @ flat[0]))
    profile = line_profile(objective, [1e-5])
    # truncation eta |H'| |g| ~ 1e-5; rounding eps / eta ~ 2e-11
    np.testing.assert_allclose(profile.effective_smoothness, smoothness, rtol=1e-3)
    np.testing.assert_allclose(profile.directional_curvature, curvature, rtol=1e-3, atol=1e-4 * smoothness)
