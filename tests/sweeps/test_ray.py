"""Runs on a Ray cluster of two nodes of one CPU each, on this machine; one of them is killed midway."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from tests.console import PATIENCE, alidade, error_line, is_posix_with_proc, wait_for
from tests.studies import run_spec

from alidade.core.errors import CallError, WorkError
from alidade.core.probes import LineProfileProbe, PlannedRun
from alidade.core.schedule import Every
from alidade.core.spec import DataSpec, DeepLinearSpec, OptimizerSpec, RunSpec
from alidade.store import load
from alidade.store.failures import failure_of
from alidade.store.locks import holding
from alidade.sweeps import local, plan
from alidade.sweeps.executor import Execution, executor_for
from alidade.sweeps.local import OutOfTimeError
from alidade.sweeps.nodes import require_same_versions, resources, versions
from alidade.sweeps.ray_address import ANSWER_SECONDS, found
from alidade.sweeps.worker import Job

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'alidade[ray]'")

pytestmark = [
    pytest.mark.skipif(not is_posix_with_proc(), reason="a cluster on one machine needs Linux"),
    pytest.mark.xdist_group("ray"),
]

PROJECT = Path(__file__).resolve().parents[2]
PROBE = LineProfileProbe(step_sizes=(0.05, 0.1), schedule=Every(interval=40))
ENOUGH = 80  # steps, so that a run lasts longer than it takes to kill its node


@dataclass
class Listener:
    """Notes what it is told, and kills a node as soon as two runs are under way."""

    kill: Any = None
    steps: dict[str, list[int]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    done: list[str] = field(default_factory=list)
    broken: dict[str, str] = field(default_factory=dict)

    def advanced(self, run_id: str, step: int, loss: float, accuracy: float | None) -> None:
        self.steps.setdefault(run_id, []).append(step)
        if self.kill and len(self.steps) == 2 and step > 10:
            self.kill, kill = None, self.kill
            kill()

    def noted(self, run_id: str, line: str) -> None:
        self.notes[run_id] = line

    def finished(self, run_id: str) -> None:
        self.done.append(run_id)

    def failed(self, run_id: str, reason: str) -> None:
        self.broken[run_id] = reason


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Two nodes of one CPU each; what they start finds our packages."""
    from ray.cluster_utils import Cluster

    patch = pytest.MonkeyPatch()
    patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    patch.setenv("PYTHONPATH", os.pathsep.join([str(PROJECT / "src"), str(PROJECT)]))
    patch.setattr("alidade.sweeps.ray_address.ANSWER_SECONDS", PATIENCE)  # a busy machine is no failure
    size = {"num_cpus": 1, "object_store_memory": 100 * 2**20, "include_dashboard": False}
    two = Cluster(initialize_head=True, head_node_args=size)
    two.second = two.add_node(num_cpus=1, object_store_memory=100 * 2**20)
    try:
        yield two
    finally:
        ray.shutdown()
        two.shutdown()
        patch.undo()


def small(seed: int, steps: int = ENOUGH) -> PlannedRun:
    return PlannedRun(spec=run_spec(seed, steps=steps), probes=(PROBE,))


def linear(seed: int, steps: int = 20) -> PlannedRun:
    spec = RunSpec(
        model=DeepLinearSpec(layers=3, width=4), data=DataSpec(name="gaussian"),
        optimizer=OptimizerSpec(learning_rate=1e-4), batch_size=16, steps=steps, seed=seed,
    )  # fmt: skip
    return PlannedRun(spec=spec)


def numbers(root: Path) -> pl.DataFrame:
    return load(root).filter(~pl.col("quantity").str.ends_with("_seconds"))


@contextmanager
def executor_of(cluster: Any) -> Iterator[Any]:
    with executor_for(Execution("ray", cluster.address)) as executor:
        yield executor


def test_a_node_killed_midway_costs_nothing_and_the_numbers_are_those_of_the_local_executor(
    cluster: Any, tmp_path: Path
) -> None:
    runs = [*(small(seed) for seed in range(3)), linear(7)]
    bad = PlannedRun(spec=run_spec().model_copy(update={"batch_size": 65}))  # of 64 examples
    listener = Listener(kill=lambda: cluster.remove_node(cluster.second, allow_graceful=False))
    with (
        executor_of(cluster) as executor,
        pytest.raises(WorkError, match=r"1 of 5 runs failed; .*between 1 and the 64"),
    ):
        executor.execute([*runs, bad], Job(tmp_path / "ray", None, "cpu", checkpoint_seconds=0.0), listener)
    assert listener.kill is None
    assert sorted(listener.done) == sorted(run.spec.run_id for run in runs)
    assert list(listener.broken) == [bad.spec.run_id]
    noted = failure_of(tmp_path / "ray" / bad.spec.run_id)
    assert noted is not None
    assert noted.reason == listener.broken[bad.spec.run_id]
    assert all(listener.steps[run.spec.run_id][-1] == run.spec.steps for run in runs)
    assert [line for line in listener.notes.values() if "goes on after" in line], listener.notes
    local.execute(runs, Job(tmp_path / "local", None, "cpu"), Listener())
    assert numbers(tmp_path / "ray").equals(numbers(tmp_path / "local"), null_equal=True)
    assert not any(plan.missing(tmp_path / "ray", run) for run in runs)  # and so they are skipped the next time


