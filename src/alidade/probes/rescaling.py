"""The same function with other weights: what a normalization layer divides out again, multiplied by a factor."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import Any

from torch import Tensor, nn

from alidade.core.errors import CallError, brief
from alidade.landscape.isolation import public_name
from alidade.landscape.objective import Objective

_LINEAR = (nn.Linear, nn.modules.conv._ConvNd)
_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


def rescaled(objective: Objective, factor: float) -> Objective:
    r"""The objective where weights and biases directly before a norm are multiplied by ``factor``.

    A norm layer satisfies :math:`\mathrm{norm}(c\,y) = \mathrm{norm}(y)` for c > 0 up to its eps, so the loss at the
    new point is that at the old one. With respect to these weights the gradient is divided by c and the Hessian by
    :math:`c^2` (van Laarhoven 2017, eq. 4): a contrast in raw units can be made by scaling weights.

    Args:
        objective: any model in which the output of a linear layer or a convolution is the input of a norm: one of
            torch's (batch, instance, group, layer, RMS), or any module that keeps a running mean.
        factor: above 0.

    Raises:
        CallError: a factor that is not above 0; no linear layer or convolution that is followed by a norm.

    Cost: one forward pass.

    >>> import torch
    >>> _ = torch.manual_seed(0)
    >>> model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 1)).double()
    >>> x = torch.randn(16, 3, dtype=torch.float64)
    >>> objective = Objective(model, lambda model, x: model(x).square().mean(), x)
    >>> large = rescaled(objective, 4.0)
    >>> abs(float(large.value() / objective.value()) - 1) < 1e-3
    True
    >>> smaller = objective.gradient()["0.weight"].norm() / large.gradient()["0.weight"].norm()
    >>> round(float(smaller), 2)
    4.0
    """
    if not factor > 0:
        raise CallError(f"factor: expected a number above 0, got {brief(factor)}")
    scaled = {f"{layer}.{name}" for layer in normalized_layers(objective) for name in ("weight", "bias")}
    at = {name: factor * p if name in scaled else p.clone() for name, p in objective.parameters.items()}
    return objective.moved_to(at)


def normalized_layers(objective: Objective) -> tuple[str, ...]:
    """Names of the linear layers and convolutions whose output a norm takes as it is, as one forward pass shows.

    Raises:
        CallError: there is none.
    """
    found = dict.fromkeys(name for names in objective.inspect(partial(_observed, objective)) for name in names)
    if not found:
        raise CallError("model: expected a linear layer or convolution directly before a norm, found none")
    return tuple(found)


def _observed(objective: Objective, model: nn.Module, batch: Any) -> list[str]:
    made_by: dict[int, tuple[str, Tensor]] = {}  # the tensor is kept, so that its id stays its own
    fed: list[str] = []

    def note_output(name: str, output: Any) -> None:
        made_by[id(output)] = (public_name(name), output)

    def note_input(inputs: Any) -> None:
        if inputs and id(inputs[0]) in made_by:
            fed.append(made_by[id(inputs[0])][0])

    with ExitStack() as stack:
        for name, module in model.named_modules():
            if isinstance(module, _LINEAR):
                hook = module.register_forward_hook(lambda module, inputs, output, n=name: note_output(n, output))
                stack.callback(hook.remove)
            elif isinstance(module, _NORMS) or module._buffers.get("running_mean") is not None:
                stack.callback(module.register_forward_pre_hook(lambda module, inputs: note_input(inputs)).remove)
        objective.loss_fn(model, batch)
    return fed
