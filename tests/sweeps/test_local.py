"""Runs side by side in processes of their own."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.studies import run_spec

from alidade.core.errors import WorkError
from alidade.core.probes import PlannedRun
from alidade.core.spec import DataSpec
from alidade.store import load
from alidade.sweeps.local import execute
from alidade.sweeps.worker import Job, fingerprint_of

DATA = DataSpec(name="digits", train_examples=64)


class Listener:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.steps: dict[str, int] = {}
        self.notes: dict[str, list[str]] = {}
        self.done: list[str] = []
        self.broken: dict[str, str] = {}

    def advanced(self, run_id: str, step: int, loss: float, accuracy: float) -> None:
        self.steps[run_id] = step

    def noted(self, run_id: str, line: str) -> None:
        self.notes.setdefault(run_id, []).append(line)

    def finished(self, run_id: str) -> None:
        self.done.append(run_id)

    def failed(self, run_id: str, reason: str) -> None:
        self.broken[run_id] = reason


def test_a_run_that_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    good, listener = run_spec(), Listener()
    bad = good.model_copy(update={"batch_size": 65})  # of 64 examples
    with pytest.raises(WorkError, match="1 of 2 runs failed; the first: expected a batch size between 1 and the 64"):
        execute([PlannedRun(spec=bad), PlannedRun(spec=good)], Job(tmp_path, None, "cpu"), listener)
    assert listener.done == [good.run_id]
    assert listener.steps[good.run_id] == good.steps
    assert list(listener.broken) == [bad.run_id]
    assert set(load(tmp_path)["run"]) == {good.run_id}


def test_data_that_a_worker_cannot_read_are_an_error_and_not_a_death(tmp_path: Path) -> None:
    job = Job(tmp_path, tmp_path / "gone", "cpu")
    spec = run_spec().model_copy(update={"data": DataSpec(name="cifar10")})
    with pytest.raises(WorkError, match=r"1 of 1 runs failed; the first: .*gone: expected the folder cifar-10-batches"):
        execute([PlannedRun(spec=spec)], job, Listener())


def test_nothing_to_do_starts_nothing(tmp_path: Path) -> None:
    execute([], Job(tmp_path / "x", None, "cpu"), Listener(), max_seconds=0)
    assert not (tmp_path / "x").exists()


def test_the_fingerprint_is_that_of_the_data_used() -> None:
    prints = {fingerprint_of("digits", None, n) for n in (63, 64, None)}
    assert len(prints) == 3
    assert None not in prints
