"""A study on a Ray cluster: placement, retries and the way of the data are Ray's. The only file that imports it.

Each run is one task. Ray starts it again when its worker or its node dies, and it then goes on from its last
checkpoint, so the study's folder has to lie where all nodes reach it. The images are read once, where the command
runs, and travel through Ray's object store: no node needs a data folder, and none can train on other images.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import ray
import torch
from ray.exceptions import RayError, RayTaskError
from ray.util.queue import Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from alidade.core.errors import AlidadeError, CallError, WorkError
from alidade.core.probes import PlannedRun
from alidade.core.spec import DataSpec
from alidade.data import Dataset
from alidade.probes.memory import reason_of
from alidade.store.failures import note_failure
from alidade.store.locks import HeldError
from alidade.store.places import is_local
from alidade.sweeps import plan, worker
from alidade.sweeps.checkpoints import StoppedError
from alidade.sweeps.local import GRACE_SECONDS, Listener, OutOfTimeError, ctrl_c_held_back
from alidade.sweeps.nodes import require_same_versions, resources, versions
from alidade.sweeps.ray_address import QUIET

#: How often Ray starts a run again whose worker or node has died.
RETRIES = 3
#: Seconds within which what one node has written is there for another one; network shares cache for up to a minute.
SHARED_SECONDS = 90.0

_POLL_SECONDS = 0.2


@contextmanager
def connected(address: str, gpus_per_run: float | None = None) -> Iterator[Cluster]:
    """The Ray cluster at an address that answers (see sweeps.ray_address), until the end of the block.

    A connection that this process has already is used, and left as it is. ``gpus_per_run`` is a share of a GPU, or how
    many, for each run; None: by the size of its network.

    Raises:
        WorkError: it does not answer any more.
    """
    if ray.is_initialized():
        yield Cluster(gpus_per_run)
        return
    try:
        with _same_sigterm():
            ray.init(address, **QUIET)
        yield Cluster(gpus_per_run)
    except (ConnectionError, RayError) as error:
        raise WorkError(
            f"{address}: expected a Ray cluster that answers, lost it: {reason_of(error)}; repeat"
        ) from error
    finally:
        with ctrl_c_held_back():
            ray.shutdown()


@contextmanager
def _same_sigterm() -> Iterator[None]:
    """Ray takes the signal over, and what we are told by it does not change."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Cluster:
    """The executor (sweeps.executor.Executor) of a connected Ray cluster."""

    def __init__(self, gpus_per_run: float | None = None) -> None:
        self._gpus_per_run = gpus_per_run

    def device(self, wanted: str) -> str:
        """What "auto", "cpu" or "cuda" comes to on this cluster.

        Raises:
            CallError: GPUs are asked for where the cluster has none.
        """
        has_gpus = ray.cluster_resources().get("GPU", 0) > 0
        if wanted == "cuda" and not has_gpus:
            raise CallError("--device: expected a GPU in the Ray cluster for 'cuda', found none; use cpu or auto")
        device = "cuda" if wanted != "cpu" and has_gpus else "cpu"
        if device == "cpu" and self._gpus_per_run is not None:
            raise CallError(f"--gpus-per-run: expected runs on a GPU, got {self._gpus_per_run} with runs on CPUs")
        return device

    def execute(
        self, runs: Sequence[PlannedRun], job: worker.Job, listener: Listener, max_seconds: float | None = None
    ) -> None:
        """Train all runs, as many at once as the cluster has CPUs (and GPUs) for.

        Ctrl-C kills the tasks at once: finished runs are kept, and the others go on from their last checkpoint. At
        the end of the time allowed they write one.

        Raises:
            OutOfTimeError: ``max_seconds`` are over.
            WorkError: a run failed, raised after the other runs have finished; or the nodes do not share the folder.
        """
        if not runs:
            return
        study = _Study(runs, job, listener, max_seconds, self._gpus_per_run)
        try:
            failures = study.follow()
        except BaseException:
            with ctrl_c_held_back():  # a second one must not save the tasks
                study.cancel()
            raise
        if failures:
            raise WorkError(f"{len(failures)} of {len(runs)} runs failed; the first: {failures[0]}")


@dataclass(frozen=True)
class _Order:
    """What every task of a study is told."""

    job: worker.Job
    ends: float | None  # the time allowed, on the clock of time.time()
    images: dict[tuple[str, int | None], ray.ObjectRef[Dataset | None]]  # in the object store
    messages: Queue
    versions: dict[str, str]


