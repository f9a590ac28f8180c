"""The objective: live parameters, declared statistics, exact derivatives, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.cases import CASES, cross_entropy
from torch import nn
from torch.nn import functional as F

from alidade import Objective
from alidade.core.errors import CallError, RefusedError


def _network(*layers: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6), *layers, nn.Tanh(), nn.Linear(6, 4)).double()


def _batch(n: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(n, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1)), torch.arange(n) % 4


def test_reads_the_parameters_live() -> None:
    model, batch = _network(), _batch()
    objective = Objective(model, cross_entropy, batch)
    before = objective.value()
    with torch.no_grad():
        model[0].weight += 0.1
    assert objective.value() == cross_entropy(model, batch).detach() != before


@pytest.mark.parametrize(
    ("layer", "training", "expected"),
    [
        (nn.BatchNorm1d(6), True, "batch"),
        (nn.BatchNorm1d(6), False, "running"),
        (nn.BatchNorm1d(6, track_running_stats=False), False, "batch"),
        (nn.LayerNorm(6), True, "none"),
        (nn.RMSNorm(6), True, "none"),
        (nn.GroupNorm(2, 6), True, "none"),
        (nn.Identity(), True, "none"),
    ],
    ids=str,
)
def test_statistics_are_recorded(layer: nn.Module, training: bool, expected: str) -> None:
    model = _network(layer).train(training)
    assert Objective(model, cross_entropy, _batch()).statistics == expected


def test_mixed_statistics_are_recorded() -> None:
    model = _network(nn.BatchNorm1d(6), nn.BatchNorm1d(6).eval())
    assert Objective(model, cross_entropy, _batch()).statistics == "mixed"
    assert Objective(model, cross_entropy, _batch(), statistics="batch").statistics == "batch"


def test_statistics_switch_the_norm_and_never_dropout() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 60), nn.BatchNorm1d(60), nn.Dropout(0.5), nn.Linear(60, 4)).double()
    batch = _batch()
    cross_entropy(model, batch)  # a batch is tracked
    model.eval()
    values = {s: Objective(model, cross_entropy, batch, statistics=s).value() for s in ("batch", "running")}
    assert values["running"] == cross_entropy(model, batch).detach()  # eval mode: dropout stays off
    model[1].train()
    assert values["batch"] == cross_entropy(model, batch).detach()
    model.train()
    state = torch.get_rng_state()
    with_dropout = Objective(model, cross_entropy, batch, statistics="running").value()
    torch.set_rng_state(state)
    model[1].eval()
    assert with_dropout == cross_entropy(model, batch).detach()  # dropout on, norm on running statistics


def test_running_statistics_of_no_batch_are_refused() -> None:
    with pytest.raises(CallError, match="'1' has tracked no batch; train a step first"):
        Objective(_network(nn.BatchNorm1d(6)), cross_entropy, _batch(), statistics="running")


def test_unknown_statistics_are_refused() -> None:
    with pytest.raises(CallError, match="expected None, 'batch' or 'running', got 'population'"):
        Objective(_network(), cross_entropy, _batch(), statistics="population")


NORMS = [
    nn.Identity(),
    nn.BatchNorm1d(6),
    nn.BatchNorm1d(6, affine=False),
    nn.LayerNorm(6),
    nn.GroupNorm(2, 6),
    nn.RMSNorm(6),
]


@pytest.mark.parametrize("norm", NORMS, ids=str)
def test_hvp_agrees_with_central_differences_of_the_gradient(norm: nn.Module) -> None:
    """Norm layers are where jvp(jacrev) goes wrong by percents; double backward must not."""
    model, batch = _network(norm), _batch()
    objective = Objective(model, cross_entropy, batch)
    generator = torch.Generator().manual_seed(2)
    v = {n: torch.randn(p.shape, generator=generator, dtype=p.dtype) for n, p in objective.parameters.items()}
    h = 1e-5
    ahead = objective.gradient({n: p + h * v[n] for n, p in objective.parameters.items()})
    behind = objective.gradient({n: p - h * v[n] for n, p in objective.parameters.items()})
    product = objective.hvp(v)
    scale = max(float(value.abs().max()) for value in product.values())
    for name, value in product.items():
        # truncation h^2 |L''''| ~ 1e-10 and rounding eps / h ~ 2e-11, of derivatives of order 1 to 100
        np.testing.assert_allclose((ahead[name] - behind[name]) / (2 * h), value, atol=1e-7 * scale)


def test_hvp_through_attention() -> None:
    model, loss_fn, batch = next(case for case in CASES if case.name == "attention").build()
    objective = Objective(model, loss_fn, batch)
    product = objective.hvp(objective.parameters)
    assert all(torch.isfinite(value).all() for value in product.values())


def test_parameters_that_the_loss_does_not_use_have_gradient_zero() -> None:
    model, loss_fn, batch = next(case for case in CASES if case.name.startswith("tied")).build()
    gradient = Objective(model, loss_fn, batch).gradient()
    assert set(gradient) == {"embed.weight", "unused.weight", "unused.bias"}
    assert gradient["unused.weight"].abs().sum() == 0


def test_tied_parameters_get_the_sum_of_their_gradients() -> None:
    model, loss_fn, batch = next(case for case in CASES if case.name.startswith("tied")).build()
    loss_fn(model, batch).backward()
    assert torch.equal(Objective(model, loss_fn, batch).gradient()["embed.weight"], model.embed.weight.grad)


def test_names_come_without_wrappers() -> None:
    model = _network()
    compiled = torch.compile(model, backend="eager")
    assert set(Objective(compiled, cross_entropy, _batch()).gradient()) == set(dict(model.named_parameters()))
    parallel = nn.DataParallel(model)
    assert set(Objective(parallel, cross_entropy, _batch()).parameters) == set(dict(model.named_parameters()))


def test_forward_and_criterion() -> None:
    model, batch = _network(), _batch()
    pair = (lambda model, batch: model(batch[0]), lambda outputs, batch: F.cross_entropy(outputs, batch[1]))
    assert Objective(model, pair, batch).value() == Objective(model, cross_entropy, batch).value()


def test_autocast_is_the_one_of_construction() -> None:
    torch.manual_seed(0)
    model, batch = nn.Linear(64, 4), (torch.randn(16, 64), torch.arange(16) % 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        objective = Objective(model, cross_entropy, batch)
        inside = cross_entropy(model, batch)
    assert objective.value() == inside != cross_entropy(model, batch)
    assert objective.dtype == "bfloat16"


def test_batch_size_is_found_in_any_nesting() -> None:
    model = _network()
    for batch in ({"x": [_batch(7)]}, [_batch(7)[0]], _batch(7)[0]):
        objective = Objective(model, lambda model, batch: model(_batch(7)[0]).square().mean(), batch)
        assert objective.batch_size == 7
    assert Objective(model, lambda model, batch: model(_batch()[0]).mean(), None).batch_size is None


class _Counter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.calls = nn.Linear(5, 4).double(), []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls.append(1)
        return self.linear(x) * len(self.calls)


def test_state_that_a_module_keeps_is_that_of_the_next_forward_pass() -> None:
    model = _Counter()
    model.calls += [1, 1]
    objective = Objective(model, cross_entropy, _batch())
    found = [objective.value(), objective.value()]
    assert model.calls == [1, 1]
    assert found == [cross_entropy(model, _batch())] * 2


@pytest.mark.parametrize("method", ["value", "gradient"])
def test_a_loss_that_keeps_state_is_refused(method: str) -> None:
    calls: list[int] = []

    def counting(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        calls.append(1)  # nothing on the model, so nothing that Alidade could find
        return cross_entropy(model, batch) * len(calls)

    objective = Objective(_network(), counting, _batch())
    with pytest.raises(RefusedError, match="expected the same loss twice"):
        getattr(objective, method)()


def test_a_loss_with_a_generator_of_its_own_is_refused() -> None:
    hidden = torch.Generator().manual_seed(0)

    def noisy(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return cross_entropy(model, batch) * torch.rand((), generator=hidden)

    with pytest.raises(RefusedError):
        Objective(_network(), noisy, _batch()).value()


@pytest.mark.parametrize(
    ("loss_fn", "message"),
    [
        (lambda model, batch: model(batch[0]), "got shape"),
        (lambda model, batch: 1.0, "got float"),
        (lambda model, batch: cross_entropy(model, batch).detach(), "depends on the parameters"),
        (lambda model, batch: torch.ones((), requires_grad=True) * 2, "none of them enters"),
        (3, "loss_fn: expected"),
    ],
)
def test_bad_losses_get_one_line(loss_fn: object, message: str) -> None:
    with pytest.raises(CallError, match=message):
        Objective(_network(), loss_fn, _batch()).gradient()


def test_a_model_without_trainable_parameters_is_refused() -> None:
    with pytest.raises(CallError, match="requires_grad"):
        Objective(_network().requires_grad_(False), cross_entropy, _batch())


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(CallError, match="expected at least one example"):
        Objective(_network(), cross_entropy, (torch.empty(0, 5, dtype=torch.float64), torch.empty(0))).value()
