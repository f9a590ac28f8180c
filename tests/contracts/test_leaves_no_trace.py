"""Law 1: parameters, buffers, gradients, modes, hooks, attributes and random states are what they were."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.cases import CASES, HOOKED_BACKWARD, Case, cross_entropy
from tests.snapshot import snapshot
from torch import nn

from alidade import (
    CurvatureOperator,
    Objective,
    activation_statistics,
    batch_sharpness,
    covariate_shift,
    directional_curvature,
    gradient_overlap,
    hessian_trace,
    interpolate,
    layer_scalars,
    line_profile,
    loss_surface,
    preconditioned_sharpness,
    spectral_density,
    spherical_sharpness,
    step_sharpness,
    top_eigenvalues,
)
from alidade.core.probes import CurvatureProbe
from alidade.errors import AlidadeError, RefusedError
from alidade.probes.evaluation import evaluate
from alidade.probes.rescaling import rescaled
from alidade.probes.spectrum import SpectrumTracker
from alidade.probes.theorem import lipschitz_reduction


def _shift(objective: Objective) -> object:
    before = {name: value.clone() for name, value in objective.model.state_dict().items()}
    after = {name: value * 0.9 if value.is_floating_point() else value for name, value in before.items()}
    return covariate_shift(objective.model, objective.loss_fn, objective.batch, before, after)


def _interpolation(objective: Objective) -> object:
    first = objective.model.state_dict()
    second = {name: value * 0.9 if value.is_floating_point() else value for name, value in first.items()}
    return interpolate(objective.model, objective.loss_fn, objective.batch, first, second, points=3)


def _or_refused(measure: Callable[[Objective], object]) -> Callable[[Objective], object]:
    """For probes that only some networks can have; elsewhere the refusal must leave no trace either."""

    def measured_or_refused(objective: Objective) -> object:
        try:
            return measure(objective)
        except AlidadeError as refusal:
            return refusal

    return measured_or_refused


def _product(route: str, matrix: str = "hessian") -> Callable[[Objective], object]:
    def measured(objective: Objective) -> object:
        operator = CurvatureOperator(objective, route=route, matrix=matrix)
        try:
            return operator.product(objective.parameters)
        except (AlidadeError, RuntimeError) as error:  # torch's own, where a route that was named cannot be gone
            return error

    return measured


def _preconditioned(objective: Objective) -> object:
    parameters = [p for p in objective.model.parameters() if p.requires_grad]
    optimizer = torch.optim.RMSprop(parameters, lr=0.1)
    for parameter in parameters:
        optimizer.state[parameter] = {"step": torch.ones(()), "square_avg": torch.ones_like(parameter)}
    before = repr(optimizer.state_dict())
    found = preconditioned_sharpness(objective, optimizer, max_matvecs=6)
    assert repr(optimizer.state_dict()) == before
    return found


def _overlap(objective: Objective) -> object:
    return gradient_overlap(objective, top_eigenvalues(objective, max_matvecs=40))


def _surface(objective: Objective) -> object:
    vector = top_eigenvalues(objective, rtol=1e3, max_matvecs=2).eigenvectors[0]
    return loss_surface(objective, (objective.gradient(), vector), points=2)


def _update(objective: Objective) -> dict[str, torch.Tensor]:
    return {name: 0.1 * value for name, value in objective.gradient().items()}


def _in_pair(objective: Objective) -> Objective:
    """The same loss as (forward, criterion), which Gauss-Newton needs."""
    loss_fn = objective.loss_fn
    pair = (lambda model, batch: loss_fn(model, batch).reshape(1), lambda output, batch: output.square().sum())
    return Objective(objective.model, pair, objective.batch)


PROBES: dict[str, Callable[[Objective], object]] = {
    "value": lambda objective: objective.value(),
    "gradient": lambda objective: objective.gradient(),
    "hvp": lambda objective: objective.hvp(objective.parameters),
    "raw": lambda objective: line_profile(objective, [0.1, 1.0]),
    "relative": lambda objective: line_profile(objective, [0.1], coordinates="relative"),
    "random": lambda objective: line_profile(objective, [0.1], direction="random"),
    "losses only": lambda objective: line_profile(objective, [0.1], gradients=False),
    "statistics": lambda objective: objective.statistics,
    "covariate shift": _shift,
    "activations": _or_refused(lambda o: activation_statistics(o.model, o.loss_fn, o.batch)),
    "layer scalars": lambda objective: layer_scalars(objective, lr=0.1),
    "theorem": _or_refused(lipschitz_reduction),
    "rescaled": _or_refused(lambda objective: rescaled(objective, 2.0).value()),
    "dtype": lambda objective: objective.dtype,
    "product, kept": _product("kept"),
    "product, rebuilt": _product("rebuilt"),
    "product, forward over reverse": _product("forward_over_reverse"),
    "product, difference": _product("difference"),
    "product, gauss-newton": _or_refused(lambda o: _product("auto", "gauss_newton")(_in_pair(o))),
    "eigenvalues": _or_refused(lambda objective: top_eigenvalues(objective, max_matvecs=6)),
    "block": _or_refused(lambda o: top_eigenvalues(o, names=list(o.parameters)[:1], max_matvecs=2)),
    "trace": _or_refused(lambda objective: hessian_trace(objective, max_matvecs=6)),
    "density": _or_refused(lambda objective: spectral_density(objective, probes=2, steps=4)),
    "curvature": _or_refused(lambda objective: directional_curvature(objective, objective.parameters)),
    "batch sharpness": _or_refused(batch_sharpness),
    "step sharpness": _or_refused(lambda objective: step_sharpness(objective, _update(objective))),
    "overlap": _or_refused(_overlap),
    "preconditioned": _or_refused(_preconditioned),
    "spherical": _or_refused(lambda objective: spherical_sharpness(objective, max_matvecs=6)),
    "surface": lambda objective: loss_surface(objective, points=2, normalize="raw"),
    "surface along an eigenvector": _or_refused(_surface),
    "interpolation": _interpolation,
    "tracked curvature": _or_refused(
        lambda o: SpectrumTracker(
            CurvatureProbe(looks=("eigenvalues", "batch_sharpness", "trace"), statistics=("own", "batch", "running"))
        ).rows(0, o)
    ),
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


class _RaisesInBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, error: type[BaseException]) -> torch.Tensor:
        ctx.error = error
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        raise ctx.error("in the middle")


def _interrupted(loss_fn: Any, at_call: int, error: type[BaseException], where: str) -> Callable[..., torch.Tensor]:
    """The loss function, but its n-th call raises: in the network's last module, after it, or in the backward pass."""
    calls = 0

    def failing(model: nn.Module, batch: object) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls < at_call:
            return loss_fn(model, batch)
        if where == "forward":  # a patch that nobody takes away: the probe must put it back

            def broken(*args: object, **kwargs: object) -> None:
                raise error("in the middle")

            list(model.modules())[-1].forward = broken
        loss = loss_fn(model, batch)
        if where == "backward":
            return _RaisesInBackward.apply(loss, error)
        raise error("in the middle")

    return failing


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("where", ["forward", "loss", "backward"])
@pytest.mark.parametrize("probe", PROBES, ids=str)
def test_nothing_changes_when_a_probe_is_interrupted(probe: str, where: str, error: type[BaseException]) -> None:
    raised = 0
    for case in (case for case in CASES if case.name in ("remembering", "mixed_modes")):
        for at_call in (1, 2, 3):
            model, loss_fn, batch, optimizer = _trained_once(case)
            before = snapshot(model, optimizer)
            try:
                PROBES[probe](Objective(model, _interrupted(loss_fn, at_call, error, where), batch))
            except error:
                raised += 1
            after = snapshot(model, optimizer)
            assert {key for key in before | after if before.get(key) != after.get(key)} == set()
    evaluates = probe not in ("statistics", "dtype") and (where, probe) not in _NO_BACKWARD
    assert (raised > 0) == evaluates


