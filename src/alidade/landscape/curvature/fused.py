"""Operations whose second derivative torch takes apart into many more than it needs, exchanged for fused ones.

Forward passes and first derivatives are those of torch's own kernels, to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from alidade.landscape.curvature.batch_norm import fused_batch_norm
from alidade.landscape.curvature.convolution import fused_convolution

_FUSED: dict[Any, Callable[..., Tensor | None]] = {
    F.batch_norm: fused_batch_norm,
    **dict.fromkeys((torch.conv1d, torch.conv2d, torch.conv3d), fused_convolution),
}


class FusedOperations(TorchFunctionMode):
    """Inside, on a CPU, convolutions and batch normalization with batch statistics are fused ones where they apply."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Exchange the operation; pass on all others, and it, too, in cases that the fused one cannot do."""
        options = kwargs or {}
        found = _FUSED[func](*args, **options) if func in _FUSED and _simple(*args, *options.values()) else None
        return func(*args, **options) if found is None else found


def _simple(*arguments: Any) -> bool:
    tensors = [argument for argument in arguments if isinstance(argument, Tensor)]
    alike = len({t.dtype for t in tensors}) == 1 and tensors[0].dtype in (torch.float32, torch.float64)
    plain = all(type(t) in (Tensor, torch.nn.Parameter) and t.device.type == "cpu" for t in tensors)
    wrapped = torch._C._functorch.maybe_current_level() is not None  # type: ignore[attr-defined]
    # Checkpointing runs this again in the backward pass, where no function mode is, and must save the same tensors.
    wrapped = wrapped or torch._C._autograd._top_saved_tensors_default_hooks(True) is not None
    return alike and plain and not wrapped and not torch.is_autocast_enabled("cpu")
