"""When a run is saved, and what it goes on from."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest
import torch
from tests.studies import run_spec

from alidade.core.errors import WorkError
from alidade.core.probes import AnyProbe, CurvatureProbe, LayerScalarsProbe, LineProfileProbe, PlannedRun
from alidade.core.schedule import Every
from alidade.core.spec import DataSpec
from alidade.store import load
from alidade.store.checkpoints import CHECKPOINT, read_checkpoint
from alidade.sweeps import checkpoints as module
from alidade.sweeps.checkpoints import RunCheckpoints, StoppedError
from alidade.sweeps.worker import Job, perform
from alidade.train.loop import Progress

LINE = LineProfileProbe(step_sizes=(0.1,), schedule=Every(interval=2))
SCALARS = LayerScalarsProbe(schedule=Every(interval=2))
CURVATURE = CurvatureProbe(looks=("eigenvalues",), max_matvecs=2, schedule=Every(interval=2))
SPEC = run_spec(norm="batch", steps=8).model_copy(update={"data": DataSpec(name="digits", train_examples=64)})


def _run(*probes: AnyProbe) -> PlannedRun:
    return PlannedRun(spec=SPEC, probes=probes or (LINE,))


class _Study:
    """Performs one run in this process, as a worker does."""

    def __init__(self, root: Path) -> None:
        self.job, self.notes, self.steps = Job(root, None, "cpu", checkpoint_seconds=0.0), list[str](), list[int]()
        self.folder = root / SPEC.run_id

    def perform(self, run: PlannedRun, until: int | None = None) -> None:
        self.notes, self.steps = [], []
        perform(
            run, self.job, self._advanced, lambda: until is not None and self.steps[-1:] == [until], self.notes.append
        )

    def stop(self, run: PlannedRun, after: int) -> None:
        with pytest.raises(StoppedError, match=f"stopped after {after} steps"):
            self.perform(run, until=after)

    def _advanced(self, progress: Progress) -> None:
        self.steps.append(progress.step)


def _numbers(root: Path) -> pl.DataFrame:
    return load(root).filter(~pl.col("quantity").str.ends_with("_seconds"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("undisturbed")
    _Study(root).perform(_run(LINE, SCALARS))
    return root


def test_a_stopped_run_goes_on_where_it_stopped(undisturbed: Path, tmp_path: Path) -> None:
    study = _Study(tmp_path)
    study.stop(_run(LINE, SCALARS), after=3)
    assert study.steps == [1, 2, 3]
    study.stop(_run(LINE, SCALARS), after=6)
    assert study.steps == [4, 5, 6]
    assert study.notes == [f"{SPEC.run_id}: goes on after 3 steps"]
    study.perform(_run(LINE, SCALARS))
    assert study.steps == [7, 8]
    assert _numbers(tmp_path).equals(_numbers(undisturbed))
    assert not (study.folder / CHECKPOINT).exists()  # it is not needed any more


def test_a_damaged_checkpoint_is_named_and_the_run_starts_again(undisturbed: Path, tmp_path: Path) -> None:
    study = _Study(tmp_path)
    study.stop(_run(LINE, SCALARS), after=3)
    path = study.folder / CHECKPOINT
    path.write_bytes(path.read_bytes()[:-1])
    study.perform(_run(LINE, SCALARS))
    (note,) = study.notes
    assert note == f"{path}: expected the checkpoint as it was written, found it damaged; the run starts again"
    assert study.steps[0] == 1
    assert _numbers(tmp_path).equals(_numbers(undisturbed))


def test_a_pickle_in_its_place_fails_the_run(tmp_path: Path) -> None:
    study = _Study(tmp_path)
    study.folder.mkdir(parents=True)
    torch.save({"a": torch.ones(3)}, study.folder / CHECKPOINT)
    with pytest.raises(WorkError, match="got another kind of file, which is not opened; delete it: then the run start"):
        study.perform(_run())
    assert study.steps == []


def test_fewer_probes_go_on_and_more_probes_start_again(undisturbed: Path, tmp_path: Path) -> None:
    study = _Study(tmp_path / "fewer")
    study.stop(_run(LINE, SCALARS, CURVATURE), after=3)
    study.perform(_run(SCALARS))
    assert study.steps[0] == 4
    expected = _numbers(undisturbed).filter(~pl.col("quantity").str.contains("loss$|gradient_|smoothness|curvature"))
    found = _numbers(tmp_path / "fewer")
    assert found.filter(pl.col("quantity") == "weight_norm").equals(
        expected.filter(pl.col("quantity") == "weight_norm")
    )
    assert "gradient_distance" not in set(found["quantity"])

    study = _Study(tmp_path / "more")
    study.stop(_run(LINE), after=3)
    study.perform(_run(LINE, SCALARS))
    assert study.steps[0] == 1
    assert "was written before other probes were wanted; the run starts again" in study.notes[0]
    assert _numbers(tmp_path / "more").equals(_numbers(undisturbed))


@pytest.mark.parametrize("name", ["device", "torch"])
def test_another_machine_starts_again(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = _Study(tmp_path)
    with monkeypatch.context() as patch:
        if name == "torch":
            patch.setattr(torch, "__version__", "1.0")
        study.stop(_run(), after=3)
    device = "cuda" if name == "device" else "cpu"
    notes: list[str] = []
    found = RunCheckpoints(study.folder, _run(), device, say=notes.append)
    assert found.latest() is None
    assert f"the checkpoint is from {name} {'cpu' if name == 'device' else '1.0'}, and this is" in notes[0]


class _Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


def test_checkpoints_come_in_time_and_take_a_hundredth_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, cost, saved = _Clock(), 2.0, []
    monkeypatch.setattr(module, "time", clock)

    def write(*arguments: object) -> None:
        clock.now += cost
        saved.append(clock.now)

    monkeypatch.setattr(module, "write_checkpoint", write)
    kept = RunCheckpoints(tmp_path, _run(), "cpu")
    for step in range(1, 20_001):
        clock.now += 0.1
        if kept.due():
            kept.keep(step, b"")
    assert saved[0] == pytest.approx(module.LEAST_SECONDS + cost, abs=0.2)
    assert len(saved) * cost <= 0.012 * clock.now
    assert all(200 <= later - earlier <= 203 for earlier, later in pairwise(saved))
    cost = 0.001  # a small network is saved every ten seconds
    while not kept.due():
        clock.now += 0.1
    kept.keep(1, b"")
    began = clock.now
    while not kept.due():
        clock.now += 0.1
    assert clock.now - began == pytest.approx(module.LEAST_SECONDS, abs=0.2)


def test_a_full_disk_does_not_stop_the_training(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, calls = _Study(tmp_path), []
    real = module.write_checkpoint

    def full(*arguments: object) -> None:
        calls.append(1)
        if len(calls) < 4:
            raise OSError(28, "No space left on device")
        real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "write_checkpoint", full)
    study.stop(_run(LINE, SCALARS), after=6)
    assert study.notes == [f"{study.folder}: no checkpoint could be written (No space left on device); {GOES_ON}"]
    found = read_checkpoint(study.folder, SPEC.run_id)
    assert found is not None
    assert found.step == 6
    study.perform(_run(LINE, SCALARS))
    assert _numbers(tmp_path).equals(_numbers(undisturbed))


GOES_ON = "training goes on: free space"
