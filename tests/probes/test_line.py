"""line_profile against its naive twin, closed forms, invariances, and bad input."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from tests.cases import CASES, Case, cross_entropy
from tests.reference import line_profile as naive
from torch import nn

from alidade import Objective, line_profile
from alidade.core.errors import AlidadeError, CallError, RefusedError
from alidade.core.records import BELOW_RESOLUTION, NON_FINITE, OK, UNDEFINED, LineProfile
from alidade.landscape.coordinates import coordinates_named

DOUBLE = [case for case in CASES if case.name in ("smooth", "batch_norm", "mixed_modes")]
SINGLE = [
    case
    for case in CASES
    if case.name in ("dropout", "checkpointed", "reentrant", "recurrent", "attention", "weight_norm", "sliced")
]


def _built(case: Case, seed: int = 0) -> tuple[nn.Module, object, object]:
    torch.manual_seed(seed)
    return case.build()


@pytest.mark.parametrize("case", DOUBLE, ids=lambda case: case.name)
@pytest.mark.parametrize("seed", [0, 1])
def test_raw_profile_is_its_naive_twin(case: Case, seed: int) -> None:
    model, loss_fn, batch = _built(case, seed)
    step_sizes = [0.01, 0.1, 1.0, -0.5]
    expected = naive.raw_profile(model, loss_fn, batch, step_sizes)
    profile = line_profile(Objective(model, loss_fn, batch), step_sizes)
    # float64: sums of a hundred terms in another order; smoothness divides two differences, losing 2 digits.
    for name, values in expected.items():
        np.testing.assert_allclose(getattr(profile, name), values, rtol=1e-10, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("case", DOUBLE, ids=lambda case: case.name)
def test_relative_profile_is_its_naive_twin(case: Case) -> None:
    model, loss_fn, batch = _built(case)
    step_sizes = [0.01, 0.1, 0.3]
    expected = naive.relative_profile(model, loss_fn, batch, step_sizes)
    profile = line_profile(Objective(model, loss_fn, batch), step_sizes, coordinates="relative")
    for name, values in expected.items():
        np.testing.assert_allclose(getattr(profile, name), values, rtol=1e-10, err_msg=name)


@pytest.mark.parametrize("case", SINGLE, ids=lambda case: case.name)
def test_random_numbers_wrappers_and_recomputation_agree_with_the_twin(case: Case) -> None:
    model, loss_fn, batch = _built(case)
    objective = Objective(model, loss_fn, batch)
    expected = naive.raw_profile(model, loss_fn, batch, [0.1, 1.0])
    profile = line_profile(objective, [0.1, 1.0])
    # float32: the twin moves by p -= eta * d, we by p - eta * d: one rounding each, and kinks of ReLU may flip.
    np.testing.assert_allclose(profile.losses, expected["losses"], rtol=1e-5)
    np.testing.assert_allclose(profile.gradient_distances, expected["gradient_distances"], rtol=1e-3, atol=1e-6)


def test_directional_curvature_tends_to_the_hessian_quotient() -> None:
    """The second witness shares no channel with the profile: a dense Hessian from torch.func."""
    model, loss_fn, (x, y) = _built(CASES[0])
    names = [name for name, _ in model.named_parameters()]
    sizes = [p.numel() for p in model.parameters()]
    shapes = [p.shape for p in model.parameters()]

    def loss(flat: torch.Tensor) -> torch.Tensor:
        parts = {n: part.view(s) for n, part, s in zip(names, flat.split(sizes), shapes, strict=True)}
        return nn.functional.cross_entropy(torch.func.functional_call(model, parts, (x,)), y)

    theta = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    hessian, gradient = torch.func.hessian(loss)(theta), torch.func.grad(loss)(theta)
    quotient = float(gradient @ hessian @ gradient / (gradient @ gradient))
    profile = line_profile(Objective(model, loss_fn, (x, y)), [1e-5])
    # Truncation is O(eta |H'| |g|) = 1e-5, rounding eps / eta = 2e-11.
    assert profile.directional_curvature[0] == pytest.approx(quotient, rel=1e-4)
    product = Objective(model, loss_fn, (x, y)).hvp(
        {n: g.view(s) for n, g, s in zip(names, gradient.split(sizes), shapes, strict=True)}
    )
    np.testing.assert_allclose(
        torch.cat([product[n].reshape(-1) for n in names]), hessian @ gradient, rtol=1e-9, atol=1e-12
    )


def _scaled_before_norm(factor: float) -> tuple[nn.Module, object]:
    torch.manual_seed(5)
    model = nn.Sequential(
        nn.Linear(6, 9, bias=False), nn.BatchNorm1d(9, eps=1e-30), nn.Tanh(), nn.Linear(9, 4)
    ).double()
    model[0].weight.data *= factor
    return model, (torch.randn(16, 6, dtype=torch.float64), torch.arange(16) % 4)


@pytest.mark.parametrize("factor", [0.25, 0.5, 2.0, 4.0])
def test_the_scale_free_twin_is_invariant_and_the_raw_profile_is_not(factor: float) -> None:
    (model, batch), (scaled, _) = _scaled_before_norm(1.0), _scaled_before_norm(factor)
    profiles = [
        line_profile(Objective(m, cross_entropy, batch), [0.01, 0.1, 0.3], coordinates="relative")
        for m in (model, scaled)
    ]
    for name in ("losses", "gradient_distances", "gradient_cosines", "effective_smoothness", "directional_curvature"):
        np.testing.assert_allclose(getattr(profiles[1], name), getattr(profiles[0], name), rtol=1e-9, err_msg=name)
    raw = [line_profile(Objective(m, cross_entropy, batch), [0.1, 0.4]) for m in (model, scaled)]
    assert abs(math.log(raw[1].max_effective_smoothness / raw[0].max_effective_smoothness)) > 0.3


def test_the_scale_free_twin_is_invariant_to_layer_rescaling_of_relu_networks() -> None:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(6, 9, bias=False), nn.ReLU(), nn.Linear(9, 4, bias=False)).double()
    batch = (torch.randn(16, 6, dtype=torch.float64), torch.arange(16) % 4)
    rescaled = copy.deepcopy(model)
    rescaled[0].weight.data *= 3.0
    rescaled[2].weight.data /= 3.0
    first, second = (
        line_profile(Objective(m, cross_entropy, batch), [0.05, 0.2], coordinates="relative") for m in (model, rescaled)
    )
    np.testing.assert_allclose(first.gradient_distances, second.gradient_distances, rtol=1e-9)
    np.testing.assert_allclose(first.losses, second.losses, rtol=1e-10)


def test_a_relative_step_is_the_root_mean_square_relative_change_of_a_filter() -> None:
    model, loss_fn, batch = _built(CASES[1])
    seen = {}

    def spying(model: nn.Module, batch: object) -> torch.Tensor:
        seen["now"] = {n: p.detach().clone() for n, p in model.named_parameters()}
        return loss_fn(model, batch)

    start = {n: p.detach().clone() for n, p in model.named_parameters()}
    objective = Objective(model, spying, batch, check_deterministic=False)
    for direction in (None, "random", {n: torch.ones_like(p) for n, p in start.items()}):
        line_profile(objective, [0.3], direction=direction, coordinates="relative")
        changes = []
        for name, weight in start.items():
            moved = seen["now"][name]
            if weight.ndim < 2:
                assert torch.equal(moved, weight), f"{name} is at rest"
                continue
            changes += ((moved - weight).norm(dim=1) / weight.norm(dim=1)).tolist()
        assert np.sqrt(np.mean(np.square(changes))) == pytest.approx(0.3, rel=1e-12)


def test_filters_of_transposed_convolutions_are_their_outputs() -> None:
    model, loss_fn, batch = _built(next(case for case in CASES if case.name == "transposed"))
    weight = model[0].weight  # (inputs 4, outputs per group 3, 3, 3), two groups
    with torch.no_grad():
        weight[2:, 1] = 0.0  # the fifth output unit: second group, second of three
    system = coordinates_named("relative", model, Objective(model, loss_fn, batch).parameters)
    assert system.filters == 5 + 4
    factor = system.factors["0.weight"].expand(weight.shape)
    assert torch.all(factor[2:, 1] == 0)
    assert factor[0, 0, 0, 0].item() == pytest.approx(weight[:2, 0].norm().item())


def test_zero_filters_and_unused_parameters_are_at_rest() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 4)).double()
    model[0].weight.data[2] = 0.0
    batch = (torch.randn(8, 5, dtype=torch.float64), torch.arange(8) % 4)
    profile = line_profile(Objective(model, cross_entropy, batch), [0.1], coordinates="relative")
    assert np.isfinite(profile.losses).all()
    assert profile.direction_norm == pytest.approx(math.sqrt(9))


def test_random_direction_is_as_long_as_the_gradient_and_repeats() -> None:
    model, loss_fn, batch = _built(CASES[0])
    objective = Objective(model, loss_fn, batch)
    first, again = (line_profile(objective, [0.1, 1.0], direction="random") for _ in range(2))
    other = line_profile(objective, [0.1, 1.0], direction="random", seed=1)
    assert first.direction_norm == pytest.approx(first.gradient_norm, rel=1e-12)
    assert np.array_equal(first.losses, again.losses)
    assert not np.array_equal(first.losses, other.losses)


def test_a_given_direction_and_losses_only() -> None:
    model, loss_fn, batch = _built(CASES[0])
    objective = Objective(model, loss_fn, batch)
    gradient = objective.gradient()
    full = line_profile(objective, [0.1, 0.2])
    given = line_profile(objective, [0.1, 0.2], direction=gradient)
    cheap = line_profile(objective, [0.1, 0.2], direction=gradient, gradients=False)
    np.testing.assert_array_equal(full.losses, given.losses)
    np.testing.assert_allclose(full.losses, cheap.losses, rtol=1e-14)
    assert np.isnan(cheap.gradient_distances).all()
    assert set(cheap.status) == {UNDEFINED}


def test_number_of_evaluations() -> None:
    """K + 1 passes, and one more for the determinism check."""
    model, loss_fn, batch = _built(CASES[0])
    calls = []

    def counted(model: nn.Module, batch: object) -> torch.Tensor:
        calls.append(torch.is_grad_enabled())
        return loss_fn(model, batch)

    line_profile(Objective(model, counted, batch), [0.1, 0.2, 0.3])
    assert (calls.count(True), calls.count(False)) == (4, 1)
    calls.clear()
    direction = Objective(model, loss_fn, batch).gradient()
    line_profile(Objective(model, counted, batch), [0.1, 0.2, 0.3], direction=direction, gradients=False)
    assert (calls.count(True), calls.count(False)) == (1, 4)  # the check has a graph, to see the parameters in it


def test_bands_are_functions_of_the_list() -> None:
    model, loss_fn, batch = _built(CASES[0])
    profile = line_profile(Objective(model, loss_fn, batch), [0.0, 0.1, 0.7])
    assert profile.loss_band == (profile.losses.min(), profile.losses.max())
    assert profile.losses[0] == profile.loss
    assert profile.gradient_distances[0] == 0
    assert profile.status[0] == UNDEFINED
    assert np.isnan(profile.effective_smoothness[0])
    assert profile.max_effective_smoothness == profile.effective_smoothness[1:].max()
    without_origin = line_profile(Objective(model, loss_fn, batch), [0.1, 0.7])
    assert profile.loss_band[1] == profile.loss > without_origin.loss_band[1]


def test_resolution_covers_the_rounding_of_float32() -> None:
    """Smooth network: the float64 profile is the truth. An honest error bar is neither exceeded nor idle."""
    torch.manual_seed(4)
    model = nn.Sequential(nn.Linear(20, 50), nn.Tanh(), nn.Linear(50, 5))
    x, y = torch.randn(64, 20), torch.arange(64) % 5
    exact = copy.deepcopy(model).double()
    step_sizes = [10.0**-k for k in range(8)]
    rough = line_profile(Objective(model, cross_entropy, (x, y)), step_sizes)
    truth = line_profile(Objective(exact, cross_entropy, (x.double(), y)), step_sizes)
    error = np.abs(rough.effective_smoothness - truth.effective_smoothness)
    assert (error <= rough.resolution).all()
    assert rough.status[0] == OK
    assert rough.status[-1] == BELOW_RESOLUTION
    assert (np.diff(rough.resolution) > 0).all()


def test_a_loss_that_overflows_is_recorded_as_such() -> None:
    model, loss_fn, batch = _built(CASES[0])
    profile = line_profile(Objective(model, lambda m, b: loss_fn(m, b).exp().exp(), batch), [1.0, -1e6])
    assert profile.status[1] == NON_FINITE
    assert not np.isfinite(profile.loss_band[1])
    assert {row.status for row in profile.rows(0) if row.step_size == -1e6} >= {NON_FINITE}


def test_a_zero_gradient_is_undefined_and_not_a_number() -> None:
    model, loss_fn, batch = _built(CASES[0])
    profile = line_profile(Objective(model, lambda m, b: 0.0 * loss_fn(m, b), batch), [0.1])
    assert profile.direction_norm == 0
    assert profile.status == (UNDEFINED,)
    assert np.isnan(profile.max_effective_smoothness)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"step_sizes": []}, "step_sizes: expected a non-empty list"),
        ({"step_sizes": [float("nan")]}, "finite"),
        ({"step_sizes": [0.1], "direction": "sideways"}, "direction: expected None, 'random' or a dict"),
        ({"step_sizes": [0.1], "direction": {"0.weight": torch.zeros(1)}}, "missing"),
        ({"step_sizes": [0.1], "coordinates": "polar"}, "'raw' or 'relative', got 'polar'"),
    ],
)
def test_bad_input_gets_one_line(arguments: dict[str, object], message: str) -> None:
    model, loss_fn, batch = _built(CASES[0])
    with pytest.raises(CallError, match=message) as caught:
        line_profile(Objective(model, loss_fn, batch), **arguments)
    assert "\n" not in str(caught.value)


def test_no_filter_no_relative_coordinates() -> None:
    class Shift(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.ones(3))

    objective = Objective(Shift(), lambda model, batch: model.bias.square().sum(), None)
    with pytest.raises(RefusedError, match="two or more dimensions"):
        line_profile(objective, [0.1], coordinates="relative")


def test_a_random_relative_direction_does_not_see_the_scale_of_filters() -> None:
    (model, batch), (scaled, _) = _scaled_before_norm(1.0), _scaled_before_norm(7.0)
    first, second = (
        line_profile(Objective(m, cross_entropy, batch), [0.03, 0.3], direction="random", coordinates="relative")
        for m in (model, scaled)
    )
    np.testing.assert_allclose(first.losses, second.losses, rtol=1e-10)
    np.testing.assert_allclose(first.gradient_distances, second.gradient_distances, rtol=1e-8)


def test_bfloat16_has_numbers_above_its_resolution() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 50), nn.Tanh(), nn.Linear(50, 5))
    batch = (torch.randn(64, 20), torch.arange(64) % 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = line_profile(Objective(model, cross_entropy, batch), [1e-4, 3.0])
    exact = line_profile(Objective(model, cross_entropy, batch), [1e-4, 3.0])
    assert rough.status == (BELOW_RESOLUTION, OK)
    assert abs(rough.effective_smoothness[1] - exact.effective_smoothness[1]) < rough.resolution[1]


def test_the_network_is_read_live_also_when_its_structure_changes() -> None:
    model, loss_fn, batch = _built(CASES[0])
    objective = Objective(model, loss_fn, batch)
    objective.value()
    model[2] = nn.Linear(7, 4).double()
    model[0].requires_grad_(False)
    assert set(objective.gradient()) == {"2.weight", "2.bias"}
    assert all(value.abs().sum() > 0 for value in objective.gradient().values())


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_a_profile_in_any_gradient_mode(context: object) -> None:
    model, loss_fn, batch = _built(CASES[1])
    expected = line_profile(Objective(model, loss_fn, batch), [0.1, 0.4])
    with context():
        found = line_profile(Objective(model, loss_fn, batch), [0.1, 0.4])
    np.testing.assert_array_equal(found.gradient_distances, expected.gradient_distances)


def test_every_failure_is_an_alidade_error() -> None:
    assert issubclass(CallError, AlidadeError)
    assert issubclass(CallError, ValueError)
    assert issubclass(RefusedError, AlidadeError)


def _statuses(profile: LineProfile, step_size: float) -> dict[str, str]:
    return {row.quantity: row.status for row in profile.rows(0) if row.step_size == step_size}


def test_along_nothing_the_quotients_are_undefined() -> None:
    model, loss_fn, batch = _built(CASES[0])
    objective = Objective(model, loss_fn, batch)
    nothing = {name: torch.zeros_like(value) for name, value in objective.parameters.items()}
    profile = line_profile(objective, [0.5, 1.0], direction=nothing)
    quotients = ("effective_smoothness", "directional_curvature", "resolution")
    assert {_statuses(profile, eta)[name] for eta in (0.5, 1.0) for name in quotients} == {UNDEFINED}
    assert {_statuses(profile, 1.0)[name] for name in ("loss", "gradient_distance", "gradient_cosine")} == {OK}
    start = _statuses(profile, 0.0)
    assert start.pop("step_curvature") == UNDEFINED
    assert set(start.values()) == {OK}


def test_a_step_size_of_zero_has_no_smoothness() -> None:
    model, loss_fn, batch = _built(CASES[0])
    profile = line_profile(Objective(model, loss_fn, batch), [0.0, 0.1])
    assert profile.status == (UNDEFINED, OK)
    found = _statuses(profile, 0.0)
    assert {found[name] for name in ("effective_smoothness", "directional_curvature", "resolution")} == {UNDEFINED}
    assert (found["gradient_cosine"], found["gradient_distance"]) == (OK, OK)
    assert profile.gradient_cosines[0] == pytest.approx(1.0, abs=1e-15)  # <g, g> / (|g| |g|), one rounding


def test_what_was_not_asked_for_is_undefined_and_not_broken() -> None:
    model, loss_fn, batch = _built(CASES[0])
    objective = Objective(model, loss_fn, batch)
    profile = line_profile(objective, [0.5], direction=objective.gradient(), gradients=False)
    unasked = {row.quantity: row.status for row in profile.rows(0) if row.quantity not in ("loss", "direction_norm")}
    assert set(unasked.values()) == {UNDEFINED}
    with_gradients = line_profile(objective, [0.5], direction=objective.gradient())
    assert _statuses(with_gradients, 0.0)["step_curvature"] == UNDEFINED  # of the step eta = 1, which is not listed


def test_gains_and_scales_rest_in_relative_coordinates() -> None:
    """weight_norm's g has one number per filter and two axes; LayerNorm over two axes has a matrix for a scale."""
    torch.manual_seed(0)
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
    model = nn.Sequential(normed, nn.Unflatten(1, (2, 2)), nn.LayerNorm([2, 2]), nn.Flatten(), nn.Linear(4, 3)).double()
    batch = (torch.randn(8, 4).double(), torch.arange(8) % 3)
    objective = Objective(model, cross_entropy, batch)
    system = coordinates_named("relative", model, objective.parameters)
    assert system.filters == 4 + 3
    at_rest = {"0.parametrizations.weight.original0", "0.bias", "2.weight", "2.bias", "4.bias"}
    assert {name for name, factor in system.factors.items() if not factor.any()} == at_rest
    reached = []

    def recording(model: nn.Module, batch: object) -> torch.Tensor:
        reached.append({name: p.detach().clone() for name, p in model.named_parameters()})
        return cross_entropy(model, batch)

    line_profile(Objective(model, recording, batch), [0.3], coordinates="relative")
    for name, parameter in model.named_parameters():
        assert torch.equal(reached[-1][name], parameter) == (name in at_rest), name