def test_the_time_allowed_ends_with_checkpoints(cluster: Any, tmp_path: Path) -> None:
    run, listener = small(11, steps=100_000), Listener()
    job = Job(tmp_path, None, "cpu", checkpoint_seconds=1e6)
    for seconds in (20, 80, 320):  # on a busy machine a worker takes long to start
        with executor_of(cluster) as executor, pytest.raises(OutOfTimeError, match="time of --max-minutes is over"):
            executor.execute([run], job, listener, max_seconds=seconds)
        if listener.steps:
            break
    assert listener.steps
    assert (tmp_path / run.spec.run_id / "checkpoint").exists()
    assert not listener.done
    assert not listener.broken


def test_a_node_whose_clock_is_ahead_ends_the_study_as_the_time_does(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, listener = time.time, Listener()
    monkeypatch.setattr(time, "time", lambda: real() - 1000)  # here, and not on the nodes
    with executor_of(cluster) as executor, pytest.raises(OutOfTimeError, match="time of --max-minutes is over"):
        executor.execute([linear(12), linear(13)], Job(tmp_path, None, "cpu"), listener, max_seconds=900)
    assert not listener.done
    assert not listener.broken


#: A command of a study that would last for hours, as the command line runs it.
LONG = """
import sys
from pathlib import Path
from tests.sweeps.test_ray import Listener, small
from alidade.cli import _explain
from alidade.sweeps.executor import Execution, executor_for
from alidade.sweeps.worker import Job

with executor_for(Execution("ray", sys.argv[1])) as executor:
    runs = [small(seed, steps=100_000) for seed in range(3)]
    executor.execute(runs, Job(Path(sys.argv[2]), None, "cpu", checkpoint_seconds=0.0), Listener())
"""


def test_ctrl_c_kills_the_tasks_and_leaves_what_can_be_resumed(cluster: Any, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", LONG, cluster.address, str(tmp_path)], stderr=subprocess.PIPE, text=True, cwd=PROJECT
    )
    wait_for(lambda: list(tmp_path.glob("*/checkpoint")) or process.poll() is not None, "a checkpoint")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode in (-signal.SIGINT, 130), err
    assert err.rstrip().endswith("KeyboardInterrupt")
    checkpoints = list(tmp_path.glob("*/checkpoint"))  # of one run, or of as many as there are nodes
    assert checkpoints
    for checkpoint in checkpoints:
        with holding(checkpoint.parent, patience=5.0):  # the task is dead: nobody holds its run any more
            before = checkpoint.read_bytes()
            time.sleep(0.5)
            assert checkpoint.read_bytes() == before


def test_the_commands_of_the_how_to(cluster: Any, tmp_path: Path) -> None:
    """Those of Alidade are executed as they stand, in a small size; of Ray's own the options are looked up."""
    page = (PROJECT / "docs" / "how-to" / "ray-cluster.md").read_text()
    commands = [line for block in page.split("```")[1::2] for line in block.splitlines()[1:] if line.strip()]
    for command in (line for line in commands if line.startswith("ray start")):
        words = [word.split("=")[0] for word in command.split() if word.startswith("--")]
        offered = subprocess.run([sys.executable, "-m", "ray.scripts.scripts", "start", "--help"], capture_output=True)
        assert all(word in offered.stdout.decode() for word in words), command
    studies = [line.partition(" #")[0].split() for line in commands if line.startswith("alidade reproduce")]
    assert len(studies) >= 2
    for words in studies[:1]:
        options = dict(zip(words[3::2], words[4::2], strict=True))
        options |= {"--out": str(tmp_path), "--ray-address": cluster.address, "--seeds": "1"}
        options |= {"--data": "digits", "--scale": "quick"}
        command = ["reproduce", "rescaling_control", *(word for pair in options.items() for word in pair)]
        first = alidade(*command)
        assert first.returncode == 0, first.stderr
        assert first.stderr.startswith("1 runs: 0 finished before are reused, 1 to do\n"), first.stderr
        again = alidade(*command)
        assert again.stderr.startswith("1 runs: 1 finished before are reused, 0 to do\n"), again.stderr


def test_the_device_is_the_clusters(cluster: Any) -> None:
    with executor_of(cluster) as executor:
        assert (executor.device("auto"), executor.device("cpu")) == ("cpu", "cpu")
        with pytest.raises(
            CallError, match="expected a GPU in the Ray cluster for 'cuda', found none; use cpu or auto"
        ):
            executor.device("cuda")
        executor.execute([], Job(Path("nowhere"), None, "cpu"), Listener())  # nothing to do starts nothing
    with (
        executor_for(Execution("ray", cluster.address, gpus_per_run=0.5)) as executor,
        pytest.raises(CallError, match="--gpus-per-run: expected runs on a GPU, got"),
    ):
        executor.device("auto")


def test_a_folder_that_a_node_does_not_see_is_one_line(tmp_path: Path) -> None:
    from alidade.sweeps.ray import _Order, _train

    order = _Order(Job(tmp_path / "gone", None, "cpu"), None, {}, None, versions())  # type: ignore[arg-type]
    with pytest.raises(WorkError, match=r"gone: expected the study's folder on every node, .*; --out has to be a fold"):
        _train._function(linear(0), order)
    assert not (tmp_path / "gone").exists()


def test_a_node_with_other_software_is_refused() -> None:
    require_same_versions(versions())
    with pytest.raises(WorkError, match=r"expected a node with .*'torch': '0.4'.*; install the same"):
        require_same_versions({**versions(), "torch": "0.4"})


def test_small_networks_share_a_gpu() -> None:
    spec = run_spec()
    wide = spec.model_copy(update={"model": spec.model.model_copy(update={"width": 1.0})})
    assert resources(spec, "cuda") == resources(linear(0).spec, "cuda") == {"num_cpus": 1, "num_gpus": 0.25}
    assert resources(wide, "cuda") == {"num_cpus": 1, "num_gpus": 1}
    assert resources(wide, "cuda", 0.5) == {"num_cpus": 1, "num_gpus": 0.5}
    assert resources(wide, "cpu", 0.5) == {"num_cpus": 1}


@pytest.fixture
def closed() -> Iterator[str]:
    """The address of a port that is taken, so that nobody else gets it, and where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


def test_an_address_where_nobody_listens_is_one_line(closed: str, tmp_path: Path) -> None:
    began = time.monotonic()
    result = alidade("reproduce", "landscape", "--executor", "ray", "--ray-address", closed, "--out", tmp_path)
    assert time.monotonic() - began < 20  # promised, and Ray alone takes two minutes
    line = error_line(result, 1)
    assert line.startswith(f"error: --ray-address {closed}: expected a Ray cluster that answers, got: ")
    assert line.endswith("Connection refused; start one with 'ray start --head', or name another address")
    assert list(tmp_path.iterdir()) == []


def test_an_address_where_somebody_else_listens_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alidade.sweeps.ray_address.ANSWER_SECONDS", ANSWER_SECONDS)  # the fixture has more patience
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        began = time.monotonic()
        with pytest.raises(
            WorkError, match=f"--ray-address {address}: expected a Ray .* no answer in 12 seconds; start"
        ):
            found(address)
    assert time.monotonic() - began < 20  # and not minutes


@pytest.mark.parametrize("address", ["head", "head:port", ":6379", "ray://"])
def test_what_is_no_address_is_one_line(address: str) -> None:
    with pytest.raises(CallError, match="--ray-address: expected host:port, ray://host:port, auto or local, got"):
        found(address)


def test_no_address_means_that_of_the_environment(closed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", closed)
    for address in (None, "auto"):
        with pytest.raises(WorkError, match="Connection refused"):
            found(address)
    assert found("local") == "local"


@pytest.mark.parametrize(
    ("execution", "says"),
    [
        (Execution("local", address="auto"), "--ray-address: expected it with --executor ray only, got auto"),
        (Execution("local", gpus_per_run=0.5), "--gpus-per-run: expected it with --executor ray only, got 0.5"),
        (Execution("ray", gpus_per_run=0.0), "--gpus-per-run: expected a share of a GPU between 0 and 1, .*got 0"),
        (Execution("ray", gpus_per_run=1.5), "--gpus-per-run: expected a share of a GPU between 0 and 1, .*got 1.5"),
    ],
)
def test_options_that_mean_nothing_are_refused(execution: Execution, says: str) -> None:
    with pytest.raises(CallError, match=says), executor_for(execution):
        pass


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alidade.sweeps.executor.find_spec", lambda name: None)
    says = r"expected the package ray, found none; .*pip install 'alidade\[ray\]'"
    with pytest.raises(CallError, match=says), executor_for(Execution("ray")):
        pass
