"""layer_scalars against its naive twin, closed forms, what is undefined, and law 1."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.cases import CASES, Case
from tests.reference import layer_scalars as naive
from tests.snapshot import snapshot
from torch import nn

from alidade import Objective
from alidade.core.errors import CallError
from alidade.core.layer_scalars import UNITS, LayerScalars
from alidade.core.records import NON_FINITE, OK, UNDEFINED
from alidade.probes.layer_scalars import layer_scalars

TWINS = [case for case in CASES if case.name not in ("own_generator", "weight_norm", "spectral_norm")]


def _built(case: Case, seed: int = 0) -> tuple[nn.Module, Any, Any]:
    torch.manual_seed(seed)
    return case.build()


def _linear(weight: list[list[float]], slope: list[list[float]]) -> Objective:
    """An objective <slope, W> of one weight matrix, whose gradient is ``slope`` everywhere."""
    model = nn.Linear(len(weight[0]), len(weight), bias=False).double()
    model.weight.data.copy_(torch.tensor(weight, dtype=torch.float64))
    return Objective(model, lambda model, g: (model.weight * g).sum(), torch.tensor(slope, dtype=torch.float64))


@pytest.mark.parametrize("case", TWINS, ids=lambda case: case.name)
def test_it_is_its_naive_twin(case: Case) -> None:
    model, loss_fn, batch = _built(case)
    objective = Objective(model, loss_fn, batch)
    expected = naive.scalars(model, loss_fn, batch, 0.1)
    found = layer_scalars(objective, lr=0.1)
    assert set(zip(found.layers, found.kinds, strict=True)) == set(expected)
    for (layer, kind), numbers in expected.items():
        index = found.entry(layer, kind)
        for name, value in numbers.items():
            if kind != "weight" and name in ("effective_learning_rate", "angular_update"):
                assert np.isnan(getattr(found, name)[index])
                continue
            # float32 gradients of the same kernels; the arc cosine has half of the digits at a small angle.
            absolute = 3e-8 if name == "angular_update" else 1e-12
            assert getattr(found, name)[index] == pytest.approx(value, rel=1e-5, abs=absolute, nan_ok=True), (
                layer,
                kind,
                name,
            )


@given(
    length=st.floats(-12, 6).map(lambda exponent: 10.0**exponent),
    angle=st.floats(0, math.pi),
    scale=st.sampled_from([1e-20, 1.0, 1e20]),
)
@settings(max_examples=60)
def test_the_angle_is_exact_for_updates_of_any_length(length: float, angle: float, scale: float) -> None:
    """An update of relative length r at angle a to the weights turns them by atan2(r sin a, 1 - r cos a)."""
    across, along = length * math.sin(angle), length * math.cos(angle)
    found = layer_scalars(_linear([[scale, 0.0]], [[along * scale, across * scale]]), lr=1.0)
    if math.hypot(across, 1 - along) < 1e-9:
        return  # nothing is left of the weights
    expected = math.atan2(across, 1 - along)
    # 1 - along is rounded to 1e-16, which turns what is left by at most that over its length.
    tolerance = 1e-15 * (1 + length) / math.hypot(across, 1 - along) + 1e-16 * length
    assert found.angular_update[0] == pytest.approx(expected, rel=1e-12, abs=tolerance)


def test_a_small_angle_keeps_its_digits_where_the_arc_cosine_has_none() -> None:
    found = layer_scalars(_linear([[1.0, 0.0]], [[0.0, 1e-12]]), lr=1.0)
    assert found.angular_update[0] == pytest.approx(1e-12, rel=1e-12)
    assert np.arccos(1 / np.hypot(1, 1e-12)) == 0.0


def test_radial_reversed_and_vanishing_updates() -> None:
    radial, reversed_, gone = ([[2.0, 0.0]] for _ in range(3))
    assert layer_scalars(_linear(radial, [[1.0, 0.0]]), lr=1.0).angular_update[0] == 0.0
    assert layer_scalars(_linear(reversed_, [[6.0, 0.0]]), lr=1.0).angular_update[0] == math.pi
    found = layer_scalars(_linear(gone, [[2.0, 0.0]]), lr=1.0)  # nothing is left, so there is no direction
    assert np.isnan(found.angular_update[0])
    assert found.status("angular_update") == (UNDEFINED,)
    assert found.update_ratio[0] == 1.0


def test_scale_invariant_weights_obey_van_laarhoven() -> None:
    """Second witness: rescaling weights before a BatchNorm by a divides the gradient by a, the angle by a^2."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(5, 7, bias=False), nn.BatchNorm1d(7, eps=1e-200), nn.Tanh(), nn.Linear(7, 3)
    ).double()
    batch, loss_fn = torch.randn(16, 5).double(), lambda model, x: model(x).square().mean()
    one = layer_scalars(Objective(model, loss_fn, batch), lr=1e-3)
    model[0].weight.data.mul_(3.0)
    three = layer_scalars(Objective(model, loss_fn, batch), lr=1e-3)
    index = one.entry("0")
    assert three.gradient_norm[index] == pytest.approx(one.gradient_norm[index] / 3, rel=1e-10)
    assert three.effective_learning_rate[index] == pytest.approx(one.effective_learning_rate[index] / 9, rel=1e-12)
    # The gradient stands across the weights, so the tangent of the angle is the update ratio, exactly.
    for found in (one, three):
        assert math.tan(found.angular_update[index]) == pytest.approx(found.update_ratio[index], rel=1e-10)
    assert three.update_ratio[index] == pytest.approx(one.update_ratio[index] / 9, rel=1e-10)


