"""One training run: the paper's plain loop, with the session looking along the way."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from alidade.core.probes import AnyProbe
from alidade.core.records import NON_FINITE, OK, Recorder, Row
from alidade.core.spec import RunSpec
from alidade.data import Dataset
from alidade.landscape.statistics import describe_statistics
from alidade.probes.moment import StepStart, moment_before_step
from alidade.probes.session import TIMING, Session
from alidade.train.build import Task, accuracy, build_optimizer, build_task
from alidade.train.checkpoint import Checkpoints, NoCheckpoints, Standing
from alidade.train.outcome import Outcome

TRAINING = "training"


class Progress(NamedTuple):
    """Where a run stands, for whoever shows it; there is no accuracy in a regression."""

    step: int
    loss: float
    accuracy: float | None


def make_deterministic(seed: int) -> None:
    """Seed every generator and choose deterministic kernels, so that a run repeats bit for bit on one machine."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


def train(
    spec: RunSpec,
    data: Dataset | None,
    probes: Sequence[AnyProbe],
    recorder: Recorder,
    device: str = "cpu",
    report: Callable[[Progress], None] = lambda progress: None,
    checkpoints: Checkpoints | None = None,
) -> torch.nn.Module:
    """Train ``spec`` and record the segments "training", "timing" and one per probe; return the trained model.

    A probe at step t sees the parameters after t optimizer steps and the batch of step t, before that step; the
    last probe, at ``spec.steps``, sees the final parameters. Probes of the step itself (covariate shift, profiles
    along the update) see where it started and where it ended; there is none at ``spec.steps``. The trajectory is
    bit-identical whatever is probed. ``data`` are the images; None where the spec draws its own data.

    ``checkpoints`` are asked before each step. A training that goes on from one is, on the CPU, bit for bit the one
    that was never interrupted; ``recorder`` must then hold what was recorded up to it, and nothing later.
    """
    make_deterministic(spec.seed)
    task = build_task(spec, data, device)
    optimizer, outcome = build_optimizer(spec, task.model), Outcome(spec.steps, task.full_batch)
    session, checkpoints = Session(probes, recorder), checkpoints or NoCheckpoints()
    recorder.record(TRAINING, [])
    standing, kept = Standing(task.model, optimizer, outcome, session), checkpoints.latest()
    first = 0 if kept is None else standing.restore(kept)
    for step in range(first, spec.steps + 1):
        if step > first and checkpoints.due():
            checkpoints.keep(step, standing.state(step))
        before, across = session.due_around(step)
        if before:
            moment = moment_before_step(step, task.model, task.loss_fn, task.batches(step), task.test, step == 0)
            session.measure(moment, before)
        if step == spec.steps:
            break
        start = _start_of_step(session, step, task, across)
        progress = _train_step(task, optimizer, step, recorder, outcome)
        if start and (done := session.attempt(step, across, start.moment_after_step)):
            session.measure(done, across)
        report(progress)
    recorder.record(TRAINING, list(outcome.rows()))
    recorder.record(TIMING, [Row(spec.steps, "training_seconds", standing.seconds, "s", dtype="float64")])
    return task.model


def _start_of_step(session: Session, step: int, task: Task, probes: Sequence[str]) -> StepStart | None:
    """What the probes of the step itself need; a copy of the network for which there is no room is their failure."""
    if not probes:
        return None
    return session.attempt(step, probes, lambda: StepStart(step, task.model, task.loss_fn, task.batches(step)))


def _train_step(
    task: Task, optimizer: torch.optim.Optimizer, step: int, recorder: Recorder, outcome: Outcome
) -> Progress:
    """One step of gradient descent, recorded as loss and accuracy of this batch before the step."""
    inputs, targets = task.batches(step)
    optimizer.zero_grad(set_to_none=True)
    outputs = task.model(inputs)
    loss = task.criterion(outputs, targets)
    objective = task.with_penalty(task.model, loss)
    objective.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    unit = "nat" if task.kind == "classification" else "1"
    values = {"train_loss": (loss.item(), unit)}
    if task.kind == "classification":
        values["train_accuracy"] = (accuracy(outputs, targets), "1")
    if task.l2:
        values["train_objective"] = (objective.item(), unit)
    statistics, dtype = describe_statistics(task.model), str(loss.dtype).removeprefix("torch.")
    recorder.record(
        TRAINING,
        [
            Row(step, name, value, unit, statistics=statistics, dtype=dtype, status=_status(value))
            for name, (value, unit) in values.items()
        ],
    )
    outcome.note(step, loss.item())
    return Progress(step + 1, loss.item(), values.get("train_accuracy", (None,))[0])


def _status(value: float) -> str:
    return OK if np.isfinite(value) else NON_FINITE
