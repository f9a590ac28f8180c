"""Preconditioned and spherical sharpness, gradient overlap: dense matrices by central differences, closed forms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.cases import cross_entropy
from tests.reference.curvature import dense_by_differences
from torch import Tensor, nn

from alidade import (
    CurvatureOperator,
    Objective,
    gradient_overlap,
    preconditioned_sharpness,
    spherical_sharpness,
    top_eigenvalues,
)
from alidade.errors import CallError, RefusedError
from alidade.landscape.curvature.scaled import ScaledOperator

Batch = tuple[Tensor, Tensor]


def _setting(seed: int = 1) -> tuple[nn.Module, Batch]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.SiLU(), nn.Linear(6, 3)).double()
    return model, (torch.randn(11, 4, dtype=torch.float64), torch.arange(11) % 3)


def _train(model: nn.Module, batch: Batch, optimizer: torch.optim.Optimizer, steps: int) -> list[list[np.ndarray]]:
    """The gradients of each step, by parameter."""
    history = []
    for _ in range(steps):
        optimizer.zero_grad()
        cross_entropy(model, batch).backward()
        history.append([p.grad.reshape(-1).numpy().copy() for p in model.parameters()])
        optimizer.step()
    return history


def _sharpest(matrix: np.ndarray, p: np.ndarray, k: int = 1) -> np.ndarray:
    return np.linalg.eigvalsh(matrix / np.sqrt(np.outer(p, p)))[::-1][:k]


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
@pytest.mark.parametrize("amsgrad", [False, True])
def test_adams_preconditioner_from_the_history_of_gradients(kind: Any, amsgrad: bool) -> None:
    """Kingma & Ba 2015, algorithm 1, written out; groups with settings of their own."""
    model, batch = _setting()
    groups = [
        {"params": [*model[0].parameters(), *model[1].parameters()], "betas": (0.9, 0.95), "eps": 1e-3},
        {"params": model[3].parameters(), "betas": (0.8, 0.99), "eps": 1e-5, "lr": 0.3},
    ]
    optimizer = kind(groups, lr=1e-2, amsgrad=amsgrad, weight_decay=0.0)
    history = _train(model, batch, optimizer, 4)
    divisors = []
    for index in range(6):
        (first, second), eps = ((0.9, 0.95), 1e-3) if index < 4 else ((0.8, 0.99), 1e-5)
        v, largest = np.zeros_like(history[0][index]), np.zeros_like(history[0][index])
        for gradients in history:
            v = second * v + (1 - second) * gradients[index] ** 2
            largest = np.maximum(largest, v)
        used = largest if amsgrad else v
        divisors.append((1 - first**4) * (np.sqrt(used / (1 - second**4)) + eps))
    expected = _sharpest(dense_by_differences(model, cross_entropy, batch), np.concatenate(divisors), 3)
    found = preconditioned_sharpness(Objective(model, cross_entropy, batch), optimizer, k=3, rtol=1e-6)
    assert found.converged
    assert np.allclose(found.eigenvalues, expected, rtol=1e-5)
    assert (found.quantity, found.unit) == ("preconditioned_sharpness", "1/lr")


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_rmsprops_preconditioner_from_the_history_of_gradients(centered: bool, momentum: float) -> None:
    model, batch = _setting(2)
    optimizer = torch.optim.RMSprop(
        model.parameters(), lr=1e-2, alpha=0.7, eps=1e-2, centered=centered, momentum=momentum
    )
    history = _train(model, batch, optimizer, 3)
    divisors = []
    for index in range(6):
        square, mean = np.zeros_like(history[0][index]), np.zeros_like(history[0][index])
        for gradients in history:
            square = 0.7 * square + 0.3 * gradients[index] ** 2
            mean = 0.7 * mean + 0.3 * gradients[index]
        divisors.append(np.sqrt(square - mean**2 if centered else square) + 1e-2)
    expected = _sharpest(dense_by_differences(model, cross_entropy, batch), np.concatenate(divisors))
    found = preconditioned_sharpness(Objective(model, cross_entropy, batch), optimizer, rtol=1e-6)
    assert found.eigenvalues[0] == pytest.approx(expected[0], rel=1e-5)


@pytest.mark.parametrize(("factor", "grows"), [(0.98, False), (1.02, True)])
def test_two_over_lr_is_the_edge_of_rmsprop_on_a_quadratic(factor: float, grows: bool) -> None:
    """With second moments that do not move (alpha = 1), x <- x - lr P^-1 H x: stable up to lr times the value = 2."""
    torch.manual_seed(0)
    a = torch.randn(5, 5, dtype=torch.float64)
    hessian = a @ a.T + torch.eye(5)
    model = nn.Linear(5, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(1e-3 * torch.randn(1, 5))

    def loss_fn(model: nn.Module, h: Tensor) -> Tensor:
        return (model.weight @ h @ model.weight.T).sum() / 2

    optimizer = torch.optim.RMSprop(model.parameters(), lr=1.0, alpha=1.0, eps=0.0)
    model.weight.grad = torch.zeros_like(model.weight)
    optimizer.state[model.weight] = {
        "step": torch.tensor(1.0), "square_avg": torch.tensor([[1.0, 4.0, 9.0, 0.25, 1.0]]).double(),
    }  # fmt: skip
    sharpness = preconditioned_sharpness(Objective(model, loss_fn, hessian), optimizer, rtol=1e-9).eigenvalues[0]
    optimizer.param_groups[0]["lr"] = factor * 2 / sharpness
    start = model.weight.detach().norm()
    for _ in range(400):
        optimizer.zero_grad()
        loss_fn(model, hessian).backward()
        optimizer.step()
    assert bool(model.weight.detach().norm() > 10 * start) is grows


def test_a_weight_that_never_had_a_gradient_needs_eps() -> None:
    for eps in (0.0, 1e-8):
        model, x = nn.Linear(2, 1, bias=False).double(), torch.tensor([[1.0, 0.0]]).double()
        optimizer = torch.optim.RMSprop(model.parameters(), lr=0.0, eps=eps)
        objective = Objective(model, lambda m, x: m(x).square().sum() / 2, x)
        model(x).square().sum().backward()
        optimizer.step()
        nn.init.ones_(model.weight)  # with eps = 0 the step was 0 / 0
        if eps == 0.0:
            with pytest.raises(RefusedError, match="second moments above 0"):
                preconditioned_sharpness(objective, optimizer)
        else:
            assert np.isfinite(preconditioned_sharpness(objective, optimizer).eigenvalues[0])


@pytest.mark.parametrize("optimizer", [None, "adam", torch.optim.SGD, torch.optim.Adagrad])
def test_what_is_no_known_optimizer_gets_one_line(optimizer: Any) -> None:
    model, batch = _setting()
    given = optimizer(model.parameters(), lr=0.1) if isinstance(optimizer, type) else optimizer
    with pytest.raises(CallError, match="optimizer: expected one of Adam, AdamW, RMSprop"):
        preconditioned_sharpness(Objective(model, cross_entropy, batch), given)


def test_the_scaled_operator_is_s_h_s_and_its_gradient_s_g() -> None:
    model, batch = _setting()
    objective = Objective(model, cross_entropy, batch)
    scale = torch.linspace(0.5, 2.0, CurvatureOperator(objective).dimension, dtype=torch.float64)
    operator = ScaledOperator(CurvatureOperator(objective), scale)
    dense = dense_by_differences(model, cross_entropy, batch) * np.outer(scale, scale)
    vector = torch.randn(operator.dimension, dtype=torch.float64)
    # A column of differences is off by 1e-9 of its size.
    assert np.allclose(operator.matvec(vector).numpy(), dense @ vector.numpy(), rtol=0, atol=1e-7)
    expected = scale * operator.block.flat(objective.gradient())
    assert torch.allclose(operator.gradient(), expected, rtol=0, atol=1e-14)
    assert operator.matvecs == 1


def _invariant() -> tuple[nn.Module, Batch]:
    """All of its weights stand before a norm without an affine map."""
    torch.manual_seed(3)
    model = nn.Sequential(
        nn.Linear(4, 6, bias=False), nn.BatchNorm1d(6, affine=False, eps=1e-14), nn.Tanh(),
        nn.Linear(6, 3, bias=False), nn.BatchNorm1d(3, affine=False, eps=1e-14),
    ).double()  # fmt: skip
    return model, (torch.randn(13, 4, dtype=torch.float64), torch.arange(13) % 3)


@pytest.mark.parametrize("names", [None, ["0"], ["3.weight"]])
def test_spherical_sharpness_is_that_of_the_unit_vector(names: list[str] | None) -> None:
    model, batch = _invariant()
    found = spherical_sharpness(Objective(model, cross_entropy, batch), names, k=2, rtol=1e-7)
    chosen = [p for name, p in model.named_parameters() if names is None or name.split(".")[0] == names[0][0]]
    with torch.no_grad():
        length = torch.stack([p.square().sum() for p in chosen]).sum().sqrt()
        for parameter in chosen:
            parameter /= length
    dense = dense_by_differences(model, cross_entropy, batch, step=1e-6)
    block = {None: slice(None), "0": slice(24), "3": slice(24, None)}[None if names is None else names[0][0]]
    expected = np.linalg.eigvalsh(dense[block, block])[::-1][:2]
    assert np.allclose(found.eigenvalues, expected, rtol=1e-4)
    assert (found.quantity, found.unit) == ("spherical_sharpness", "nat")


@pytest.mark.parametrize("factor", [1e-2, 0.3, 50.0])
def test_spherical_sharpness_does_not_see_the_length(factor: float) -> None:
    model, batch = _invariant()
    objective = Objective(model, cross_entropy, batch)
    before, plain = spherical_sharpness(objective, rtol=1e-8), top_eigenvalues(objective, rtol=1e-8)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= factor
    after, scaled = spherical_sharpness(objective, rtol=1e-8), top_eigenvalues(objective, rtol=1e-8)
    assert after.eigenvalues[0] == pytest.approx(before.eigenvalues[0], rel=1e-6)
    assert scaled.eigenvalues[0] == pytest.approx(plain.eigenvalues[0] / factor**2, rel=1e-6)


def test_what_has_no_sphere_is_refused() -> None:
    model, batch = _setting()
    with pytest.raises(RefusedError, match="ignores the length"):
        spherical_sharpness(Objective(model, cross_entropy, batch), ["3"])
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.zero_()
    with pytest.raises(RefusedError, match="not all 0"):
        spherical_sharpness(Objective(model, cross_entropy, batch), ["0"])
    with pytest.raises(CallError, match="got 'nowhere'"):
        spherical_sharpness(Objective(model, cross_entropy, batch), ["nowhere"])


@pytest.mark.parametrize("names", [None, ["3"], ["0.weight", "1"]])
def test_the_gradients_share_in_the_top_space_of_a_block(names: list[str] | None) -> None:
    model, batch = _setting()
    objective = Objective(model, cross_entropy, batch)
    operator = CurvatureOperator(objective, names)
    sizes = np.cumsum([0, *(p.numel() for p in model.parameters())])
    chosen = [
        range(sizes[i], sizes[i + 1])
        for i, name in enumerate(objective.parameters)
        if name in operator.block.names
    ]  # fmt: skip
    index = np.concatenate([list(r) for r in chosen])
    dense = dense_by_differences(model, cross_entropy, batch)[np.ix_(index, index)]
    vectors = np.linalg.eigh(dense)[1][:, -2:]
    g = operator.block.flat(objective.gradient()).numpy()
    expected = np.linalg.norm(vectors.T @ g) / np.linalg.norm(g)
    top = top_eigenvalues(objective, k=2, rtol=1e-6, names=names)
    assert gradient_overlap(objective, top).value == pytest.approx(expected, rel=1e-4)


def test_at_a_minimum_the_overlap_is_undefined() -> None:
    model, x = nn.Linear(2, 1, bias=False).double(), torch.eye(2).double()
    nn.init.zeros_(model.weight)
    objective = Objective(model, lambda m, x: m(x).square().sum(), x)
    (row,) = gradient_overlap(objective, top_eigenvalues(objective)).rows(0)
    assert (row.quantity, row.status) == ("gradient_overlap", "undefined")
