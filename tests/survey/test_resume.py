"""A survey that goes on from a checkpoint: each measurement once, and the same as without the interruption."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from tests.cases import cross_entropy
from torch import nn

import alidade
from alidade.errors import CallError
from alidade.probes.budget import Budget
from alidade.store import live

PROBES = ["update_profile", "activations", "layer_scalars"]
STEPS, SAVED, KILLED = 12, 5, 8


@pytest.fixture(autouse=True)
def _written_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "FLUSH_SECONDS", 0.0)


class _Training:
    """A loop that can be saved and restored, as a user's own is; batches depend on the step alone."""

    def __init__(self, out: Path, **options: Any) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)
        arguments = {"probes": PROBES, "budget": None, "config": {"seed": 1}, "name": "mine"} | options
        self.survey = alidade.Survey(self.model, cross_entropy, self.optimizer, out, **arguments)

    def steps(self, first: int, last: int) -> None:
        for step in range(first, last):
            generator = torch.Generator().manual_seed(step)
            batch = (torch.randn(6, 5, generator=generator), torch.arange(6) % 3)
            self.survey.observe(batch)
            self.optimizer.zero_grad()
            cross_entropy(self.model, batch).backward()
            self.optimizer.step()

    def saved(self) -> bytes:
        buffer = io.BytesIO()
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        torch.save(state | {"survey": self.survey.state_dict()}, buffer)
        return buffer.getvalue()

    def restore(self, data: bytes) -> None:
        state = torch.load(io.BytesIO(data), weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.survey.load_state_dict(state["survey"])


def _measured(out: Path) -> pl.DataFrame:
    frame = alidade.load(out)
    return frame.filter(~pl.col("quantity").str.ends_with("_seconds")).sort("step", "quantity", "layer", "step_size")


def _uninterrupted(out: Path) -> pl.DataFrame:
    training = _Training(out)
    training.steps(0, STEPS)
    training.survey.close()
    return _measured(out)


@pytest.mark.parametrize("closed", [False, True], ids=["killed", "closed"])
def test_each_measurement_is_there_once_and_the_same(closed: bool, tmp_path: Path) -> None:
    expected = _uninterrupted(tmp_path / "plain")
    first = _Training(tmp_path / "s")
    first.steps(0, SAVED)
    checkpoint = first.saved()
    first.steps(SAVED, KILLED)
    if closed:
        first.survey.close()

    second = _Training(tmp_path / "s")
    second.restore(checkpoint)
    assert second.survey.step == SAVED
    assert set(_measured(tmp_path / "s")["step"]) == set(range(SAVED))  # also before anything new is measured
    second.steps(SAVED, STEPS)
    assert _measured(tmp_path / "s").equals(expected, null_equal=True)  # a run that is still written can be read
    second.survey.close()
    assert _measured(tmp_path / "s").equals(expected, null_equal=True)
    seconds = alidade.load(tmp_path / "s").filter(pl.col("quantity") == "training_seconds")
    assert seconds["step"].to_list() == [STEPS]


def test_twice_interrupted_and_gone_back_further(tmp_path: Path) -> None:
    expected = _uninterrupted(tmp_path / "plain")
    first = _Training(tmp_path / "s")
    first.steps(0, 3)
    early = first.saved()
    first.steps(3, SAVED)
    late = first.saved()
    second = _Training(tmp_path / "s")
    second.restore(late)
    second.steps(SAVED, KILLED)
    third = _Training(tmp_path / "s")
    third.restore(early)
    third.steps(3, STEPS)
    third.survey.close()
    assert _measured(tmp_path / "s").equals(expected, null_equal=True)


def test_a_state_goes_on_in_a_new_folder_too(tmp_path: Path) -> None:
    first = _Training(tmp_path / "s")
    first.steps(0, SAVED)
    second = _Training(tmp_path / "elsewhere")
    second.restore(first.saved())
    second.steps(SAVED, STEPS)
    second.survey.close()
    expected = _uninterrupted(tmp_path / "plain").filter(pl.col("step") >= SAVED)
    assert _measured(tmp_path / "elsewhere").equals(expected, null_equal=True)


def test_a_state_can_be_saved_after_close(tmp_path: Path) -> None:
    first = _Training(tmp_path / "s")
    first.steps(0, SAVED)
    first.survey.close()
    second = _Training(tmp_path / "s")
    second.restore(first.saved())
    second.steps(SAVED, STEPS)
    second.survey.close()
    assert _measured(tmp_path / "s").equals(_uninterrupted(tmp_path / "plain"), null_equal=True)


def test_without_a_state_an_earlier_part_is_refused_and_left_alone(tmp_path: Path) -> None:
    first = _Training(tmp_path / "s")
    first.steps(0, SAVED)
    files = sorted(path for path in (tmp_path / "s").rglob("*"))
    second = _Training(tmp_path / "s")
    with pytest.raises(CallError, match=r"with an earlier part of this run.*load_state_dict") as caught:
        second.steps(0, 1)
    assert "\n" not in str(caught.value)
    with pytest.raises(CallError, match="earlier part"):  # nor without data
        second.optimizer.step()
    second.survey.close()
    assert sorted(path for path in (tmp_path / "s").rglob("*")) == files
    with pytest.raises(CallError, match="expected an empty or new folder"):  # another run, refused at once
        _Training(tmp_path / "s", config={"seed": 2})


def test_a_wrong_state_is_refused(tmp_path: Path) -> None:
    first = _Training(tmp_path / "s")
    first.steps(0, 2)
    state = first.survey.state_dict()
    with pytest.raises(CallError, match="before the first observe"):
        first.survey.load_state_dict(state)
    other = _Training(tmp_path / "other", config={"seed": 2})
    for wrong, message in ((state, "that of run"), ({}, "expected what Survey.state_dict"), (3, "got 3")):
        with pytest.raises(CallError, match=message) as caught:
            other.survey.load_state_dict(wrong)
        assert "\n" not in str(caught.value)
    other.steps(0, 1)
    other.survey.close()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"format": 2}, "expected format 1, got 2 of a newer version; update alidade"),
        ({"format": "1"}, "expected what Survey.state_dict"),
        ({"step": -1}, "got step -1"),
        ({"step": "3"}, "got step '3'"),
        ({"step": None}, "got step None"),
        ({"budget": {}}, "got a damaged one"),
        ({"budget": None}, "got a damaged one"),
        ({"activations": 5}, "got a damaged one"),
        ({"curvature": 5}, "got a damaged one"),
    ],
)
def test_a_newer_or_damaged_state_is_one_line_and_the_folder_stays(
    changed: dict[str, Any], message: str, tmp_path: Path
) -> None:
    first = _Training(tmp_path / "s")
    first.steps(0, SAVED)
    state, before = first.survey.state_dict(), _measured(tmp_path / "s")
    with pytest.raises(CallError, match=message) as caught:
        _Training(tmp_path / "s").survey.load_state_dict(state | changed)
    assert "\n" not in str(caught.value)
    assert _measured(tmp_path / "s").equals(before, null_equal=True)


