"""How a model is spread over processes, as its wrappers say."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from alidade.core.errors import RefusedError
from alidade.landscape.isolation import wrappings
from alidade.landscape.ranks import ALONE, ProcessRanks, Ranks
from alidade.landscape.shards import gathers, group_of, is_piece, sharded_modules

_DDP = nn.parallel.DistributedDataParallel


@dataclass(frozen=True)
class Spread:
    """The processes that share the objective, and how."""

    ranks: Ranks = ALONE
    buffers_of_first: bool = False  # each forward pass begins with the first process's
    sharded: bool = False  # each process has a piece of every parameter

    @property
    def name(self) -> str:
        """For the record."""
        if self.ranks.size == 1:
            return "one process"
        return "fully sharded" if self.sharded else "distributed data parallel"


def spread_of(model: nn.Module) -> Spread:
    """The processes of DistributedDataParallel around the model or of ``fully_shard``; else this process alone.

    Raises:
        RefusedError: a model that is spread in a way whose loss cannot be put together here.
    """
    *outer, inner = wrappings(model)
    _refuse(inner)
    wrapper = next((module for module in [*outer, inner] if isinstance(module, _DDP)), None)
    if wrapper is None and sharded_modules(inner):
        device = next(inner.parameters()).device
        ranks = ProcessRanks(group_of(inner), device)
        return Spread(ranks if ranks.size > 1 else ALONE, sharded=True)
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
            if not gathers(hook) and str(getattr(hook, "__module__", "")).startswith("torch.distributed"):
                raise RefusedError(_UNKNOWN.format(name or "(model)", type(module).__name__))
        if type(module).__name__ == "FullyShardedDataParallel":
            raise RefusedError(_UNKNOWN.format(name or "(model)", type(module).__name__))
    if sharded_modules(inner):
        return
    for name, parameter in inner.named_parameters():
        if is_piece(parameter):
            raise RefusedError(_UNKNOWN.format(name, type(parameter).__name__))


_UNKNOWN = (
    "model: expected one process, DistributedDataParallel or fully_shard, got another parallelism at {!r} ({}); "
    "measure a copy of the model in one process"
)
