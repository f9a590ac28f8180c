"""The training as it stood before an optimizer step, and what must be kept to know it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from alidade.landscape.conditions import Part, conditions_now
from alidade.landscape.differentiation import Tensors
from alidade.landscape.isolation import Attributes, unwrap
from alidade.landscape.loss import LossFunction
from alidade.landscape.objective import Objective
from alidade.probes.hooks import trainable


@dataclass
class Moment:
    """The training as it stood before an optimizer step: the micro-batches of the step and the parameters then."""

    step: int
    model: nn.Module
    loss_fn: LossFunction
    parts: Sequence[Part]
    start: Tensors | None = None  # None: the live parameters are still those before the step
    update: Tensors | None = None  # theta_t - theta_{t+1}, known after the step
    learning_rates: Mapping[str, float] | None = None  # by parameter name
    test: tuple[Tensor, Tensor] | None = None
    check_deterministic: bool = True
    optimizer: torch.optim.Optimizer | None = None  # after the step, in a survey

    @cached_property
    def objective(self) -> Objective:
        """Loss of the step's batch, with the random numbers, autocast and modes of its forward pass."""
        check = self.check_deterministic
        return Objective.of_parts(self.model, self.loss_fn, self.parts, self.start, check_deterministic=check)


def moment_before_step(
    step: int, model: nn.Module, loss_fn: LossFunction, batch: Any, test: tuple[Tensor, Tensor] | None, check: bool
) -> Moment:
    """The moment before a step whose forward pass is going to draw the next random numbers."""
    return Moment(step, model, loss_fn, [Part(batch, conditions_now(model))], test=test, check_deterministic=check)


class StepStart:
    """What must be kept before an optimizer step to measure what it changed."""

    def __init__(self, step: int, model: nn.Module, loss_fn: LossFunction, batch: Any) -> None:
        self._moment = moment_before_step(step, model, loss_fn, batch, None, step == 0)
        buffers = {name: buffer.detach().clone() for name, buffer in model.named_buffers()}
        (part,) = self._moment.parts
        conditions = replace(part.conditions, buffers=buffers, attributes=Attributes(unwrap(model).modules()))
        self._moment.parts = [Part(batch, conditions)]
        self._moment.start = trainable(model)

    def moment_after_step(self) -> Moment:
        """The moment before the step, with the update that is known now."""
        now, start = trainable(self._moment.model), self._moment.start or {}
        self._moment.update = {name: start[name] - now[name] for name in start}
        return self._moment