def test_probes_may_be_left_out_and_added_at_a_resume(tmp_path: Path) -> None:
    first = _Training(tmp_path / "s", probes=["curvature", "activations", "layer_scalars"])
    first.steps(0, SAVED)
    checkpoint = first.saved()
    second = _Training(tmp_path / "s", probes=["layer_scalars", "update_profile"])
    second.restore(checkpoint)
    second.steps(SAVED, STEPS)
    second.survey.close()
    found, expected = _measured(tmp_path / "s"), _uninterrupted(tmp_path / "plain")
    steps = {
        quantity: set(found.filter(pl.col("quantity") == quantity)["step"])
        for quantity in ("top_eigenvalue", "weight_norm", "update_loss")
    }
    everywhere, later = set(range(STEPS)), set(range(SAVED, STEPS))
    assert steps == {"top_eigenvalue": everywhere - later, "weight_norm": everywhere, "update_loss": later}
    kept = pl.col("quantity").is_in(["weight_norm", "update_loss"]) & (pl.col("step") >= SAVED)
    assert found.filter(kept).equals(expected.filter(kept), null_equal=True)


def test_the_budget_goes_on(tmp_path: Path) -> None:
    """The bucket is as full as it was, whatever the clock says in between, and costs need not be found again."""
    now = [100.0]
    first = Budget(0.1, clock=lambda: now[0])
    assert first.affordable(["profile"]) == ["profile"]
    now[0] += 4.0
    first.charge("profile", 4.0)
    now[0] += 70.0  # earned 7 s, spent 4, needed 4
    state = first.state()
    second = Budget(0.1, clock=lambda: now[0])
    now[0] += 1000.0
    second.load(state)
    assert (second.training_seconds, second.spent) == (70.0, 4.0)
    assert second.affordable(["profile"]) == []
    now[0] += 11.0
    assert second.affordable(["profile"]) == ["profile"]

    training = _Training(tmp_path / "s", budget=0.05)
    training.steps(0, 3)
    state = training.survey.state_dict()["budget"]
    again = _Training(tmp_path / "again", budget=0.05)
    again.restore(training.saved())
    assert again.survey.state_dict()["budget"]["costs"] == state["costs"] != {}


def test_two_processes_do_not_write_one_survey(tmp_path: Path) -> None:
    """The first is still alive: the second is told so, and its rows go nowhere."""
    first = _Training(tmp_path / "s")
    first.steps(0, SAVED)
    (tmp_path / "checkpoint").write_bytes(first.saved())
    program = (
        "import sys; from pathlib import Path; from tests.survey.test_resume import _Training\n"
        "root = Path(sys.argv[1]); training = _Training(root / 's')\n"
        "try: training.restore((root / 'checkpoint').read_bytes())\n"
        "except RuntimeError as error: print(type(error).__name__, error)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    project = Path(__file__).parents[2]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=project)
    assert result.stdout.startswith("HeldError ")
    assert f"got one locked by process {os.getpid()} on " in result.stdout
    first.steps(SAVED, STEPS)
    first.survey.close()
    assert _measured(tmp_path / "s").equals(_uninterrupted(tmp_path / "plain"), null_equal=True)


@pytest.mark.filterwarnings("ignore:probe")
def test_no_room_for_a_copy_of_the_parameters_costs_that_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = _uninterrupted(tmp_path / "plain")
    training = _Training(tmp_path / "s")
    training.steps(0, 3)

    def starving(model: nn.Module) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with monkeypatch.context() as patch:
        patch.setattr("alidade.survey.trainable", starving)
        training.steps(3, 4)
    training.steps(4, STEPS)
    training.survey.close()
    found = _measured(tmp_path / "s")
    assert set(found.filter(pl.col("step") == 3)["status"]) == {"failed: out of memory: CUDA out of memory."}
    others = pl.col("step").is_in([0, 1, 2, 5, 6, 7, 8, 9, 10, 11])  # at 4 changes of activations are since step 2
    assert found.filter(others).equals(expected.filter(others), null_equal=True)
