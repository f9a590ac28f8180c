"""interpolate against closed forms, a naive twin, and averages of batch statistics computed by hand."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from tests.cases import cross_entropy
from tests.reference import surface as twin
from tests.snapshot import snapshot
from torch import nn

from alidade import Batches, Objective, covariate_shift, interpolate
from alidade.errors import CallError, RefusedError
from alidade.nn import LpNorm

Batch = tuple[torch.Tensor, torch.Tensor]


class _Point(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.at = nn.Parameter(torch.zeros(2, dtype=torch.float64))
        self.frozen = nn.Parameter(torch.zeros(1, dtype=torch.float64), requires_grad=False)


def _loss(model: nn.Module, batch: Any) -> torch.Tensor:
    return (model.at * torch.tensor([1.0, 3.0]).double()).square().sum() / 2 + model.frozen.square().sum()


def _state(x: float, y: float, frozen: float = 0.0) -> dict[str, torch.Tensor]:
    return {"at": torch.tensor([x, y]).double(), "frozen": torch.tensor([frozen]).double()}


def test_a_quadratic_between_two_points() -> None:
    line = interpolate(_Point(), _loss, None, _state(1, 0, 2), _state(-1, 2, 0), points=9)
    t = np.linspace(0, 1, 9)
    expected = ((1 - 2 * t) ** 2 + 9 * (2 * t) ** 2) / 2 + (2 - 2 * t) ** 2
    np.testing.assert_allclose(line.losses, expected, rtol=1e-14)
    np.testing.assert_array_equal(line.fractions, t)
    assert line.distance == pytest.approx(np.sqrt(4 + 4 + 4))
    assert line.barrier == 0.0  # convex: the chord lies above
    assert line.status == ("ok",) * 9


def test_a_barrier_is_measured_from_the_chord() -> None:
    def loss(model: nn.Module, batch: Any) -> torch.Tensor:
        return -_loss(model, batch)

    line = interpolate(_Point(), loss, None, _state(1, 0), _state(-1, 2), points=5)
    t = line.fractions
    expected = -((1 - 2 * t) ** 2 + 9 * (2 * t) ** 2) / 2
    assert line.barrier == pytest.approx(np.max(expected + (1 - t) * 0.5 + t * 18.5))
    rows = list(line.rows(7))
    assert [(r.quantity, r.step_size) for r in rows] == [
        *(("interpolation_loss", k / 4) for k in range(5)),
        ("interpolation_barrier", None),
    ]
    assert {r.status for r in rows} == {"ok"}
    assert rows[-1].value == line.barrier


def test_what_is_not_finite_is_said() -> None:
    line = interpolate(_Point(), lambda model, _: model.at.log().sum(), None, _state(1, 1), _state(-1, 1), points=3)
    assert line.status == ("ok", "non_finite", "non_finite")
    assert np.isnan(line.barrier)
    assert [row.status for row in line.rows(0)] == ["ok", "non_finite", "non_finite", "non_finite"]


def _network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Tanh(), nn.Linear(7, 4)).double()
    batch = _batch(seed)
    for _ in range(5):  # running statistics that have moved
        model(batch[0])
    return model


def _batch(seed: int) -> Batch:
    generator = torch.Generator().manual_seed(100 + seed)
    return torch.randn(12, 5, generator=generator, dtype=torch.float64), torch.arange(12) % 4


def _mixed(first: nn.Module, second: nn.Module, t: float) -> dict[str, torch.Tensor]:
    other = second.state_dict()
    return {
        name: (1 - t) * value + t * other[name] if value.is_floating_point() else value
        for name, value in first.state_dict().items()
    }


@pytest.mark.parametrize("statistics", ["batch", "running"])
@pytest.mark.parametrize("buffers", ["interpolated", "first", "second"])
def test_the_line_is_that_of_loaded_copies(statistics: str, buffers: str) -> None:
    first, second, batch = _network(0), _network(1), _batch(2)
    line = interpolate(
        _network(3), cross_entropy, batch, first.state_dict(), second.state_dict(), 4, statistics, buffers=buffers
    )
    for t, loss in zip(line.fractions, line.losses, strict=True):
        copied = copy.deepcopy(first).train(statistics == "batch")
        copied.load_state_dict(_mixed(first, second, float(t)))
        if buffers != "interpolated":
            for name, buffer in (first if buffers == "first" else second).named_buffers():
                copied.get_buffer(name).copy_(buffer)
        assert loss == pytest.approx(float(cross_entropy(copied, batch).detach()), rel=1e-12)
    assert line.provenance.statistics == statistics
    assert (line.buffers, line.recomputed_batches) == (buffers, 0)


def test_recomputed_statistics_are_averages_over_the_batches() -> None:
    first, second, batch = _network(0), _network(1), _batch(2)
    batches = [_batch(seed) for seed in (5, 6, 7)]
    line = interpolate(
        first, cross_entropy, batch, first.state_dict(), second.state_dict(), 3, "running", recompute=batches
    )
    for t, loss in zip(line.fractions, line.losses, strict=True):
        copied = copy.deepcopy(first)
        copied.load_state_dict(_mixed(first, second, float(t)))
        mean, variance = twin.recomputed(copied, [inputs for inputs, _ in batches], "1")
        copied[1].running_mean.copy_(torch.from_numpy(mean))
        copied[1].running_var.copy_(torch.from_numpy(variance))
        assert loss == pytest.approx(float(cross_entropy(copied.eval(), batch).detach()), rel=1e-12)
    assert line.recomputed_batches == 3
    assert line.provenance.statistics == "running"


def test_from_the_batch_itself_recomputed_statistics_are_those_of_the_batch() -> None:
    """Up to m / (m - 1), by which BatchNorm's running variance is larger: LpNorm's scale has no such factor."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), LpNorm(1, 7), nn.Tanh(), nn.Linear(7, 4)).double()
    other = {name: value * 1.5 if value.is_floating_point() else value for name, value in model.state_dict().items()}
    batch = _batch(2)
    ends = model.state_dict(), other
    wanted = interpolate(model, cross_entropy, batch, *ends, points=3, statistics="batch")
    found = interpolate(model, cross_entropy, batch, *ends, points=3, statistics="running", recompute=[batch, batch])
    np.testing.assert_allclose(found.losses, wanted.losses, rtol=1e-12)


