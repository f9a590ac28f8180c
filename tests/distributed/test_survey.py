"""A survey under DistributedDataParallel: global numbers, one writer, one plan, and nobody left waiting."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from tests.distributed.cases import cross_entropy, model_named, own_batch, whole_batch
from tests.distributed.processes import World
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import alidade
from alidade.core.probes import LineProfileProbe
from alidade.core.schedule import Every
from alidade.errors import AlidadeError

PROBES = ("update_profile", "gradient_profile", "relative_profile", "layer_scalars", "activations", "covariate_shift")


class Training:
    """A data-parallel loop as users write it, with or without a survey."""

    def __init__(self, rank: int, size: int, name: str = "batch_norm", dtype: torch.dtype = torch.float64) -> None:
        self.rank, self.size, self.dtype = rank, size, dtype
        torch.manual_seed(100 + rank)  # dropout masks differ between processes, as they do in practice
        model = model_named(name, dtype)
        model.append(nn.Dropout(0.2))
        if name == "plain":  # no dropout where one process is to do the same
            model = model[:-1]
        self.model: nn.Module = DistributedDataParallel(model) if size > 1 else model
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)
        self.loss_fn: Any = cross_entropy

    def batch(self, step: int) -> Any:
        return own_batch(self.rank, self.size, self.dtype, step)

    def survey(self, out: str | Path, **options: Any) -> alidade.Survey:
        arguments: dict[str, Any] = {"probes": PROBES, "budget": None, "config": {"seed": 0}, **options}
        return alidade.Survey(self.model, self.loss_fn, self.optimizer, out=out, **arguments)

    def run(self, steps: range, survey: alidade.Survey | None, micro_batches: int = 1) -> None:
        for step in steps:
            inputs, labels = self.batch(step)
            pieces = list(zip(inputs.chunk(micro_batches), labels.chunk(micro_batches), strict=True))
            for index, piece in enumerate(pieces):
                if survey is not None:
                    survey.observe(piece, accumulate=index > 0)
                last = index == len(pieces) - 1
                with nullcontext() if last or self.size == 1 else self.model.no_sync():  # type: ignore[operator]
                    (self.loss_fn(self.model, piece) / len(pieces)).backward()
            self.optimizer.step()
            self.optimizer.zero_grad()

    def weights(self) -> dict[str, Tensor]:
        state = {name.removeprefix("module."): value for name, value in self.model.state_dict().items()}
        return {**state, "random state": torch.get_rng_state()}


def table(out: str | Path) -> pl.DataFrame:
    seconds = pl.col("quantity").str.ends_with("_seconds")
    return alidade.load(out).filter(~seconds).sort("quantity", "layer", "step", "step_size")


def _train(rank: int, size: int, out: str | None, name: str, micro_batches: int) -> dict[str, Tensor]:
    training = Training(rank, size, name, torch.float32)
    with ExitStack() as stack:
        survey = None if out is None else stack.enter_context(training.survey(out))
        training.run(range(5), survey, micro_batches)
    return training.weights()


@pytest.mark.parametrize(("name", "micro_batches"), [("batch_norm", 1), ("layer_norm", 2)])
@pytest.mark.parametrize("world", ["two", "four"])
def test_bit_identical_with_and_without(
    name: str, micro_batches: int, world: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    used: World = request.getfixturevalue(world)
    watched = used.run(_train, str(tmp_path / "run"), name, micro_batches)
    alone = used.run(_train, None, name, micro_batches)
    for with_it, without in zip(watched, alone, strict=True):
        assert all(torch.equal(with_it[key], without[key]) for key in without)
    found = table(tmp_path / "run")
    assert found.filter(pl.col("status").str.starts_with("failed")).is_empty()
    assert set(found["step"]) == set(range(5))


def _numbers(rank: int, size: int, out: str, micro_batches: int) -> None:
    training = Training(rank, size, "plain")
    with training.survey(out) as survey:
        training.run(range(3), survey, micro_batches)


@pytest.mark.parametrize("micro_batches", [1, 3])
def test_numbers_are_those_of_one_process_on_all_the_data(two: World, tmp_path: Path, micro_batches: int) -> None:
    two.run(_numbers, str(tmp_path / "two"), micro_batches)
    _numbers(0, 1, str(tmp_path / "unused"), 1)
    training = Training(0, 1, "plain")
    training.batch = lambda step: whole_batch(2, step=step)  # type: ignore[method-assign]
    with training.survey(tmp_path / "one") as survey:
        training.run(range(3), survey)
    found, expected = table(tmp_path / "two"), table(tmp_path / "one")
    keys = ["quantity", "layer", "step", "step_size"]
    assert found.select(keys).equals(expected.select(keys))
    exact = ~pl.col("quantity").is_in(["resolution", "update_resolution", "relative_resolution"])  # is itself rounding
    joined = found.with_columns(expected=expected["value"]).filter(exact)
    # Three steps and thirty quantities in float64; skewness and kurtosis lose some digits to cancellation.
    wrong = joined.filter((pl.col("value") - pl.col("expected")).abs() > 1e-9 * (1 + pl.col("expected").abs()))
    assert wrong.is_empty(), wrong


def _one_writer(rank: int, size: int, folder: str) -> list[bool]:
    training, out = Training(rank, size), Path(folder) / f"rank-{rank}"
    received: list[str] = []

    class Receiver:
        def record(self, segment: str, rows: Any) -> None:
            received.append(segment)

    with training.survey(out, recorders=[Receiver()]) as survey:
        training.run(range(2), survey)
    return [out.exists(), bool(received)]


def test_the_first_process_alone_writes(two: World, tmp_path: Path) -> None:
    assert two.run(_one_writer, str(tmp_path)) == [[True, True], [False, False]]
    (environment,) = (tmp_path / "rank-0").rglob("environment.json")
    said = json.loads(environment.read_text())
    assert (said["processes"], said["batch_statistics"]) == (2, "each process")
    assert said["parallelism"] == "distributed data parallel"


def _fails_in_probes(rank: int, size: int, out: str, failing: int, error: bool) -> dict[str, Tensor]:
    """In one step, the loss of one process raises, or is NaN, whenever a probe asks for it."""
    training = Training(rank, size, "layer_norm")
    step = [0]

    def loss_fn(model: nn.Module, batch: Any) -> Tensor:
        probed = not isinstance(model, DistributedDataParallel)
        if probed and step[0] == 2 and rank == failing:
            if error:
                raise OSError("no such file")
            return cross_entropy(model, batch) * float("nan")
        return cross_entropy(model, batch)

    training.loss_fn = loss_fn
    with training.survey(out) as survey:
        for step[0] in range(4):
            training.run(range(step[0], step[0] + 1), survey)
    return training.weights()


@pytest.mark.filterwarnings("ignore:probe .* failed at step 2")
@pytest.mark.parametrize("failing", [0, 1])
def test_a_failure_in_one_process_is_recorded_and_the_training_goes_on(
    two: World, tmp_path: Path, failing: int
) -> None:
    weights = two.run(_fails_in_probes, str(tmp_path / "run"), failing, True)
    undisturbed = two.run(_fails_in_probes, str(tmp_path / "other"), -1, True)
    for with_it, without in zip(weights, undisturbed, strict=True):
        assert all(torch.equal(with_it[key], without[key]) for key in without)
    found = table(tmp_path / "run")
    assert set(found.filter(pl.col("status").str.starts_with("failed"))["step"]) == {2}
    assert set(found.filter(pl.col("status") == "ok")["step"]) >= {0, 1, 3}
    said = set(found.filter(pl.col("step") == 2, pl.col("status").str.starts_with("failed"))["status"])
    assert said == {f"failed: process {failing} of 2 failed: no such file"}


def test_nan_in_one_process_is_a_number_that_is_not_finite_in_all(two: World, tmp_path: Path) -> None:
    two.run(_fails_in_probes, str(tmp_path / "run"), 1, False)
    found = table(tmp_path / "run").filter(pl.col("quantity") == "update_loss", pl.col("step_size") == 0.0)
    assert found.sort("step")["status"].to_list() == ["ok", "ok", "non_finite", "ok"]


def _budget(rank: int, size: int, out: str) -> list[int]:
    """How often the loss function was called in each step; probes are slow in one process, and steps in the other."""
    training, calls = Training(rank, size, "plain"), [0]

    def loss_fn(model: nn.Module, batch: Any) -> Tensor:
        calls[0] += 1
        probed = not isinstance(model, DistributedDataParallel)
        time.sleep(0.01 if probed == (rank == 1) else 0.001)
        return cross_entropy(model, batch)

    training.loss_fn, counts = loss_fn, []
    probe = LineProfileProbe(step_sizes=(1.0,), schedule=Every(interval=1))
    with training.survey(out, probes=probe, budget=0.5) as survey:
        for step in range(60):
            calls[0] = 0
            training.run(range(step, step + 1), survey)
            counts.append(calls[0])
    return counts


def test_the_budget_of_the_first_process_decides_for_all(two: World, tmp_path: Path) -> None:
    first, second = two.run(_budget, str(tmp_path / "run"))
    assert first == second
    assert 60 > first.count(1) > 3  # steps without a probe: the loss of the training alone
    assert len(set(table(tmp_path / "run")["step"])) == 60 - first.count(1)


def _forgets(rank: int, size: int, out: str) -> None:
    training = Training(rank, size)
    with training.survey(out, probes="layer_scalars") as survey:
        for step in range(3):
            training.run(range(step, step + 1), survey if (rank, step) != (1, 1) else None)


@pytest.mark.filterwarnings("ignore:probe .* failed at step 1")
def test_a_process_that_announces_no_data_is_a_failure_of_that_step(two: World, tmp_path: Path) -> None:
    two.run(_forgets, str(tmp_path / "run"))
    found = table(tmp_path / "run")
    (status,) = set(found.filter(pl.col("step") == 1)["status"])
    assert status.startswith("failed: process 1 of 2 failed: no data were announced for this step")
    assert set(found.filter(pl.col("status") == "ok")["step"]) == {0, 2}


def _refused(rank: int, size: int, folder: str) -> list[str]:
    training, said = Training(rank, size), []
    for options in ({"probes": PROBES[rank : rank + 1]}, {"budget": None if rank else 0.1}, {}):
        with pytest.raises(AlidadeError) as caught:
            training.survey(folder, **options)
        said.append(str(caught.value))
    return said


def test_surveys_that_cannot_be_are_refused_in_all_processes(two: World, tmp_path: Path) -> None:
    (tmp_path / "something").write_text("of somebody else")
    first, second = two.run(_refused, str(tmp_path))
    for other_probes, other_budget, _ in (first, second):
        assert other_probes.startswith("probes, budget: expected the same in all processes")
        assert other_budget.startswith("probes, budget: expected the same in all processes")
    assert "expected an empty or new folder" in first[2]
    assert second[2].startswith("process 0 of 2 failed: out: expected an empty or new folder")


def _resumed(rank: int, size: int, out: str, budget: float | None) -> None:
    training = Training(rank, size)
    arguments: dict[str, Any] = {"probes": ("layer_scalars", "activations"), "schedule": 2, "budget": budget}
    survey = training.survey(out, **arguments)
    training.run(range(4), survey)
    state = survey.state_dict()
    training.run(range(4, 6), survey)  # lost
    survey.close()
    with training.survey(out, **arguments) as fresh, pytest.raises(AlidadeError, match="load its state"):
        fresh.observe(training.batch(0))
    resumed = training.survey(out, **arguments)
    resumed.load_state_dict(state)
    assert resumed.step == 4
    training.run(range(4, 8), resumed)
    resumed.close()


@pytest.mark.parametrize("budget", [None, 0.5])
def test_a_survey_goes_on_from_its_state_in_all_processes(two: World, tmp_path: Path, budget: float | None) -> None:
    two.run(_resumed, str(tmp_path / "run"), budget)
    found = table(tmp_path / "run")
    keys = ["quantity", "layer", "step", "step_size"]
    assert found.select(keys).is_duplicated().sum() == 0
    assert set(found["step"]) <= {0, 2, 4, 6}
    assert budget or set(found["step"]) == {0, 2, 4, 6}