def test_the_real_update_of_an_optimizer() -> None:
    model, loss_fn, batch = _built(CASES[1])
    objective = Objective(model, loss_fn, batch)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    found_before = layer_scalars(objective, lr=0.01)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    loss_fn(model, batch).backward()
    optimizer.step()
    update = {name: before[name] - p.detach() for name, p in model.named_parameters()}
    after = {name: p.detach().clone() for name, p in model.named_parameters()}
    for name, p in model.named_parameters():
        p.data.copy_(before[name])
    found = layer_scalars(objective, lr=0.01, update=update)
    for layer in ("0", "3"):
        index = found.entry(layer)
        w, moved = before[f"{layer}.weight"], after[f"{layer}.weight"]
        cosine = float((w * moved).sum() / (w.norm() * moved.norm()))
        assert found.angular_update[index] == pytest.approx(math.acos(cosine), rel=1e-6)
        assert found.update_ratio[index] == pytest.approx(float((w - moved).norm() / w.norm()), rel=1e-12)
        assert found.gradient_norm[index] == found_before.gradient_norm[index]
    assert (found.provenance.direction, found_before.provenance.direction) == ("update", "gradient")
    assert found.status("update_ratio") == (OK, OK, OK, UNDEFINED, OK, OK)  # the norm's shift starts at 0


def test_without_a_learning_rate_what_needs_one_is_undefined() -> None:
    model, loss_fn, batch = _built(CASES[0])
    found = layer_scalars(Objective(model, loss_fn, batch))
    for name in ("update_norm", "update_ratio", "effective_learning_rate", "angular_update"):
        assert np.isnan(getattr(found, name)).all()
        assert set(found.status(name)) == {UNDEFINED}
    for name in ("norm", "gradient_norm", "gradient_ratio"):
        assert set(found.status(name)) == {OK}


def test_learning_rates_of_parameter_groups() -> None:
    model, loss_fn, batch = _built(CASES[0])
    objective = Objective(model, loss_fn, batch)
    rates = {"0.weight": 0.1, "0.bias": 0.1, "2.weight": 0.01, "2.bias": 0.0}
    found, plain = layer_scalars(objective, rates), layer_scalars(objective, 0.1)
    assert found.update_norm[found.entry("2")] == pytest.approx(plain.update_norm[plain.entry("2")] / 10, rel=1e-12)
    assert found.update_norm[found.entry("2", "bias")] == 0.0
    torch.manual_seed(0)
    lstm, batch = nn.LSTM(3, 4), torch.randn(2, 5, 3)
    objective = Objective(lstm, lambda model, x: model(x)[0].square().mean(), batch)
    rates = {name: 0.1 * (1 + index) for index, name in enumerate(objective.parameters)}
    found = layer_scalars(objective, rates)
    assert found.status("effective_learning_rate") == (UNDEFINED, UNDEFINED)  # its two matrices have two rates
    assert found.status("angular_update") == (OK, UNDEFINED)


def test_a_layer_of_zeros_is_undefined_and_never_a_number() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    torch.nn.init.zeros_(model[1].weight)
    batch = torch.randn(5, 3)
    found = layer_scalars(Objective(model, lambda model, x: model(x).square().sum(), batch), lr=0.1)
    index = found.entry("1")
    assert (found.norm[index], found.status("norm")[index]) == (0.0, OK)
    for name in ("gradient_ratio", "update_ratio", "effective_learning_rate", "angular_update"):
        assert np.isnan(getattr(found, name)[index])
        assert found.status(name)[index] == UNDEFINED
    zero = found.entry("0")  # its gradient is 0: nothing moves, and that is defined
    assert (found.update_ratio[zero], found.angular_update[zero]) == (0.0, 0.0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_says_so(value: float) -> None:
    torch.manual_seed(0)
    model, batch = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), torch.randn(5, 3)
    model[2].weight.data[0, 0] = value
    objective = Objective(model, lambda model, x: model(x).square().sum(), batch)
    found = layer_scalars(objective, lr=0.1)
    index = found.entry("2")
    assert found.status("norm")[index] == NON_FINITE
    assert found.status("angular_update")[index] == NON_FINITE
    assert found.status("norm")[found.entry("0")] == OK
    given = {name: torch.full_like(p, value) for name, p in objective.parameters.items()}
    assert set(layer_scalars(objective, update=given).status("update_norm")) == {NON_FINITE}


