"""What a survey records, refuses and survives."""

from __future__ import annotations

import errno
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import nn

import alidade
from alidade.core.schedule import Every, First, Logarithmic
from alidade.errors import AlidadeError, CallError, RefusedError, WorkError
from alidade.probes.budget import Budget
from alidade.store import live


def _quadratic(lr: float = 0.1) -> tuple[nn.Module, Any, torch.optim.Optimizer]:
    """L = (4 a^2 + b^2) / 2 at theta = (a, b): Hessian diag(4, 1), so that everything has a closed form."""
    model = nn.Linear(2, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 2.0]]))
    curvature = torch.diag(torch.tensor([2.0, 1.0])).double()
    return model, lambda model, batch: model(curvature).square().sum() / 2, torch.optim.SGD(model.parameters(), lr=lr)


def _steps(survey: alidade.Survey, model: nn.Module, loss_fn: Any, optimizer: Any, steps: int) -> None:
    for _ in range(steps):
        survey.observe(torch.ones(1))
        optimizer.zero_grad()
        loss_fn(model, None).backward()
        optimizer.step()


def _values(frame: pl.DataFrame, quantity: str, step_size: float | None = None) -> list[float]:
    rows = frame.filter(pl.col("quantity") == quantity)
    if step_size is not None:
        rows = rows.filter(pl.col("step_size") == step_size)
    return rows.sort("step")["value"].to_list()


def test_the_update_profile_of_a_quadratic_is_its_closed_form(tmp_path: Path) -> None:
    lr = 0.3
    model, loss_fn, optimizer = _quadratic(lr)
    with alidade.Survey(model, loss_fn, optimizer, tmp_path / "s", ["update_profile"], budget=None) as survey:
        _steps(survey, model, loss_fn, optimizer, 4)
    frame = alidade.load(tmp_path / "s")
    theta, hessian = np.array([1.0, 2.0]), np.diag([4.0, 1.0])
    for step in range(4):
        gradient = hessian @ theta
        update = lr * gradient
        curvature = update @ hessian @ update / (update @ update)
        # float64 throughout; the model's own step rounds a handful of times
        assert _values(frame, "update_loss", 0.0)[step] == pytest.approx(theta @ hessian @ theta / 2, rel=1e-12)
        after = theta - update
        assert _values(frame, "update_loss", 1.0)[step] == pytest.approx(after @ hessian @ after / 2, rel=1e-12)
        assert _values(frame, "update_directional_curvature", 2.0)[step] == pytest.approx(curvature, rel=1e-10)
        assert _values(frame, "update_slope")[step] == pytest.approx(update @ gradient, rel=1e-10)
        assert _values(frame, "update_step_curvature")[step] == pytest.approx(lr * curvature, rel=1e-10)
        theta = after


def test_step_curvature_above_two_is_a_step_that_raised_the_loss(tmp_path: Path) -> None:
    model, loss_fn, optimizer = _quadratic(lr=0.6)  # 2 / 4 is the edge
    with alidade.Survey(model, loss_fn, optimizer, tmp_path / "s", ["update_profile"], budget=None) as survey:
        _steps(survey, model, loss_fn, optimizer, 6)
    frame = alidade.load(tmp_path / "s")
    rises = [b > a for a, b in zip(_values(frame, "update_loss", 0.0), _values(frame, "update_loss", 1.0), strict=True)]
    assert rises == [value > 2 for value in _values(frame, "update_step_curvature")]
    assert any(rises)


