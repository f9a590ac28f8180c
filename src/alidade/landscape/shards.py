"""Models whose parameters are sharded over processes by ``fully_shard`` (FSDP2): whole tensors instead of pieces.

A sharded model gathers its parameters by itself, in hooks of its forward pass, and would silently ignore any tensors
put in their place. While a probe evaluates it those hooks are taken away, and the model runs on whole
tensors like any other: nothing sharded is touched (docs/decisions/0014).
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from alidade.core.errors import RefusedError
from alidade.landscape.ranks import Ranks

_HOOKS = ("_forward_pre_hooks", "_forward_hooks")
_EXPECTED = "model: expected fully_shard over all parameters, on one axis of processes and in one precision, got "


def is_piece(tensor: Any) -> bool:
    """Whether this is a DTensor: a piece of a larger tensor, and how it is spread."""
    home = sys.modules.get("torch.distributed.tensor")  # not imported: nobody can have made one
    return home is not None and isinstance(tensor, home.DTensor)


def sharded_modules(model: nn.Module) -> list[Any]:
    """The modules that ``fully_shard`` was called on."""
    home = sys.modules.get("torch.distributed.fsdp")
    kind = getattr(home, "FSDPModule", None)
    return [] if kind is None else [module for module in model.modules() if isinstance(module, kind)]


def gathers(hook: Any) -> bool:
    """Whether a forward hook is one of those by which a sharded model gathers its parameters."""
    return str(getattr(hook, "__module__", "")).startswith("torch.distributed.fsdp")


def hooks_without_gathering(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """A module's dictionaries of forward hooks without those; nothing where there are none."""
    if not any(gathers(hook) for name in _HOOKS for hook in attributes[name].values()):
        return {}
    return {
        name: OrderedDict((key, hook) for key, hook in attributes[name].items() if not gathers(hook)) for name in _HOOKS
    }


def settle(model: nn.Module) -> None:
    """Back to pieces where a forward pass without a backward pass has left whole parameters behind."""
    for module in sharded_modules(model):
        if not all(map(is_piece, module.parameters())):
            module.reshard()


def group_of(model: nn.Module) -> Any:
    """The process group that the parameters are sharded over.

    Raises:
        RefusedError: several axes (hybrid sharding, tensor parallelism), parameters that are not sharded and
            trained, mixed precision or offloading by ``fully_shard``.
    """
    settle(model)
    groups = dict[Any, str]()
    parameter: Any
    for name, parameter in model.named_parameters():
        if not is_piece(parameter):
            if parameter.requires_grad:
                raise RefusedError(f"{_EXPECTED}{name!r} outside of it")
            continue
        mesh = parameter.device_mesh
        if mesh.ndim != 1 or not parameter.placements[0].is_shard():
            raise RefusedError(f"{_EXPECTED}{name!r} on {mesh.ndim} axes with placements {parameter.placements}")
        groups[mesh.get_group()] = name
    if len(groups) != 1:
        raise RefusedError(f"{_EXPECTED}{len(groups)} groups of processes")
    for module in sharded_modules(model):
        policy = getattr(module._get_fsdp_state(), "_mp_policy", None)
        if policy is not None and (policy.param_dtype or policy.output_dtype):
            raise RefusedError(f"{_EXPECTED}mixed precision ({policy.param_dtype}); use autocast, which is replayed")
    return next(iter(groups))


def whole(tensors: Mapping[str, Tensor], ranks: Ranks) -> dict[str, Tensor]:
    """Whole tensors for pieces, in every process; others as they are. All processes call this together."""
    if not any(map(is_piece, tensors.values())):
        return dict(tensors)
    ranks.agreed(lambda: None)  # nobody gathers alone
    with torch.inference_mode(False), torch.no_grad():
        return {name: _gathered(tensor) if is_piece(tensor) else tensor for name, tensor in tensors.items()}


def _gathered(piece: Any) -> Tensor:
    found: Tensor = piece.full_tensor()
    return found