def test_a_norm_that_is_called_twice_averages_its_calls() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.head = nn.BatchNorm1d(5), nn.Linear(5, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.norm(x) + self.norm(3 * x + 1))

    torch.manual_seed(0)
    model, batch = Twice().double(), _batch(2)
    state = model.state_dict()
    line = interpolate(model, cross_entropy, batch, state, state, 2, "running", recompute=[batch])
    both = torch.stack([batch[0], 3 * batch[0] + 1])
    model.norm.running_mean.copy_(both.mean(1).mean(0))
    model.norm.running_var.copy_(both.var(1).mean(0))
    assert line.losses[0] == pytest.approx(float(cross_entropy(model.eval(), batch).detach()), rel=1e-12)


def test_nothing_changes() -> None:
    model, batch = _network(0), _batch(2)
    model.append(nn.Dropout(0.3))
    other = copy.deepcopy(model.state_dict())
    cross_entropy(model, batch).backward()
    before = snapshot(model)
    for arguments in ({}, {"statistics": "batch"}, {"statistics": "running", "recompute": [batch, _batch(4)]}):
        interpolate(model, cross_entropy, batch, model.state_dict(), other, 3, **arguments)
    assert snapshot(model) == before

    def interrupted(model: nn.Module, batch: Any) -> torch.Tensor:
        cross_entropy(model, batch)
        raise KeyboardInterrupt

    for arguments in ({}, {"statistics": "running", "recompute": [batch]}):
        with pytest.raises(KeyboardInterrupt):
            interpolate(model, interrupted, batch, model.state_dict(), other, 3, **arguments)
    assert snapshot(model) == before


def test_dropout_draws_the_same_masks_at_every_point() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 50), nn.Dropout(0.5), nn.Linear(50, 4)).double()
    line = interpolate(model, cross_entropy, _batch(2), model.state_dict(), model.state_dict(), 4)
    assert len(set(line.losses)) == 1
    assert line.losses[0] == float(cross_entropy(model, _batch(2)).detach())
    assert line.distance == 0.0


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "points": ({"points": 1}, "points: expected a whole number from 2, got 1"),
    "statistics": ({"statistics": "eval"}, "statistics: expected None, 'batch' or 'running', got 'eval'"),
    "buffers": ({"buffers": "live"}, "buffers: expected one of 'interpolated', 'first', 'second', got 'live'"),
    "first": ({"first": {}}, "first: expected the model's own keys, missing"),
    "second": ({"second": 3}, "second: expected a state dictionary, got int"),
    "empty": ({"recompute": []}, "recompute: expected at least one batch, got none"),
    "a batch": ({"recompute": torch.ones(3, 5)}, "recompute: expected a list of batches as loss_fn takes them"),
    "in vain": ({"recompute": [_batch(0)]}, "recompute: expected a layer that uses running statistics; pass"),
    "model": ({"model": 3}, "model: expected a torch.nn.Module, got 3"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(case: str) -> None:
    changed, message = BAD[case]
    model = _network(0)
    arguments = {"model": model, "first": model.state_dict(), "second": model.state_dict(), "points": 2, **changed}
    with pytest.raises(CallError, match=message) as caught:
        interpolate(loss_fn=cross_entropy, batch=_batch(2), **arguments)
    assert "\n" not in str(caught.value)


def test_what_would_mean_nothing_is_refused() -> None:
    fresh = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4)).double()
    ends = fresh.state_dict(), fresh.state_dict()
    with pytest.raises(CallError, match="has tracked no batch"):
        interpolate(fresh, cross_entropy, _batch(2), *ends, points=2, statistics="running")
    fresh[1].__dict__.pop("momentum")
    with pytest.raises(RefusedError, match="expected layers with a momentum, got BatchNorm1d without one"):
        interpolate(fresh, cross_entropy, _batch(2), *ends, points=2, statistics="running", recompute=[_batch(0)])
    count = iter(range(100))
    with pytest.raises(RefusedError, match="expected the same loss twice"):
        interpolate(_Point(), lambda m, b: _loss(m, b) + next(count), None, _state(1, 1), _state(0, 1), points=2)


