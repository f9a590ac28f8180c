"""The paper's second network: linear layers without anything between them, or with norms (Appendix A)."""

from __future__ import annotations

from functools import reduce

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.module import _has_any_global_hook

from alidade.core.errors import CallError
from alidade.nn.norm import norm as make_norm
from alidade.nn.weights import initialize

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class DeepLinear(nn.Module):
    """Linear layers without bias, a norm behind each: ``layers.linear1``, ``layers.norm1``, ``layers.linear2``, ...

    Without norms the network is one matrix. While nobody watches a layer, the matrices are multiplied first and
    then applied to the data once: the same function up to rounding, several times faster. A hook on any layer, or
    a layer of another type in its place, has the layers called one by one.
    """

    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (N, width) of inputs (N, width)."""
        weights = _foldable(self.layers)
        outputs: Tensor = F.linear(x, reduce(lambda product, W: W @ product, weights)) if weights else self.layers(x)
        return outputs


def deep_linear(layers: int = 25, width: int = 10, norm: str = "none", init: str = "glorot") -> DeepLinear:
    r"""The deep linear network :math:`W_k \cdots W_1 x`, drawn from torch's global random state, in float32.

    Call ``.double()`` on it for the paper's setting. Whether the paper normalizes after the last layer too is not
    said; here a norm stands behind every layer, so that with a norm the outputs have the learned mean and scale.

    Args:
        layers: k.
        width: of every layer.
        norm: see :func:`alidade.nn.norm.norm`. The norm carries the shift, the layers have no bias.
        init: "glorot" (Glorot & Bengio 2010), the paper's: uniform with variance 2 / (fan_in + fan_out), which in
            square layers keeps the activations' variance; or "he", as in :func:`alidade.nn.weights.initialize`.

    Raises:
        CallError: fewer than one layer or unit, an unknown norm or init.

    >>> network = deep_linear(layers=2, width=2, norm="l1")
    >>> [name for name, _ in network.named_parameters()][:3]
    ['layers.linear1.weight', 'layers.norm1.weight', 'layers.norm1.bias']
    """
    if layers < 1 or width < 1:
        raise CallError(f"layers, width: expected at least 1 of each, got {layers!r} and {width!r}")
    stack = nn.Sequential()
    for number in range(1, layers + 1):
        stack.add_module(f"linear{number}", nn.Linear(width, width, bias=False))
        stack.add_module(f"norm{number}", make_norm(norm, width, dims=1))
    initialize(stack, init)
    return DeepLinear(stack)


def _foldable(layers: nn.Sequential) -> list[Tensor]:
    """The matrices in order of use; none where a layer is more than a matrix or is watched."""
    if _has_any_global_hook() or _watched(layers):
        return []
    weights: list[Tensor] = []
    for layer in layers:
        if _watched(layer) or type(layer) not in (nn.Linear, nn.Identity):
            return []
        if isinstance(layer, nn.Linear):
            if layer.bias is not None:
                return []
            weights.append(layer.weight)
    return weights


def _watched(module: nn.Module) -> bool:
    """Whether somebody is to be told of the module's calls, or has replaced its ``forward``."""
    own = vars(module)
    return "forward" in own or any(own[hooks] for hooks in _HOOKS)
