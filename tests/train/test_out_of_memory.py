"""Memory that is not enough for a probe costs its numbers of that step, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.studies import run_spec

from alidade.core.errors import WorkError
from alidade.core.probes import CovariateShiftProbe, LayerScalarsProbe, LineProfileProbe, PlannedRun
from alidade.core.schedule import Every
from alidade.core.spec import DataSpec, DeepLinearSpec, OptimizerSpec
from alidade.data import load
from alidade.probes import memory, session
from alidade.probes.moment import Moment
from alidade.store import Segments
from alidade.sweeps.worker import Job, perform
from alidade.train import loop
from alidade.train.loop import train

DIGITS = load("digits", train_examples=64)
SPEC = run_spec(norm="noisy", steps=6).model_copy(update={"data": DataSpec(name="digits", train_examples=64)})
LINE = LineProfileProbe(step_sizes=(0.1,), schedule=Every(interval=2))
SCALARS = LayerScalarsProbe(schedule=Every(interval=2))
SHIFT = CovariateShiftProbe(layers=("features.conv2",), schedule=Every(interval=2))
TOO_MUCH = 1 << 58  # bytes


def _more_than_there_is(model: torch.nn.Module) -> Any:
    torch.manual_seed(0)  # what the guard has to put back
    model.eval()
    return torch.empty(TOO_MUCH, dtype=torch.uint8)


def _said_by_cuda(model: torch.nn.Module) -> Any:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has 1 GiB free.")


def _of_python(model: torch.nn.Module) -> Any:
    return bytearray(TOO_MUCH)


@pytest.mark.parametrize("work", [_more_than_there_is, _said_by_cuda, _of_python])
@pytest.mark.filterwarnings("ignore:probe layer_scalars")
def test_in_a_probe_it_is_recorded_and_training_goes_on(
    work: Callable[[torch.nn.Module], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    released: list[int] = []

    def starving(probe: LayerScalarsProbe, moment: Moment) -> Any:
        return moment.objective.inspect(lambda model, batch: work(model))

    expected = Segments()
    undisturbed = train(SPEC, DIGITS, (LINE,), expected)
    monkeypatch.setitem(session.MEASURES, "layer_scalars", starving)
    monkeypatch.setattr(session, "release_memory", lambda: released.append(1))
    found = Segments()
    model = train(SPEC, DIGITS, (SCALARS, LINE), found)
    for name in ("training", LINE.probe_id):
        assert found.frame(name).equals(expected.frame(name))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, undisturbed.state_dict()[name])
    rows = found.frame(SCALARS.probe_id)
    assert rows["step"].to_list() == [0, 2, 4, 6]
    assert rows["status"].str.starts_with("failed: out of memory").all()
    assert not rows["status"].str.contains("\n").any()
    assert len(released) == 4


@pytest.mark.filterwarnings("ignore:probe covariate_shift")
def test_no_room_for_what_a_probe_of_the_step_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    def starving(*arguments: object) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(loop, "StepStart", starving)
    found, expected = Segments(), Segments()
    train(SPEC, DIGITS, (SHIFT, LINE), found)
    train(SPEC, DIGITS, (LINE,), expected)
    assert found.frame("training").equals(expected.frame("training"))
    assert set(found.frame(SHIFT.probe_id)["status"]) == {"failed: out of memory: CUDA out of memory."}
    assert found.frame(SHIFT.probe_id)["step"].to_list() == [0, 2, 4]


def test_in_training_it_is_one_line_and_the_lock_is_free(tmp_path: Path) -> None:
    """A network that no machine holds: NumPy says so for its data."""
    spec = SPEC.model_copy(
        update={
            "model": DeepLinearSpec(width=5_000_000, layers=1),
            "data": DataSpec(name="gaussian"),
            "optimizer": OptimizerSpec(learning_rate=1.0),
            "dtype": "float64",
        }
    )
    for _ in range(2):
        with pytest.raises(WorkError, match=r"^out of memory: .*; it is tried again when the command is rep") as caught:
            perform(PlannedRun(spec=spec), Job(tmp_path, None, "cpu"), lambda progress: None)
        assert "\n" not in str(caught.value)


def test_an_error_of_another_kind_is_not_taken_for_it() -> None:
    assert not memory.is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not memory.is_out_of_memory(ValueError("out of memory"))
    assert memory.is_out_of_memory(RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"))
