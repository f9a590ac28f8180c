"""The conditions of one forward pass: random numbers, autocast, module modes, buffers.

An objective replays them at every evaluation, so that it is the function that the training step computed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from alidade.landscape.batches import Supply
from alidade.landscape.isolation import Attributes
from alidade.landscape.randomness import RandomState


class AutocastState(NamedTuple):
    """Autocast of one kind of device."""

    device: str
    enabled: bool
    dtype: torch.dtype


def autocast_states() -> tuple[AutocastState, ...]:
    """Autocast as it stands, for every kind of device that is there."""
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    return tuple(
        AutocastState(device, torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)) for device in devices
    )


def precision(parameters: Collection[Tensor], autocast: Sequence[AutocastState]) -> str:
    """The precision of a computation: autocast's where it is on, otherwise that of the parameters, maybe "mixed"."""
    kinds = {p.dtype for p in parameters}
    for state in autocast:
        if state.enabled and any(p.device.type == state.device for p in parameters):
            kinds = {state.dtype}
    return str(kinds.pop()).removeprefix("torch.") if len(kinds) == 1 else "mixed"


@dataclass(frozen=True)
class Conditions:
    """What a forward pass depends on beside parameters and batch.

    ``randomness`` holds when the loss function is called and ``at_forward``, where it is known, when the model
    is: between the two a training loop may draw numbers of its own. ``attributes`` are those of the modules, with
    what is in their lists and plain tensors. None for modes, buffers or attributes: as they are live.
    """

    randomness: RandomState
    autocast: tuple[AutocastState, ...]
    at_forward: RandomState | None = None
    modes: Mapping[nn.Module, bool] | None = None
    buffers: Mapping[str, Tensor] | None = None
    attributes: Attributes | None = None

    @contextmanager
    def replayed(self, model: nn.Module) -> Iterator[None]:
        """Autocast, modes and, at the model's first call, random numbers are those recorded.

        To be entered inside ``isolated``, which puts back what is changed here.
        """
        if self.attributes is not None:
            self.attributes.put_back()
            self.attributes.silence()
        with ExitStack() as stack:
            for state in self.autocast:
                # The cache of cast weights would outlive the leaves that it was filled from.
                stack.enter_context(
                    torch.autocast(state.device, dtype=state.dtype, enabled=state.enabled, cache_enabled=False)
                )
            if self.modes is not None:
                for module, training in self.modes.items():
                    module.training = training
            if self.at_forward is not None:
                once = _Once(self.at_forward)
                for module in model.modules():  # a loss function may call an inner module and never the outermost
                    stack.callback(module.register_forward_pre_hook(once).remove)
            yield


class _Once:
    """A forward pre-hook that installs a random state at the first call."""

    def __init__(self, state: RandomState) -> None:
        self._state: RandomState | None = state

    def __call__(self, module: nn.Module, inputs: Any) -> None:
        if self._state is not None:
            self._state.install()
            self._state = None


@dataclass(frozen=True)
class Part:
    """One (micro-)batch of a step, the conditions of its forward pass, and the factor of its loss in the sum."""

    batch: Any
    conditions: Conditions
    weight: float = 1.0

    @cached_property
    def supply(self) -> Supply:
        """The batch for evaluations, one after the other."""
        return Supply(self.batch)

    @contextmanager
    def replayed(self, model: nn.Module) -> Iterator[None]:
        """The conditions, to be entered inside ``isolated``; the batch's tensors are put back on leaving."""
        with self.supply.restored(), self.conditions.replayed(model):
            yield


def conditions_now(model: nn.Module) -> Conditions:
    """Random states and autocast as they stand; modes and buffers stay live."""
    return Conditions(RandomState(model), autocast_states())
