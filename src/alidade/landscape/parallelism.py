"""How a model is spread over processes, as its wrappers say."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

from torch import nn

from alidade.core.errors import RefusedError
from alidade.landscape.isolation import wrappings
from alidade.landscape.ranks import ALONE, ProcessRanks, Ranks

_DDP = nn.parallel.DistributedDataParallel


@dataclass(frozen=True)
class Spread:
    """The processes that share the objective, and whether each forward pass begins with the first one's buffers."""

    ranks: Ranks = ALONE
    buffers_of_first: bool = False

    @property
    def name(self) -> str:
        """For the record."""
        return "one process" if self.ranks.size == 1 else "distributed data parallel"


def spread_of(model: nn.Module) -> Spread:
    """The processes of the DistributedDataParallel around the model; without one this process alone.

    Raises:
        RefusedError: a model that is spread in a way whose loss cannot be put together here.
    """
    *outer, inner = wrappings(model)
    _refuse(inner)
    wrapper = next((module for module in [*outer, inner] if isinstance(module, _DDP)), None)
    if wrapper is None:
        return Spread()
    ranks = ProcessRanks(wrapper.process_group, next(inner.parameters()).device)
    shared = getattr(wrapper, "forward_sync_buffers", None)  # its name before torch 2.12: broadcast_buffers
    return Spread(ranks, wrapper.broadcast_buffers if shared is None else shared) if ranks.size > 1 else Spread()


def _refuse(inner: nn.Module) -> None:
    for name, module in inner.named_modules():
        if isinstance(module, _DDP):
            raise RefusedError(
                f"model: expected DistributedDataParallel around the whole model, got it around {name!r}; "
                "wrap the outermost module"
            )
        for hook in [*module._forward_pre_hooks.values(), *module._forward_hooks.values()]:
            if str(getattr(hook, "__module__", "")).startswith("torch.distributed"):
                raise RefusedError(_UNKNOWN.format(name or "(model)", type(module).__name__))
    for name, parameter in inner.named_parameters():
        if is_distributed(parameter):
            raise RefusedError(_UNKNOWN.format(name, type(parameter).__name__))


_UNKNOWN = (
    "model: expected one process or DistributedDataParallel, got another parallelism at {!r} ({}); "
    "measure a copy of the model in one process"
)


def is_distributed(tensor: Any) -> bool:
    """Whether this is a DTensor: a piece of a larger tensor, and how it is spread."""
    tensors = sys.modules.get("torch.distributed.tensor")  # not imported: nobody can have made one
    return tensors is not None and isinstance(tensor, tensors.DTensor)
