"""Parameters as one vector: all of them, or the block of some layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from alidade.core.errors import CallError
from alidade.landscape.differentiation import Tensors, check_like


class Block:
    """Some of the parameters in the order of the model, and where each lies in the flat vector.

    Args:
        parameters: all trainable ones by name.
        names: of parameters, or of modules, which stand for all parameters inside them. None is every parameter.

    Raises:
        CallError: a name that no parameter answers to; parameters on several devices.

    >>> block = Block({"a.weight": torch.ones(2, 2), "a.bias": torch.zeros(2), "b.weight": torch.ones(1)}, ["a"])
    >>> block.names, block.dimension
    (('a.weight', 'a.bias'), 6)
    """

    def __init__(self, parameters: Tensors, names: Sequence[str] | None = None) -> None:
        chosen = dict(parameters) if names is None else _chosen(parameters, names)
        if len({p.device for p in chosen.values()}) > 1:
            raise CallError("model: expected its parameters on one device, got several; name a block with names=[...]")
        self.parameters = chosen
        self.names = tuple(chosen)
        self.whole = len(chosen) == len(parameters)
        first = next(iter(chosen.values()))
        self.device = first.device
        kinds = {p.dtype for p in chosen.values()}
        #: Vectors are at least float32: half precision has no digits to orthogonalize with.
        self.dtype = torch.float64 if torch.float64 in kinds else torch.float32
        self._sizes = [p.numel() for p in chosen.values()]
        self.dimension = sum(self._sizes)

    def flat(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The block's tensors as one vector."""
        return torch.cat([tensors[name].detach().reshape(-1).to(self.dtype) for name in self.names])

    def named(self, vector: Tensor) -> Tensors:
        """The vector as tensors by parameter name, in the parameters' own shapes and precision."""
        parts = vector.split(self._sizes)
        return {
            name: part.view(p.shape).to(p.dtype) for (name, p), part in zip(self.parameters.items(), parts, strict=True)
        }

    def checked(self, v: Mapping[str, Tensor]) -> Tensor:
        """The vector of a dictionary with exactly one tensor of the right shape per parameter of the block."""
        check_like(self.parameters, v)
        return self.flat(v).to(self.device)


def _chosen(parameters: Tensors, names: Sequence[str]) -> Tensors:
    if isinstance(names, str):
        raise CallError(f"names: expected a list of names, got the string {names!r}")
    for name in names:
        if not any(_answers(parameter, name) for parameter in parameters):
            raise CallError(f"names: expected trainable parameters or modules that own some, got {name!r}")
    chosen = {key: p for key, p in parameters.items() if any(_answers(key, name) for name in names)}
    if not chosen:
        raise CallError("names: expected at least one name, got an empty list")
    return chosen


def _answers(parameter: str, name: str) -> bool:
    return parameter == name or parameter.startswith(f"{name}.")
