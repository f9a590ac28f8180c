"""Weight normalization with a right second derivative.

torch's fused kernel (up to 2.13 at least) has a wrong one: on a small network in float64 a product with the Hessian
was 14 % off, where the same formula from plain operations agrees with central differences to ten digits.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class PlainWeightNorm(TorchFunctionMode):
    """Inside, weight normalization is computed with plain operations."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Replace the one function; pass on all others."""
        if func is torch._weight_norm:
            return _plain(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _plain(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    norms: Tensor = torch.norm_except_dim(v, 2, dim)
    return v * (g / norms)
