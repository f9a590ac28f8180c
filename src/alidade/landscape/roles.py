"""What a parameter is in its layer: the weights of filters, a bias, or a scale."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from torch import Tensor, nn

from alidade.landscape.isolation import public_name

Role = Literal["weight", "bias", "scale"]

_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
_NAMED_NORM = ("norm", "norm1d", "norm2d", "norm3d")


def roles(model: nn.Module) -> dict[str, Role]:
    """The role of every parameter by public name.

    * "bias": what is called so, or ends in it, of any shape.
    * "scale": the gain of weight normalization (one magnitude per filter, shaped to broadcast over the weight), what
      else a normalization layer owns, whatever its shape, and all other parameters of fewer than two dimensions. A
      normalization layer is one of torch's, a module that keeps a running mean, or one whose class is called so.
    * "weight": the others.

    >>> normed = nn.utils.parametrizations.weight_norm(nn.Linear(2, 3))
    >>> roles(nn.Sequential(normed, nn.LayerNorm([3, 2])))["0.parametrizations.weight.original0"]
    'scale'
    """
    named = {public_name(name): parameter for name, parameter in model.named_parameters()}
    norms = {public_name(name) for name, module in model.named_modules() if _is_norm(module)}
    return {name: _role(name, parameter, named, norms) for name, parameter in named.items()}


def own_name(name: str) -> str:
    """What its module calls a parameter; the parts of a parametrization go by what they shape.

    >>> own_name("body.0.weight"), own_name("0.parametrizations.weight.original1")
    ('weight', 'weight')
    """
    _, parametrized, inside = f".{name}".partition(".parametrizations.")
    return inside.partition(".")[0] if parametrized else name.rpartition(".")[2]


def _role(name: str, parameter: Tensor, named: Mapping[str, Tensor], norms: set[str]) -> Role:
    own = own_name(name)
    if own.startswith("bias") or own.endswith("bias"):
        return "bias"
    gain = own == "weight_g" or (name.endswith(".original0") and f"{name[:-1]}1" in named)
    return "scale" if parameter.ndim < 2 or gain or name.rpartition(".")[0] in norms else "weight"


def _is_norm(module: nn.Module) -> bool:
    if isinstance(module, _NORMS) or module._buffers.get("running_mean") is not None:
        return True
    return type(module).__name__.lower().endswith(_NAMED_NORM)