def test_kinds_and_owners() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        torch.nn.utils.parametrizations.weight_norm(nn.Linear(5, 7)), nn.BatchNorm1d(7), nn.Linear(7, 4)
    )
    model.register_parameter("temperature", nn.Parameter(torch.tensor(2.0)))
    model[2].weight.requires_grad_(False)
    loss_fn = lambda model, x: model(x).square().mean() * model.temperature  # noqa: E731
    found = layer_scalars(Objective(model, loss_fn, torch.randn(6, 5)), 0.1)
    entries = set(zip(found.layers, found.kinds, strict=True))
    norm = {("1", "scale"), ("1", "bias")}
    assert entries == {("(model)", "scale"), ("0", "bias"), ("0", "scale"), ("0", "weight"), *norm, ("2", "bias")}
    direction = model[0].parametrizations.weight.original1
    assert found.norm[found.entry("0")] == pytest.approx(direction.double().norm().item(), rel=1e-12)
    with pytest.raises(CallError, match=r"\('0', 'weight'\)"):
        found.entry("2")


def test_rows_name_kind_layer_and_unit() -> None:
    model, loss_fn, batch = _built(CASES[1])
    torch.nn.init.ones_(model[1].bias)
    rows = list(layer_scalars(Objective(model, loss_fn, batch), 0.1).rows(12))
    names = {(row.quantity, row.layer) for row in rows}
    assert {("weight_norm", "0"), ("bias_gradient_ratio", "3"), ("scale_update_ratio", "1")} <= names
    assert ("bias_angular_update", "0") not in names
    assert {(row.step, row.statistics, row.dtype, row.step_size, row.status) for row in rows} == {
        (12, "batch", "float64", None, OK)
    }
    assert {row.quantity: row.unit for row in rows}["weight_angular_update"] == "rad"


@pytest.mark.parametrize("lr", [-0.1, float("nan"), float("inf"), "0.1", {"0.weight": 0.1}])
def test_bad_learning_rates_are_refused(lr: Any) -> None:
    model, loss_fn, batch = _built(CASES[0])
    with pytest.raises(CallError, match="lr: expected") as caught:
        layer_scalars(Objective(model, loss_fn, batch), lr)
    assert "\n" not in str(caught.value)


def test_bad_updates_and_names_are_refused() -> None:
    model, loss_fn, batch = _built(CASES[0])
    objective = Objective(model, loss_fn, batch)
    with pytest.raises(CallError, match="missing"):
        layer_scalars(objective, update={})
    with pytest.raises(CallError, match="shape"):
        layer_scalars(objective, update={n: torch.zeros(1) for n in objective.parameters})
    with pytest.raises(CallError, match=", ".join(UNITS)):
        layer_scalars(objective).status("loss")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("given", [False, True])
def test_nothing_changes(case: Case, given: bool) -> None:
    model, loss_fn, batch = _built(case, 1)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01, momentum=0.9)
    loss_fn(model, batch).backward()
    optimizer.step()
    before = snapshot(model, optimizer)
    objective = Objective(model, loss_fn, batch)
    found = layer_scalars(objective, update=objective.parameters) if given else layer_scalars(objective, 0.1)
    assert isinstance(found, LayerScalars)
    after = snapshot(model, optimizer)
    assert {key for key in before if before[key] != after.get(key)} == set()
    assert set(after) == set(before)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_nothing_changes_when_the_loss_raises(error: type[BaseException]) -> None:
    model, loss_fn, batch = _built(CASES[1])

    def failing(model: nn.Module, batch: Any) -> torch.Tensor:
        raise error(str(loss_fn(model, batch)))

    before = snapshot(model)
    with pytest.raises(error):
        layer_scalars(Objective(model, failing, batch), 0.1)
    assert snapshot(model) == before


def test_stale_grad_is_not_looked_at() -> None:
    model, loss_fn, batch = _built(CASES[0])
    clean = layer_scalars(Objective(model, loss_fn, batch), 0.1)
    for p in model.parameters():
        p.grad = torch.full_like(p, 1e6)
    np.testing.assert_array_equal(
        layer_scalars(Objective(model, loss_fn, batch), 0.1).gradient_norm, clean.gradient_norm
    )