def _calls() -> tuple[list[int], Any]:
    """A loss that counts its calls, and raises in the one that is asked for."""
    calls: list[int] = []

    def loss(model: nn.Module, batch: Any) -> torch.Tensor:
        calls.append(1)
        if batch is not None and len(calls) == batch["fails at"]:
            raise KeyboardInterrupt
        return _loss(model, None)

    return calls, loss


def test_an_interrupted_line_goes_on_where_it_stopped(tmp_path: Any) -> None:
    ends = _state(1, 0, 2), _state(-1, 2, 0)
    expected = interpolate(_Point(), _loss, None, *ends, points=9).losses
    _, loss = _calls()
    file = tmp_path / "line.jsonl"
    with pytest.raises(KeyboardInterrupt):
        interpolate(_Point(), loss, {"fails at": 6}, *ends, points=9, out=file)
    again, loss = _calls()
    seen: list[tuple[int, int]] = []
    line = interpolate(
        _Point(), loss, {"fails at": 0}, *ends, points=9, out=file, progress=lambda *now: seen.append(now)
    )
    assert np.array_equal(line.losses, expected)
    assert len(again) == 1 + 9 - 4  # of the first 6 calls one was the check, and one failed
    assert seen == [(done, 9) for done in range(1, 10)]


@pytest.mark.parametrize(
    "changed",
    [{"points": 5}, {"buffers": "second"}, {"second": _state(0, 0)}, {"loss_fn": lambda m, b: 2 * _loss(m, b)}],
)
def test_a_file_of_another_line_is_refused(tmp_path: Any, changed: dict[str, Any]) -> None:
    options: dict[str, Any] = {
        "loss_fn": _loss, "batch": None, "first": _state(1, 0), "second": _state(-1, 2), "points": 3,
        "out": tmp_path / "line.jsonl",
    }  # fmt: skip
    interpolate(_Point(), **options)
    with pytest.raises(CallError, match="name a new file"):
        interpolate(_Point(), **options | changed)


def test_progress_must_be_a_function() -> None:
    with pytest.raises(CallError, match="progress: expected a function"):
        interpolate(_Point(), _loss, None, _state(1, 0), _state(-1, 2), progress=3)


@pytest.mark.parametrize("recompute", [False, True])
def test_a_loader_is_the_whole_data_set(recompute: bool) -> None:
    """Uneven batches, weighted; the first one by itself has another loss."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)).double()
    data = (torch.randn(11, 4).double(), torch.arange(11) % 3)
    model(data[0])
    ends = copy.deepcopy(model).state_dict(), copy.deepcopy(model).state_dict()
    ends[1]["0.weight"].mul_(-1.5)
    dataset = torch.utils.data.TensorDataset(*data)
    options: dict[str, Any] = {"points": 4, "statistics": "running", "recompute": [data] if recompute else None}
    loader = torch.utils.data.DataLoader(dataset, batch_size=4, shuffle=True)
    before = snapshot(model)
    found = interpolate(model, cross_entropy, Batches(loader), *ends, **options)
    assert snapshot(model) == before  # also the random state that the loader shuffles by
    whole = interpolate(model, cross_entropy, data, *ends, **options)
    assert found.losses == pytest.approx(whole.losses, rel=1e-12)
    assert (found.provenance.batch_size, found.provenance.partition) == (11, (4, 4, 3))
    first = interpolate(model, cross_entropy, tuple(part[:4] for part in data), *ends, **options)
    assert first.losses != pytest.approx(whole.losses, rel=1e-3)


def test_a_loader_has_dropout_masks_as_the_objective_has() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 3)).double()
    parts = [(torch.randn(n, 4).double(), torch.arange(n) % 3) for n in (5, 2)]
    state = model.state_dict()
    line = interpolate(model, cross_entropy, Batches(parts), state, state, points=2)
    assert line.losses.tolist() == [float(Objective(model, cross_entropy, Batches(parts)).value())] * 2


def test_batch_statistics_over_a_loader_are_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    parts = [(torch.randn(4, 4), torch.arange(4) % 3)] * 2
    state = model.state_dict()
    with pytest.raises(RefusedError, match="over 2 batches, got batch statistics"):
        interpolate(model, cross_entropy, Batches(parts), state, state)
    with pytest.raises(CallError, match="expected at least one batch"):
        interpolate(model, cross_entropy, Batches([]), state, state)
    with pytest.raises(CallError, match="expected the batch of one step, got Batches"):
        covariate_shift(model, cross_entropy, Batches(parts), state, state)
