"""Small networks as one vector: one operation instead of one per parameter."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

#: Networks with more parameters than this gain nothing and would pay with memory.
MOST_ELEMENTS = 1 << 20
#: Each parameter begins at a multiple of this many bytes, as if it had been allocated alone: kernels round alike.
ALIGNMENT = 64


class Layout:
    """Where each parameter lies in the vector; the gaps between them stay 0."""

    def __init__(self, like: Mapping[str, Tensor]) -> None:
        first = next(iter(like.values()))
        self.dtype, self.device = first.dtype, first.device
        step = ALIGNMENT // first.element_size()
        self._shapes = {name: tensor.shape for name, tensor in like.items()}
        self._sizes: list[int] = []
        for tensor in like.values():
            self._sizes += [tensor.numel(), -tensor.numel() % step]

    @staticmethod
    def fits(like: Mapping[str, Tensor]) -> bool:
        """Whether the elements are few enough, and of one dtype on one device."""
        kinds = {(tensor.dtype, tensor.device) for tensor in like.values()}
        return sum(tensor.numel() for tensor in like.values()) <= MOST_ELEMENTS and len(kinds) == 1

    def pack(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The tensors as one vector, in their own precision."""
        dtype = next(iter(tensors.values())).dtype
        vector = torch.zeros(sum(self._sizes), dtype=dtype, device=self.device)
        for name, view in self.views(vector).items():
            view.copy_(tensors[name].expand(self._shapes[name]))
        return vector

    def views(self, vector: Tensor) -> dict[str, Tensor]:
        """The parameters in a vector, sharing its storage."""
        parts = vector.split(self._sizes)[::2]
        return {name: part.view(shape) for (name, shape), part in zip(self._shapes.items(), parts, strict=True)}