#: Spherical sharpness first asks whether the loss ignores the weights' length; on these networks it does not. The
#: function that raises in the backward pass is none that torch.func could transform.
_NO_BACKWARD = {
    ("backward", probe)
    for probe in (
        "value", "activations", "rescaled", "surface", "interpolation", "spherical", "product, forward over reverse",
    )
}  # fmt: skip


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


def test_module_backward_hooks_do_not_act_and_forward_hooks_do() -> None:
    """Law 3: a forward hook that changes the output is part of the model, a backward hook no part of the loss."""
    model, loss_fn, batch, optimizer = _trained_once(HOOKED_BACKWARD)
    every: list[int] = []
    fired = list(model.fired)
    objective = Objective(model, loss_fn, batch)
    with nn.modules.module.register_module_full_backward_hook(lambda m, gi, go: every.append(1)):
        before = snapshot(model, optimizer)
        found, value = objective.gradient(), objective.value()
        line_profile(objective, [0.1, 0.2])
        _shift(objective)
        assert snapshot(model, optimizer) == before
    assert (model.fired, every) == (fired, [])
    assert value == loss_fn(model, batch)
    first, second = model.first, model.second  # the gradient of the loss, hooks taken away by hand
    logits = 2 * (batch[0] @ first.weight.T + first.bias).tanh().matmul(second.weight.T).add(second.bias)
    loss = nn.functional.cross_entropy(logits, batch[1])
    expected = torch.autograd.grad(loss, list(model.parameters()))
    for gradient, witness in zip(found.values(), expected, strict=True):
        torch.testing.assert_close(gradient, witness)
    loss_fn(model, batch).backward()
    assert len(model.fired) > len(fired)  # and in training they act again


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
