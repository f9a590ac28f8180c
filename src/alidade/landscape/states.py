"""State dictionaries: checked against a model, and mixed layer by layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from alidade.core.errors import CallError
from alidade.landscape.isolation import public_name

Tensors = dict[str, Tensor]


def matched_state(model: nn.Module, state: Any, label: str) -> Tensors:
    """The state's tensors for the model's parameters and buffers, by their real names, without copying.

    Dtype and device become those of the model, as ``load_state_dict`` does it. The prefixes of wrappers
    ("module.", "_orig_mod.") are looked through; one name of a tied parameter is enough; buffers that are not kept
    in state dictionaries may be missing and are then those of the model.

    Raises:
        CallError: keys missing or unexpected, shapes that do not match; the message begins with ``label``.
    """
    if not isinstance(state, Mapping):
        raise CallError(f"{label}: expected a state dictionary, got {type(state).__name__}")
    expected, optional = _expected(model)
    given = _by_public_name(state, {public_name(name) for names in expected for name in names} | optional)
    found: Tensors = {}
    missing: list[str] = []
    for names, live in expected.items():
        name = next((public_name(name) for name in names if public_name(name) in given), None)
        if name is not None:
            found[names[0]] = _as_live(given[name], live, f"{label}[{name!r}]")
        elif public_name(names[0]) not in optional:
            missing.append(public_name(names[0]))
    unexpected = sorted(set(given) - {public_name(name) for names in expected for name in names})
    if missing or unexpected:
        raise CallError(
            f"{label}: expected the model's own keys, missing {_first(missing)}, unexpected {_first(unexpected)}"
        )
    return found


def _expected(model: nn.Module) -> tuple[dict[tuple[str, ...], Tensor], set[str]]:
    """All tensors by all their names, first name first; and the public names of those that may be missing."""
    names: dict[int, list[str]] = {}
    tensors: dict[int, Tensor] = {}
    for name, tensor in _named_tensors(model):
        names.setdefault(id(tensor), []).append(name)
        tensors[id(tensor)] = tensor
    optional = {
        public_name(f"{path}.{name}".lstrip("."))
        for path, module in model.named_modules(remove_duplicate=False)
        for name in module._non_persistent_buffers_set
    }
    return {tuple(several): tensors[key] for key, several in names.items()}, optional


def _named_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def _by_public_name(state: Mapping[str, Any], known: set[str]) -> dict[str, Any]:
    given = {}
    for key, value in state.items():
        name = public_name(key)
        if name not in known and name.removeprefix("module.") in known:
            name = name.removeprefix("module.")
        if not name.endswith("_extra_state"):
            given[name] = value
    return given


def _as_live(value: Any, live: Tensor, label: str) -> Tensor:
    if not isinstance(value, Tensor):
        raise CallError(f"{label}: expected a Tensor, got {type(value).__name__}")
    if value.shape != live.shape:
        raise CallError(f"{label}: expected shape {tuple(live.shape)}, got {tuple(value.shape)}")
    if value.is_complex() and not live.is_complex():
        raise CallError(f"{label}: expected real numbers, got {str(value.dtype).removeprefix('torch.')}")
    with torch.inference_mode(False):
        found: Tensor = value.clone() if value.is_inference() else value.detach()
        return found.to(device=live.device, dtype=live.dtype)


def _first(names: list[str], limit: int = 3) -> str:
    return f"{names[:limit]}" + (f" and {len(names) - limit} more" if len(names) > limit else "")
