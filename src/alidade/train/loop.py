"""One training run: the paper's plain loop, with the session looking along before each step."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alidade.core.probes import AnyProbe
from alidade.core.records import NON_FINITE, OK, Recorder, Row
from alidade.core.spec import RunSpec
from alidade.data import Batches, Dataset
from alidade.landscape.statistics import describe_statistics
from alidade.probes.session import TIMING, Session, moment_before_step
from alidade.train.build import build_loss, build_model, build_optimizer, l2_penalty

TRAINING = "training"


class Progress(NamedTuple):
    """Where a run stands, for whoever shows it."""

    step: int
    loss: float
    accuracy: float


def make_deterministic(seed: int) -> None:
    """Seed every generator and choose deterministic kernels, so that a run repeats bit for bit on one machine."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


def train(
    spec: RunSpec,
    data: Dataset,
    probes: Sequence[AnyProbe],
    recorder: Recorder,
    device: str = "cpu",
    report: Callable[[Progress], None] = lambda progress: None,
) -> nn.Module:
    """Train ``spec`` and record the segments "training", "timing" and one per probe; return the trained model.

    A probe at step t sees the parameters after t optimizer steps and the batch of step t, before that step; the
    last probe, at ``spec.steps``, sees the final parameters. The trajectory is bit-identical whatever is probed.
    """
    make_deterministic(spec.seed)
    model = build_model(spec, data.train_images.shape[1], len(data.classes)).to(device)
    optimizer, loss_fn = build_optimizer(spec, model), build_loss(spec)
    batches = Batches(data, spec.batch_size, spec.seed, device)
    test = (data.test_images.to(device), data.test_labels.to(device))
    session = Session(probes, recorder)
    recorder.record(TRAINING, [])
    began = time.perf_counter()
    for step in range(spec.steps + 1):
        if due := session.due(step):
            session.measure(moment_before_step(step, model, loss_fn, batches(step), test, step == 0), due)
        if step == spec.steps:
            break
        progress = _train_step(spec, model, optimizer, batches(step), step, recorder)
        report(progress)
    recorder.record(TIMING, [Row(spec.steps, "training_seconds", time.perf_counter() - began, "s", dtype="float64")])
    return model


def _train_step(
    spec: RunSpec,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: tuple[Tensor, Tensor],
    step: int,
    recorder: Recorder,
) -> Progress:
    """One step of gradient descent, recorded as loss and accuracy of this batch before the step."""
    images, labels = batch
    optimizer.zero_grad(set_to_none=True)
    logits = model(images)
    loss = F.cross_entropy(logits, labels)
    objective = loss + l2_penalty(model, spec.l2) if spec.l2 else loss
    objective.backward()
    optimizer.step()
    accuracy = float((logits.argmax(1) == labels).double().mean())
    values = {"train_loss": (loss.item(), "nat"), "train_accuracy": (accuracy, "1")}
    if spec.l2:
        values["train_objective"] = (objective.item(), "nat")
    statistics = describe_statistics(model)
    recorder.record(
        TRAINING,
        [
            Row(step, name, value, unit, statistics=statistics, status=OK if np.isfinite(value) else NON_FINITE)
            for name, (value, unit) in values.items()
        ],
    )
    return Progress(step + 1, loss.item(), accuracy)