def test_weights_of_micro_batches_are_factors_of_their_losses(tmp_path: Path) -> None:
    model = nn.Linear(1, 1, bias=False).double()
    with torch.no_grad():
        model.weight.fill_(1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def loss_fn(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        return model(batch).sum()

    with alidade.Survey(model, loss_fn, optimizer, tmp_path / "s", ["gradient_profile"], budget=None) as survey:
        for weights in ((None, None), (1.0, 0.5)):
            for index, weight in enumerate(weights):
                batch = torch.full((1, 1), 1.0 + index).double()
                survey.observe(batch, accumulate=index > 0, weight=weight)
                loss_fn(model, batch).backward()
            with torch.no_grad():
                model.weight.fill_(1.0)
            optimizer.step()
    gradients = _values(alidade.load(tmp_path / "s"), "gradient_norm")
    assert gradients == pytest.approx([(1 + 2) / 2, 1 + 0.5 * 2])


@pytest.mark.parametrize(
    ("schedule", "steps"),
    [(Every(interval=3), [0, 3, 6]), (Logarithmic(base=2.0), [0, 1, 2, 4]), (First(count=2), [0, 1])],
)
def test_schedules(schedule: Any, steps: list[int], tmp_path: Path) -> None:
    model, loss_fn, optimizer = _quadratic()
    with alidade.Survey(model, loss_fn, optimizer, tmp_path / "s", ["layer_scalars"], schedule, budget=None) as survey:
        _steps(survey, model, loss_fn, optimizer, 8)
    frame = alidade.load(tmp_path / "s").filter(pl.col("quantity") == "weight_norm")
    assert sorted(set(frame["step"].to_list())) == steps


def test_a_failing_probe_is_recorded_once_loudly_and_training_goes_on(tmp_path: Path) -> None:
    model, loss_fn, optimizer = _quadratic()

    def failing(model: nn.Module, batch: Any) -> torch.Tensor:
        raise ValueError("no measurement today")

    survey = alidade.Survey(model, failing, optimizer, tmp_path / "s", ["gradient_profile"], budget=None)
    with pytest.warns(UserWarning, match="no measurement today") as caught:
        _steps(survey, model, loss_fn, optimizer, 3)
    survey.close()
    assert len(caught) == 1
    assert survey.step == 3
    rows = alidade.load(tmp_path / "s").filter(pl.col("status").str.starts_with("failed"))
    assert rows["status"].to_list() == ["failed: no measurement today"] * 3
    assert rows["value"].is_nan().all()


def test_a_non_deterministic_loss_is_refused_with_the_reason(tmp_path: Path) -> None:
    model, loss_fn, optimizer = _quadratic()
    hidden = torch.Generator()

    def noisy(model: nn.Module, batch: Any) -> torch.Tensor:
        return loss_fn(model, batch) * torch.rand((), generator=hidden)

    survey = alidade.Survey(model, noisy, optimizer, tmp_path / "s", ["gradient_profile"], First(count=1), None)
    with pytest.warns(UserWarning, match="expected the same loss twice"):
        _steps(survey, model, loss_fn, optimizer, 2)
    survey.close()


def test_a_step_without_announced_data_says_so(tmp_path: Path) -> None:
    model, loss_fn, optimizer = _quadratic()
    survey = alidade.Survey(model, loss_fn, optimizer, tmp_path / "s", ["gradient_profile"], budget=None)
    loss_fn(model, None).backward()
    with pytest.warns(UserWarning, match="call survey.observe"):
        optimizer.step()
    survey.close()


def test_nan_losses_are_recorded_with_their_step(tmp_path: Path) -> None:
    model, loss_fn, optimizer = _quadratic()
    with alidade.Survey(model, loss_fn, optimizer, tmp_path / "s", ["gradient_profile"], budget=None) as survey:
        _steps(survey, model, loss_fn, optimizer, 1)
        with torch.no_grad():
            model.weight.fill_(float("nan"))
        _steps(survey, model, loss_fn, optimizer, 1)
    frame = alidade.load(tmp_path / "s").filter(pl.col("quantity") == "loss")
    assert set(frame.filter(pl.col("step") == 0)["status"]) == {"ok"}
    assert set(frame.filter(pl.col("step") == 1)["status"]) == {"non_finite"}


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_the_scaler_skips_is_not_a_step(fused: bool, tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    survey = alidade.Survey(
        model, lambda m, x: m(x).square().mean(), optimizer, tmp_path / "s", ["update_profile"], budget=None
    )
    for index in range(4):
        batch = torch.full((2, 3), 1.0 + index)
        survey.observe(batch)
        optimizer.zero_grad()
        scaler.scale(model(batch).square().mean()).backward()
        if index == 1:
            model.weight.grad.fill_(float("inf"))
        scaler.step(optimizer)
        scaler.update()
    survey.close()
    assert survey.step == 3
    frame = alidade.load(tmp_path / "s")
    assert sorted(set(frame.filter(pl.col("quantity") == "update_loss")["step"])) == [0, 1, 2]
    assert not frame["status"].str.starts_with("failed").any()


def test_an_optimizer_stepped_inside_backward_is_refused(tmp_path: Path) -> None:
    model, loss_fn, optimizer = _quadratic()
    survey = alidade.Survey(model, loss_fn, optimizer, tmp_path / "s")
    model.weight.register_post_accumulate_grad_hook(lambda parameter: optimizer.step())
    survey.observe(None)
    with pytest.raises(RefusedError, match="inside it"):
        loss_fn(model, None).backward()
    survey.close()


def test_bad_input_gets_one_line_and_leaves_no_hook(tmp_path: Path) -> None:
    model, loss_fn, optimizer = _quadratic()
    other = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    full = tmp_path / "full"
    full.mkdir()
    (full / "file").write_text("mine")
    calls: list[tuple[dict[str, Any], str]] = [
        ({"optimizer": other}, "over other parameters"),
        ({"optimizer": "sgd"}, "expected a torch.optim.Optimizer, got str"),
        ({"out": full}, "expected an empty or new folder"),
        ({"probes": ["sharpness"]}, "expected one of update_profile"),
        ({"budget": 0.0}, "budget: expected a share"),
        ({"config": {"seed": object()}}, "config"),
        ({"loss_fn": 3}, "loss_fn: expected"),
    ]
    for changed, message in calls:
        arguments = {"model": model, "loss_fn": loss_fn, "optimizer": optimizer, "out": tmp_path / "s"} | changed
        with pytest.raises(AlidadeError, match=message) as caught:
            alidade.Survey(**arguments)
        assert "\n" not in str(caught.value)
        assert len(optimizer._optimizer_step_pre_hooks) == 0


def test_a_closed_survey_says_so(tmp_path: Path) -> None:
    model, loss_fn, optimizer = _quadratic()
    survey = alidade.Survey(model, loss_fn, optimizer, tmp_path / "s")
    survey.close()
    survey.close()
    with pytest.raises(CallError, match="after close"):
        survey.observe(None)


def test_recorders_get_every_row_and_the_seed_goes_into_the_table(tmp_path: Path) -> None:
    class Listing:
        def __init__(self) -> None:
            self.rows: list[Any] = []

        def record(self, segment: str, rows: Any) -> None:
            self.rows.extend(rows)

    listing = Listing()
    model, loss_fn, optimizer = _quadratic()
    config = {"seed": 5, "note": "mine"}
    with alidade.Survey(
        model, loss_fn, optimizer, tmp_path / "s", budget=None, config=config, recorders=[listing]
    ) as survey:
        _steps(survey, model, loss_fn, optimizer, 2)
    frame = alidade.load(tmp_path / "s")
    assert frame.height == len(listing.rows) > 0
    assert set(frame["seed"]) == {5}


class _Disk:
    """Takes pieces of a run, or, while it is full, the first of each flush only."""

    def __init__(self) -> None:
        self.full, self.calls, self._write = False, 0, live.write_part

    def write_part(self, *arguments: Any) -> None:
        self.calls += 1
        if self.full and self.calls > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        self._write(*arguments)


def test_a_full_disk_stops_no_training_and_nothing_is_lost_or_doubled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = _Disk()
    monkeypatch.setattr(live, "FLUSH_SECONDS", 0.0)
    monkeypatch.setattr(live, "write_part", disk.write_part)

    def trained(out: Path, full: tuple[int, ...]) -> alidade.Survey:
        model, loss_fn, optimizer = _quadratic()
        survey = alidade.Survey(model, loss_fn, optimizer, out, ["update_profile", "layer_scalars"], budget=None)
        for step in range(9):
            disk.full, disk.calls = step in full, 0
            _steps(survey, model, loss_fn, optimizer, 1)
        return survey

    def numbers(out: Path) -> pl.DataFrame:
        frame = alidade.load(out).drop("run").filter(pl.col("unit") != "s")
        return frame.sort("step", "quantity", "layer", "step_size")

    trained(tmp_path / "plain", ()).close()
    with pytest.warns(UserWarning, match="No space left on device; free space") as warned:
        survey = trained(tmp_path / "s", (2, 3, 6))
    assert len(warned) == 2  # once each, until there was room again
    assert numbers(tmp_path / "s").equals(numbers(tmp_path / "plain"), null_equal=True)  # on the disk, before close()
    survey.close()
    assert numbers(tmp_path / "s").equals(numbers(tmp_path / "plain"), null_equal=True)
    with pytest.warns(UserWarning, match="No space left"):
        survey = trained(tmp_path / "last", (8,))
    disk.calls = 1
    with pytest.raises(WorkError, match="No space left on device"):  # what is measured must be on the disk
        survey.state_dict()


def test_a_run_that_could_not_be_written_can_be_closed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, loss_fn, optimizer = _quadratic()
    survey = alidade.Survey(model, loss_fn, optimizer, tmp_path / "s", "layer_scalars", budget=None)
    _steps(survey, model, loss_fn, optimizer, 3)

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        for _ in range(2):
            with pytest.raises(WorkError, match="No space left on device") as caught:
                survey.close()
            assert "\n" not in str(caught.value)
    survey.close()
    survey.close()
    frame = alidade.load(tmp_path / "s")
    assert sorted(frame.filter(pl.col("quantity") == "weight_norm")["step"]) == [0, 1, 2]
    assert frame.filter(pl.col("quantity") == "training_seconds").height == 1


def test_what_was_measured_survives_a_kill(tmp_path: Path) -> None:
    code = """
import os, signal, sys, torch, alidade
from torch import nn
from alidade.store import live
live.FLUSH_SECONDS = 0.0
model = nn.Linear(2, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
loss_fn = lambda m, x: m(x).square().mean()
survey = alidade.Survey(model, loss_fn, optimizer, sys.argv[1], budget=None)
for step in range(10):
    survey.observe(torch.ones(1, 2))
    loss_fn(model, torch.ones(1, 2)).backward()
    optimizer.step()
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "s")], check=False)
    frame = alidade.load(tmp_path / "s")
    assert sorted(set(frame.filter(pl.col("quantity") == "update_loss")["step"])) == list(range(10))
    part = sorted((tmp_path / "s").rglob("parts/*.parquet"))[0]
    flipped = bytearray(part.read_bytes())
    flipped[len(flipped) // 2] ^= 1
    part.write_bytes(flipped)
    with pytest.warns(UserWarning, match=f"{part.name}.*move that file away: the rest of the run is kept"):
        rest = alidade.load(tmp_path / "s")
    assert 0 < rest.height < frame.height


def test_the_budget_is_kept_in_the_long_run() -> None:
    """A simulated clock: probes cost 40 training steps; from step 2000 on they have at most 1.1 x their share."""
    now = 0.0
    budget = Budget(0.05, clock=lambda: now)
    shares = []
    for step in range(6000):
        for probe in budget.affordable(["a", "b"]):
            cost = {"a": 40.0, "b": 10.0}[probe] * (1 + 0.05 * math.sin(step))
            now += cost
            budget.charge(probe, cost)
        now += 1.0
        shares.append(budget.spent / budget.training_seconds)
    assert max(shares[2000:]) <= 1.1 * 0.05
    assert shares[-1] >= 0.8 * 0.05  # and it is used


def test_a_cheap_probe_does_not_starve_an_expensive_one() -> None:
    now = 0.0
    budget = Budget(0.05, clock=lambda: now)
    runs = {"cheap": 0, "dear": 0}
    for _ in range(4000):
        for probe in budget.affordable(["cheap", "dear"]):
            cost = {"cheap": 1.0, "dear": 30.0}[probe]
            now += cost
            budget.charge(probe, cost)
            runs[probe] += 1
        now += 1.0
    assert runs["dear"] >= 4  # 0.05 x 4000 / 31 = 6 rounds of both
    assert abs(runs["cheap"] - runs["dear"]) <= 1


def test_the_first_round_is_paid_back() -> None:
    now = 0.0
    budget = Budget(0.1, clock=lambda: now)
    assert budget.affordable(["a", "b"]) == ["a", "b"]
    for probe in ("a", "b"):
        now += 5.0
        budget.charge(probe, 5.0)
    now += 140.0
    assert budget.affordable(["a", "b"]) == []  # 14 s earned, 10 s owed, 5 s needed
    now += 20.0
    assert budget.affordable(["a", "b"]) == ["a"]


def test_no_budget_means_the_schedule_alone_decides(tmp_path: Path) -> None:
    model, loss_fn, optimizer = _quadratic()
    with alidade.Survey(model, loss_fn, optimizer, tmp_path / "s", ["layer_scalars"], budget=0.0001) as survey:
        _steps(survey, model, loss_fn, optimizer, 30)
        assert survey.overhead > 0
    frame = alidade.load(tmp_path / "s").filter(pl.col("quantity") == "weight_norm")
    assert sorted(set(frame["step"])) == [0]  # the first round, which such a budget never pays back in time


def test_what_was_spent_is_in_the_table(tmp_path: Path) -> None:
    model, loss_fn, optimizer = _quadratic()
    with alidade.Survey(
        model, loss_fn, optimizer, tmp_path / "s", ["layer_scalars"], schedule=2, budget=None
    ) as survey:
        _steps(survey, model, loss_fn, optimizer, 5)
    frame = alidade.load(tmp_path / "s")
    each, (spent,) = _values(frame, "layer_scalars_seconds"), _values(frame, "probes_seconds")
    (training,) = _values(frame, "training_seconds")
    assert len(each) == 3
    assert 0 < sum(each) < spent  # what surrounds the probes is spent, too
    assert 0 < survey.overhead <= spent / training  # the clock of the training has gone on


def test_a_held_out_batch_along_this_batchs_step() -> None:
    model, _, _ = _quadratic()

    def loss_fn(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return model(x).square().mean()

    here, there = torch.ones(3, 2).double(), torch.tensor([[1.0, -1.0]]).double()
    direction = alidade.Objective(model, loss_fn, here).gradient()
    profile = alidade.line_profile(alidade.Objective(model, loss_fn, there), [0.1], direction=direction)
    moved = model.weight - 0.1 * direction["weight"]
    assert profile.losses[0] == pytest.approx(float((there @ moved.detach().T).square().mean()), rel=1e-12)


def test_a_wrapped_optimizer_is_found(tmp_path: Path) -> None:
    class Wrapper:  # as Accelerate's: no hooks of its own
        def __init__(self, optimizer: Any) -> None:
            self.optimizer = optimizer

    model, loss_fn, optimizer = _quadratic()
    with alidade.Survey(model, loss_fn, Wrapper(optimizer), tmp_path / "s", budget=None) as survey:
        _steps(survey, model, loss_fn, optimizer, 2)
    assert survey.step == 2


def test_the_spec_says_what_ran(tmp_path: Path) -> None:
    model, loss_fn, optimizer = _quadratic()
    alidade.Survey(model, loss_fn, optimizer, tmp_path / "s", name="mine").close()
    spec = json.loads(next((tmp_path / "s").glob("*/spec.json")).read_text())
    assert (spec["name"], spec["model"], spec["optimizer"], spec["parameters"]) == ("mine", "Linear", "SGD", 2)
    assert spec["optimizer_defaults"]["lr"] == 0.1


def test_covariate_shift_across_the_real_step_is_the_functions_own(tmp_path: Path) -> None:
    """The probe against a call with the state dicts that the loop itself saved."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)

    def loss_fn(model: nn.Module, batch: Any) -> torch.Tensor:
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    batch = (torch.randn(12, 5, dtype=torch.float64), torch.arange(12) % 3)
    states = []
    with alidade.Survey(model, loss_fn, optimizer, tmp_path / "s", ["covariate_shift"], budget=None) as survey:
        for _ in range(3):
            before = {name: value.clone() for name, value in model.state_dict().items()}
            survey.observe(batch)
            optimizer.zero_grad()
            loss_fn(model, batch).backward()
            optimizer.step()
            states.append((before, {name: value.clone() for name, value in model.state_dict().items()}))
    frame = alidade.load(tmp_path / "s").filter(pl.col("quantity") == "covariate_shift_l2")
    for step, (before, after) in enumerate(states):
        expected = alidade.covariate_shift(model, loss_fn, batch, before, after)
        rows = frame.filter(pl.col("step") == step)
        assert tuple(rows["layer"]) == expected.layers
        np.testing.assert_allclose(rows["value"], expected.l2, rtol=1e-12)
        assert expected.l2[0] == 0
        assert expected.l2[-1] > 0


def test_an_update_that_is_not_finite_is_recorded_as_such(tmp_path: Path) -> None:
    model, loss_fn, optimizer = _quadratic(lr=float("1e308"))
    with alidade.Survey(model, loss_fn, optimizer, tmp_path / "s", ["update_profile"], budget=None) as survey:
        _steps(survey, model, loss_fn, optimizer, 1)
    frame = alidade.load(tmp_path / "s").filter(~pl.col("quantity").str.ends_with("_seconds"))
    start = (pl.col("quantity") == "update_loss") & (pl.col("step_size") == 0)
    assert frame.filter(start)["status"].to_list() == ["ok"]
    assert frame.filter(start)["value"].to_list() == [4.0]
    assert set(frame.filter(~start)["status"]) == {"non_finite"}


def test_a_recorder_that_fails_does_not_stop_the_training(tmp_path: Path) -> None:
    class Broken:
        calls = 0

        def record(self, segment: str, rows: Any) -> None:
            Broken.calls += 1
            if rows:
                raise OSError("the disk is gone")

    model, loss_fn, optimizer = _quadratic()
    survey = alidade.Survey(
        model, loss_fn, optimizer, tmp_path / "s", ["layer_scalars"], budget=None, recorders=[Broken()]
    )
    with pytest.warns(UserWarning, match="failed and gets nothing more: the disk is gone") as caught:
        _steps(survey, model, loss_fn, optimizer, 3)
    survey.close()
    assert (len(caught), Broken.calls, survey.step) == (1, 2, 3)
    assert alidade.load(tmp_path / "s").filter(quantity="weight_norm").height == 3


def test_a_loss_that_fails_where_autocast_is_found_out_does_not_stop_the_training(tmp_path: Path) -> None:
    model, loss_fn, optimizer = _quadratic()

    def failing(model: nn.Module, batch: Any) -> torch.Tensor:
        raise ValueError("no loss today")

    survey = alidade.Survey(model, failing, optimizer, tmp_path / "s", ["gradient_profile"], budget=None)
    survey.observe(torch.ones(1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = loss_fn(model, None)
    loss.backward()
    with pytest.warns(UserWarning, match="no loss today"):
        optimizer.step()
    survey.close()
    assert survey.step == 1


def test_an_interrupted_probe_leaves_the_survey_ready_for_the_next_step(tmp_path: Path) -> None:
    model, loss_fn, optimizer = _quadratic()
    interrupt = [True]

    def interrupted(model: nn.Module, batch: Any) -> torch.Tensor:
        if interrupt.pop() if interrupt else False:
            raise KeyboardInterrupt
        return loss_fn(model, batch)

    survey = alidade.Survey(model, interrupted, optimizer, tmp_path / "s", ["gradient_profile"], budget=None)
    with pytest.raises(KeyboardInterrupt):
        _steps(survey, model, loss_fn, optimizer, 1)
    assert (survey.step, len(model._forward_pre_hooks)) == (1, 0)
    _steps(survey, model, loss_fn, optimizer, 2)
    survey.close()
    frame = alidade.load(tmp_path / "s").filter((pl.col("quantity") == "loss") & (pl.col("step_size") == 0))
    assert frame["step"].to_list() == [1, 2]


def test_an_empty_batch_is_a_failed_probe(tmp_path: Path) -> None:
    model, loss_fn, optimizer = _quadratic()
    survey = alidade.Survey(model, loss_fn, optimizer, tmp_path / "s", ["gradient_profile"], budget=None)
    survey.observe({"x": torch.empty(0, 2)})
    loss_fn(model, None).backward()
    with pytest.warns(UserWarning, match="batch: expected at least one example"):
        optimizer.step()
    survey.close()
