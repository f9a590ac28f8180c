"""The data announced for the next optimizer step, under the conditions of their real forward passes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from alidade.core.errors import CallError
from alidade.landscape.batches import Supply
from alidade.landscape.conditions import AutocastState, Part
from alidade.landscape.differentiation import Tensors
from alidade.landscape.loss import LossFunction
from alidade.landscape.objective import Objective
from alidade.probes.hooks import ForwardWatch, autocast_of_the_caller


@dataclass
class _MicroBatch:
    supply: Supply
    weight: float | None
    watch: ForwardWatch


class Announced:
    """The micro-batches of one step; what the loss function was called under is found once per training."""

    def __init__(self, model: nn.Module, loss_fn: LossFunction) -> None:
        self._model, self._loss_fn = model, loss_fn
        self._autocast: tuple[AutocastState, ...] | None = None
        self._pending: list[_MicroBatch] = []

    def add(self, batch: Any, weight: float | None) -> None:
        """One more micro-batch, before its forward pass."""
        self._pending.append(_MicroBatch(Supply(batch), weight, ForwardWatch(self._model)))

    def drop(self) -> None:
        """Forget all."""
        self._stop()
        self._pending = []

    def parts(self, start: Tensors) -> list[Part]:
        """The micro-batches as the forward passes saw them; ``start``: the parameters then.

        Raises:
            CallError: there are none.
        """
        if not self._pending:
            raise CallError("no data were announced for this step; call survey.observe(batch) before its forward pass")
        self._stop()
        batches = [pending.supply.as_announced() for pending in self._pending]
        if self._autocast is None:
            watch, model, loss_fn = self._pending[0].watch, self._model, self._loss_fn
            self._autocast = autocast_of_the_caller(
                watch,
                model,
                lambda conditions: Objective.of_parts(
                    model, loss_fn, [Part(batches[0], conditions)], start, check_deterministic=False
                ).value(),
            )
        default = 1.0 / len(self._pending)
        return [
            Part(batch, p.watch.conditions(self._autocast), default if p.weight is None else float(p.weight))
            for batch, p in zip(batches, self._pending, strict=True)
        ]

    def _stop(self) -> None:
        for pending in self._pending:
            pending.watch.stop()
