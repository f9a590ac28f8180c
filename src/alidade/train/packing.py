"""Nested values as bytes and back: tensors as safetensors, everything else as JSON. Reading executes nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from alidade.core.errors import CallError, WorkError, brief

_STRUCTURE = "structure"  # the tensor that holds the JSON; the others are named by numbers


def pack(value: Any) -> bytes:
    """The bytes of any nesting of dicts, lists and tuples of tensors, NumPy arrays, numbers, text and None.

    Numbers and tensors come back bit by bit, tuples as tuples, keys as what they are; tensors come back on the CPU
    and contiguous, and no two of them share storage.

    Raises:
        CallError: anything else is in it.

    >>> unpack(pack({"step": 3, 0: (float("inf"), None), "weight": torch.ones(2)}))
    {'step': 3, 0: (inf, None), 'weight': tensor([1., 1.])}
    """
    tensors: dict[str, Tensor] = {}
    structure = json.dumps(_plain(value, tensors), separators=(",", ":")).encode()
    tensors[_STRUCTURE] = torch.frombuffer(bytearray(structure), dtype=torch.uint8)
    return save(tensors)


def unpack(data: bytes) -> Any:
    """What ``pack`` was given.

    Raises:
        WorkError: the bytes are not those of ``pack``.
    """
    try:
        tensors = load(data)
        structure = json.loads(bytes(tensors.pop(_STRUCTURE).numpy()))
        return _nested(structure, tensors)
    except (SafetensorError, KeyError, IndexError, TypeError, ValueError, RecursionError) as error:
        raise WorkError(f"state: expected the bytes that pack() returned, got others ({brief(error)})") from error


def _plain(value: Any, tensors: dict[str, Tensor]) -> Any:
    """As JSON: containers say what they are, tensors and arrays are taken out and leave their name."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, np.generic):
        return _plain(value.item(), tensors)
    if isinstance(value, int | float):
        return value
    if isinstance(value, Tensor | np.ndarray):
        kind, name = ("tensor" if isinstance(value, Tensor) else "array"), str(len(tensors))
        tensors[name] = torch.as_tensor(value).detach().cpu().clone(memory_format=torch.contiguous_format)
        return {kind: name}
    if isinstance(value, Mapping):
        return {"dict": [[_plain(key, tensors), _plain(entry, tensors)] for key, entry in value.items()]}
    if isinstance(value, list | tuple):
        return {"tuple" if isinstance(value, tuple) else "list": [_plain(entry, tensors) for entry in value]}
    raise CallError(f"state: expected numbers, text, tensors and dicts, lists and tuples of them, got {brief(value)}")


def _nested(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "array":
        return tensors[content].numpy()
    if kind == "dict":
        return {_nested(key, tensors): _nested(entry, tensors) for key, entry in content}
    if kind == "list":
        return [_nested(entry, tensors) for entry in content]
    if kind == "tuple":
        return tuple(_nested(entry, tensors) for entry in content)
    raise ValueError(f"unknown kind {kind}")
