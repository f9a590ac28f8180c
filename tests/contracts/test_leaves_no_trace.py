"""Law 1: parameters, buffers, gradients, modes, hooks, attributes and random states are what they were."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tests.cases import CASES, Case, cross_entropy
from tests.snapshot import snapshot
from torch import nn

from alidade import Objective, line_profile
from alidade.errors import RefusedError
from alidade.probes.evaluation import evaluate

PROBES: dict[str, Callable[[Objective], object]] = {
    "value": lambda objective: objective.value(),
    "gradient": lambda objective: objective.gradient(),
    "hvp": lambda objective: objective.hvp(objective.parameters),
    "raw": lambda objective: line_profile(objective, [0.1, 1.0]),
    "relative": lambda objective: line_profile(objective, [0.1], coordinates="relative"),
    "random": lambda objective: line_profile(objective, [0.1], direction="random"),
    "losses only": lambda objective: line_profile(objective, [0.1], gradients=False),
    "statistics": lambda objective: objective.statistics,
}


def _trained_once(case: Case) -> tuple[nn.Module, object, object, torch.optim.Optimizer]:
    """A model in the middle of training: gradients and optimizer state present, buffers moved."""
    torch.manual_seed(1)
    model, loss_fn, batch = case.build()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01, momentum=0.9)
    loss_fn(model, batch).backward()
    optimizer.step()
    return model, loss_fn, batch, optimizer


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("probe", PROBES, ids=str)
def test_nothing_changes(case: Case, probe: str) -> None:
    model, loss_fn, batch, optimizer = _trained_once(case)
    before = snapshot(model, optimizer)
    if (probe, case.name) == ("hvp", "reentrant"):  # it has no second derivative, and says so
        with pytest.raises(RefusedError, match="use_reentrant=False"):
            PROBES[probe](Objective(model, loss_fn, batch))
    else:
        PROBES[probe](Objective(model, loss_fn, batch))
    after = snapshot(model, optimizer)
    assert {key for key in before if before[key] != after.get(key)} == set()
    assert set(after) == set(before)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_nothing_changes_when_the_loss_raises(error: type[BaseException]) -> None:
    model, loss_fn, batch, optimizer = _trained_once(CASES[1])
    calls = 0

    def failing(model: nn.Module, batch: object) -> torch.Tensor:
        nonlocal calls
        calls += 1
        loss = loss_fn(model, batch)
        if calls == 3:
            raise error("in the middle")
        return loss

    before = snapshot(model, optimizer)
    with pytest.raises(error):
        line_profile(Objective(model, failing, batch), [0.1, 0.2, 0.3])
    assert snapshot(model, optimizer) == before


def test_the_users_live_graph_survives() -> None:
    model, loss_fn, batch, _ = _trained_once(CASES[1])
    model.zero_grad()
    expected = torch.autograd.grad(loss_fn(model, batch), list(model.parameters()))
    loss = loss_fn(model, batch)
    line_profile(Objective(model, loss_fn, batch), [0.1])
    loss.backward()
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        assert torch.equal(parameter.grad, gradient)


def test_the_users_tensor_hooks_do_not_act() -> None:
    model, loss_fn, batch, _ = _trained_once(CASES[0])
    fired = []
    expected = Objective(model, loss_fn, batch).gradient()
    for parameter in model.parameters():
        parameter.register_hook(lambda gradient: fired.append(1) or 2 * gradient)
    found = Objective(model, loss_fn, batch).gradient()
    assert fired == []
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_works_in_any_gradient_mode(context: Callable[[], object]) -> None:
    model, loss_fn, batch, _ = _trained_once(CASES[0])
    expected = Objective(model, loss_fn, batch).gradient()
    with context():
        found = Objective(model, loss_fn, batch).gradient()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_an_evaluation_changes_nothing() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    images, labels = torch.randn(20, 1, 2, 2), torch.arange(20) % 4
    before = snapshot(model)
    evaluate(model, images, labels, chunk=7)
    assert snapshot(model) == before


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_probed_training_is_bit_identical(case: Case) -> None:
    def train(probed: bool) -> tuple[list[torch.Tensor], list[float]]:
        torch.manual_seed(2)
        model, loss_fn, batch = case.build()
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05, momentum=0.9)
        losses = []
        for _ in range(4):
            if probed:
                line_profile(Objective(model, loss_fn, batch), [0.05, 0.1])
            optimizer.zero_grad()
            loss = loss_fn(model, batch)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return [*model.parameters(), *model.buffers()], losses

    (plain, plain_losses), (probed, probed_losses) = train(False), train(True)
    assert plain_losses == probed_losses
    assert all(torch.equal(a, b) for a, b in zip(plain, probed, strict=True))


def test_the_probe_sees_the_random_numbers_of_the_step() -> None:
    """Law 3: the objective's loss is the very loss that the training step computes next."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 50), nn.Dropout(0.5), nn.Linear(50, 4))
    batch = (torch.randn(8, 5), torch.arange(8) % 4)
    measured = Objective(model, cross_entropy, batch).value()
    assert measured == cross_entropy(model, batch)