class _Study:
    """The tasks of a study, and what is heard of them."""

    def __init__(
        self,
        runs: Sequence[PlannedRun],
        job: worker.Job,
        listener: Listener,
        max_seconds: float | None,
        gpus_per_run: float | None,
    ) -> None:
        if is_local(job.root):  # other nodes have other working directories
            job = replace(job, root=job.root.absolute())
            job.root.mkdir(parents=True, exist_ok=True)
        self._root, self._listener = job.root, listener
        self._runs = {run.spec.run_id: run for run in runs}
        self._deadline = None if max_seconds is None else time.monotonic() + max_seconds
        self._messages = _mailbox()
        images = {(d.name, d.train_examples): d for d in (run.spec.data for run in runs)}
        order = _Order(
            job,
            None if max_seconds is None else time.time() + max_seconds,
            {key: ray.put(worker.images(data, job)) for key, data in images.items()},
            self._messages,
            versions(),
        )
        self._stopped, self._left = False, set(self._runs)  # the time allowed is over; runs that did not end
        self._advancing: set[str] = set()  # runs that have something to save
        self._pending = {
            _train.options(**resources(run.spec, job.device, gpus_per_run)).remote(run, order): run.spec.run_id
            for run in runs
        }

    def follow(self) -> list[str]:
        """Wait for all runs; returns why some failed."""
        failures: list[str] = []
        while self._pending and not self._stopped:
            if self._deadline is not None and time.monotonic() > self._deadline:
                self._stopped = True
            failures += filter(None, map(self._settle, self._done()))
        self._end_in_time()
        if self._left:
            raise OutOfTimeError("the time of --max-minutes is over; repeat the command to go on")
        return failures

    def cancel(self) -> None:
        """Kill what is running, and start nothing any more."""
        if not self._pending:
            return
        for task in self._pending:
            with suppress(RayError):
                ray.cancel(task, force=True)
        with suppress(RayError):
            ray.wait(list(self._pending), num_returns=len(self._pending), timeout=GRACE_SECONDS)

    def _done(self) -> list[ray.ObjectRef[str]]:
        done, _ = ray.wait(list(self._pending), num_returns=1, timeout=_POLL_SECONDS)
        self._pass_on()  # what a run said comes before its end
        return done

    def _settle(self, task: ray.ObjectRef[str]) -> str | None:
        """Why a run failed, which is noted in its folder; None if it did not."""
        run_id = self._pending.pop(task)
        error = _error_of(task)
        if isinstance(error, StoppedError):  # its clock is ahead of ours
            self._stopped = True
            return None
        self._left.discard(run_id)
        if error is None:
            self._await_files(run_id)
            self._listener.finished(run_id)
            return None
        reason = reason_of(error)
        if not isinstance(error, HeldError):  # then it is another process that knows how the run fares
            note_failure(self._root / run_id, self._runs[run_id].spec.label, reason)
        self._listener.failed(run_id, reason)
        return reason

    def _await_files(self, run_id: str) -> None:
        """A finished run has to be seen from here, or its numbers lie on the disk of some node."""
        patience = time.monotonic() + SHARED_SECONDS
        while plan.missing(self._root, self._runs[run_id]):
            if time.monotonic() > patience:
                raise WorkError(f"{self._root / run_id}: expected the finished run, found none; {_SHARE_IT}")
            time.sleep(_POLL_SECONDS)

    def _end_in_time(self) -> None:
        """Let every run that has taken a step write its last checkpoint."""
        until = time.monotonic() + GRACE_SECONDS
        while time.monotonic() < until and self._advancing & set(self._pending.values()):
            for task in self._done():
                self._settle(task)

    def _pass_on(self) -> None:
        with suppress(RayError):  # without a mailbox the runs go on, unheard
            for kind, run_id, *said in self._messages.get_nowait_batch(self._messages.size()):
                if kind == "advanced":
                    self._advancing.add(run_id)
                getattr(self._listener, kind)(run_id, *said)


_SHARE_IT = "--out has to be a folder that all nodes share, or a URL such as s3://bucket/study"


@ray.remote(max_retries=RETRIES)
def _train(run: PlannedRun, order: _Order) -> str:
    """One run, on whichever node this is; returns its id."""
    require_same_versions(order.versions)
    if is_local(order.job.root) and not order.job.root.is_dir():
        raise WorkError(f"{order.job.root}: expected the study's folder on every node, found none on one; {_SHARE_IT}")
    torch.set_num_threads(1)

    mailbox: Any = order.messages.actor

    def tell(*message: Any) -> None:
        mailbox.put_nowait.remote(message)  # nobody waits for it to arrive

    def stop() -> bool:
        return order.ends is not None and time.time() > order.ends

    def images(data: DataSpec, job: worker.Job) -> Dataset | None:
        return _fetched(order.images[data.name, data.train_examples])

    if stop():
        raise StoppedError("there was no time left to begin")
    report, say = worker.reporter(run, tell), lambda line: tell("noted", run.spec.run_id, line)
    return worker.perform(run, order.job, report, stop, say, images, patience=SHARED_SECONDS)


@cache
def _fetched(images: ray.ObjectRef[Dataset | None]) -> Dataset | None:
    """Once per process, which trains many runs."""
    return ray.get(images)


def _mailbox() -> Queue:
    """Where the runs tell how they fare: beside the command, since other nodes may go."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})


def _error_of(task: ray.ObjectRef[str]) -> BaseException | None:
    try:
        ray.get(task)
    except RayTaskError as error:
        cause = error.cause
        return cause if isinstance(cause, AlidadeError) else WorkError(reason_of(cause))
    except RayError as error:
        died = f"its worker or node died, {RETRIES + 1} times or for good ({reason_of(error)[:200]})"
        return WorkError(f"{died}; repeat the command to go on")
    return None
