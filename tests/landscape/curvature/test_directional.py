"""Curvature along directions, as the optimizer sees it, and on the sphere, against dense matrices."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from tests.cases import cross_entropy
from tests.reference.curvature import dense_hessian
from torch import nn

from alidade import (
    Objective,
    batch_sharpness,
    directional_curvature,
    gradient_overlap,
    line_profile,
    preconditioned_sharpness,
    spherical_sharpness,
    step_sharpness,
    top_eigenvalues,
)
from alidade.core.errors import CallError, RefusedError

Batch = tuple[torch.Tensor, torch.Tensor]


def _setting(norm: nn.Module | None = None) -> tuple[nn.Module, Batch, Objective]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), norm or nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 4)).double()
    batch = (torch.randn(16, 5, dtype=torch.float64), torch.arange(16) % 4)
    return model, batch, Objective(model, cross_entropy, batch)


def _flat(tensors: dict[str, torch.Tensor]) -> np.ndarray:
    return torch.cat([tensor.reshape(-1) for tensor in tensors.values()]).numpy()


def test_along_a_direction_the_gradient_and_an_update() -> None:
    model, batch, objective = _setting()
    hessian, g = dense_hessian(model, cross_entropy, batch), objective.gradient()
    d = {name: 0.1 * gradient + 0.01 * torch.randn_like(gradient) for name, gradient in g.items()}
    v, flat = _flat(d), _flat(g)
    assert directional_curvature(objective, d).value == pytest.approx(v @ hessian @ v / (v @ v))
    assert batch_sharpness(objective).value == pytest.approx(flat @ hessian @ flat / (flat @ flat))
    assert step_sharpness(objective, d).value == pytest.approx(v @ hessian @ v / (v @ flat))
    small = {name: 1e-6 * part for name, part in d.items()}
    profile = line_profile(objective, [1.0], direction=small)  # another channel: a difference of gradients
    assert profile.directional_curvature[0] == pytest.approx(directional_curvature(objective, d).value, rel=1e-4)
    assert step_sharpness(objective, small).value == pytest.approx(profile.step_curvature, rel=1e-4)


def test_along_nothing_it_is_undefined() -> None:
    _, _, objective = _setting()
    nothing = {name: torch.zeros_like(p) for name, p in objective.parameters.items()}
    (row,) = directional_curvature(objective, nothing).rows(7)
    assert (row.step, row.status, row.quantity) == (7, "undefined", "directional_curvature")
    assert np.isnan(row.value)


def test_the_gradients_share_in_the_top_eigenspace() -> None:
    model, batch, objective = _setting()
    vectors = np.linalg.eigh(dense_hessian(model, cross_entropy, batch))[1][:, -3:]
    g = _flat(objective.gradient())
    top = top_eigenvalues(objective, k=3, rtol=1e-8)
    expected = np.linalg.norm(vectors.T @ g) / np.linalg.norm(g)
    assert gradient_overlap(objective, top).value == pytest.approx(expected, rel=1e-5)
    with pytest.raises(RefusedError, match="expected converged eigenvectors"):
        gradient_overlap(objective, top_eigenvalues(objective, k=3, rtol=1e-12, max_matvecs=4))


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": lambda p: torch.optim.Adam(p, lr=1e-3, betas=(0.9, 0.99), eps=1e-4),
    "amsgrad": lambda p: torch.optim.Adam(p, lr=1e-3, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-3, weight_decay=0.0),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-3, eps=1e-3),
    "centered": lambda p: torch.optim.RMSprop(p, lr=1e-3, eps=1e-3, centered=True),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_preconditioned_by_what_the_optimizer_divides_by(name: str) -> None:
    r"""The witness asks the optimizer itself: P is what it divides by.

    With the first moment set to c ones, one more step on a zero gradient (second moments kept by hand) moves each
    weight by lr c / P; the bias corrections and eps are torch's own.
    """
    model, batch, objective = _setting()
    optimizer = OPTIMIZERS[name](model.parameters())
    for _ in range(3):
        optimizer.zero_grad()
        cross_entropy(model, batch).backward()
        optimizer.step()
    before = repr(optimizer.state_dict())
    found = preconditioned_sharpness(objective, optimizer, rtol=1e-8)
    assert repr(optimizer.state_dict()) == before
    hessian = dense_hessian(model, cross_entropy, batch)
    p = np.concatenate([_divisor(optimizer, parameter) for parameter in model.parameters()])
    expected = np.linalg.eigvalsh(hessian / np.sqrt(np.outer(p, p)))[-1]
    assert found.converged
    assert found.eigenvalues[0] == pytest.approx(expected, rel=1e-6)
    assert next(found.rows(0)).quantity == "preconditioned_sharpness"


def _divisor(optimizer: torch.optim.Optimizer, parameter: torch.Tensor) -> np.ndarray:
    """From a step of a fresh optimizer of the same kind in which the averages do not move (betas and alpha at 1)."""
    group, state = optimizer.param_groups[0], optimizer.state[parameter]
    twin = torch.zeros_like(parameter, requires_grad=True)
    twin.grad = torch.ones_like(twin)
    if "betas" in group:
        # Adam's counter is raised in the step: it stands one lower, so that the corrections are those of now.
        kind = type(optimizer)(
            [twin], lr=1.0, betas=group["betas"], eps=group["eps"], weight_decay=0, amsgrad=group["amsgrad"]
        )
        first, second = group["betas"]
        kind.state[twin] = {
            "step": state["step"] - 1,
            "exp_avg": (torch.ones_like(twin) - (1 - first)) / first,  # 1 after the step
            "exp_avg_sq": (state["exp_avg_sq"] - (1 - second)) / second,  # that of now after the step
        }
        if group["amsgrad"]:
            kind.state[twin]["max_exp_avg_sq"] = state["max_exp_avg_sq"].clone()
    else:
        kind = torch.optim.RMSprop([twin], lr=1.0, alpha=1.0, eps=group["eps"], centered=group["centered"])
        kind.state[twin] = {"step": state["step"].clone(), "square_avg": state["square_avg"].clone()}
        if group["centered"]:
            kind.state[twin]["grad_avg"] = state["grad_avg"].clone()
    kind.step()
    return (1 / -twin.detach()).reshape(-1).numpy()


def test_an_optimizer_that_cannot_say_is_refused() -> None:
    model, _, objective = _setting()
    with pytest.raises(CallError, match="optimizer: expected one of Adam, AdamW, RMSprop, got SGD"):
        preconditioned_sharpness(objective, torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(RefusedError, match="take an optimizer step first"):
        preconditioned_sharpness(objective, torch.optim.Adam(model.parameters()))
    partial = torch.optim.Adam([{"params": [model[0].weight]}])
    model[0].weight.grad = torch.ones_like(model[0].weight)
    partial.step()
    with pytest.raises(CallError, match="missing"):
        preconditioned_sharpness(objective, partial)


def test_spherical_sharpness_ignores_the_length_of_weights() -> None:
    """Of the two first-layer parameters before the norm: the dense Hessian at theta / |theta|, and at 3 theta, too."""
    model, batch, objective = _setting(nn.BatchNorm1d(8, eps=1e-12).double())
    found = spherical_sharpness(objective, ["0"], rtol=1e-8)
    with torch.no_grad():
        length = torch.sqrt(sum(p.square().sum() for p in model[0].parameters()))
        for parameter in model[0].parameters():
            parameter.div_(length)
    block = dense_hessian(model, cross_entropy, batch)[:48, :48]
    assert found.eigenvalues[0] == pytest.approx(np.linalg.eigvalsh(block)[-1], rel=1e-6)
    with torch.no_grad():
        for parameter in model[0].parameters():
            parameter.mul_(3 * length)
    assert spherical_sharpness(objective, ["0"], rtol=1e-8).eigenvalues[0] == pytest.approx(
        found.eigenvalues[0], rel=1e-6
    )


def test_weights_whose_length_matters_are_refused() -> None:
    _, _, objective = _setting()
    with pytest.raises(RefusedError, match="expected a loss that ignores the length"):
        spherical_sharpness(objective)
