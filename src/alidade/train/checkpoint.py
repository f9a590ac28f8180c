"""Where a training stands, between two steps: everything that decides how it goes on, as bytes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from alidade.core.errors import WorkError
from alidade.landscape.randomness import RandomState
from alidade.probes.session import Session
from alidade.train.outcome import Outcome
from alidade.train.packing import pack, unpack


class Checkpoints(Protocol):
    """Who keeps checkpoints. The measuring side knows this and nothing of files."""

    def latest(self) -> bytes | None:
        """The state to go on from; None where there is none and the training begins."""

    def due(self) -> bool:
        """Whether the state of this moment, before a step and its probes, is wanted."""

    def keep(self, step: int, state: bytes) -> None:
        """Take the state after ``step`` steps, in place of earlier ones; whoever wants the training to stop raises."""


class NoCheckpoints:
    """For trainings that are over before anything can happen to them."""

    def latest(self) -> bytes | None:
        """Nothing."""
        return None

    def due(self) -> bool:
        """Never."""
        return False

    def keep(self, step: int, state: bytes) -> None:
        """Nothing is kept."""


class Standing:
    """The parts of a training that move: they are read and put back together.

    The batches are a function of seed and step, and so are the schedules of the probes: the step is their cursor.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer, outcome: Outcome, session: Session) -> None:
        self._model, self._optimizer, self._outcome, self._session = model, optimizer, outcome, session
        self._began = time.perf_counter()

    @property
    def seconds(self) -> float:
        """What the training took until now, over all its legs."""
        return time.perf_counter() - self._began

    def state(self, step: int) -> bytes:
        """The state after ``step`` optimizer steps and before the probes of that step.

        Cost: a copy of the parameters, the buffers and the optimizer's state on the CPU, twice.
        """
        return pack(
            {
                "step": step,
                "model": dict(_tensors(self._model)),
                "optimizer": self._optimizer.state_dict(),
                "random": RandomState(self._model).state(),
                "outcome": self._outcome.state(),
                "session": self._session.state(),
                "seconds": self.seconds,
            }
        )

    def restore(self, state: bytes) -> int:
        """Put everything where the state says; returns the number of steps taken.

        Raises:
            WorkError: it is no such state, or that of another network.
        """
        there = unpack(state)
        _require(there, dict(_tensors(self._model)))
        with torch.no_grad():
            for name, tensor in _tensors(self._model):
                tensor.copy_(there["model"][name])
        self._optimizer.load_state_dict(there["optimizer"])
        self._outcome.load(there["outcome"])
        self._session.load(there["session"])
        self._began = time.perf_counter() - there["seconds"]
        random = RandomState(self._model)
        random.load(there["random"])
        random.install()  # last: whatever came before may have drawn numbers
        return int(there["step"])


def _tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    """Parameters and buffers, also those that a state dict leaves out; tied ones once."""
    return [*model.named_parameters(), *model.named_buffers()]


def _require(there: Any, model: Mapping[str, Tensor]) -> None:
    expected = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in model.items()}
    came = there.get("model") if isinstance(there, dict) else None
    found = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in (came or {}).items()}
    if found != expected:
        names = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        raise WorkError(f"state: expected that of this network, got that of another; they differ in {names[:3]}")
