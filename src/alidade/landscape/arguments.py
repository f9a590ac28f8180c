"""What a caller may hand over: models, step sizes, directions. Each refusal is one line, before anything is touched."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from alidade.core.errors import CallError, brief
from alidade.core.records import Floats

Tensors = dict[str, Tensor]


def check_model(model: Any) -> None:
    """Refuse what cannot be evaluated at other parameters.

    Raises:
        CallError: no module, a scripted one, one that waits for its first batch, complex parameters, none to train.
    """
    if not isinstance(model, nn.Module):
        raise CallError(f"model: expected a torch.nn.Module, got {brief(model)}")
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise CallError(f"model: expected plain modules, got a scripted one ({name!r}); use the one it was made of")
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if is_lazy(tensor):
            raise CallError(f"model: expected initialized parameters, got a lazy {name!r}; run one forward pass first")
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not trainable:
        raise CallError("model: expected at least one parameter with requires_grad, got none; unfreeze one")
    for name, parameter in trainable.items():
        if parameter.is_meta:
            raise CallError(f"model: expected parameters with values, got {name!r} on the meta device; load it first")
        if parameter.is_complex():
            raise CallError(
                f"model: expected real trainable parameters, got {str(parameter.dtype)[6:]} in {name!r}; "
                "keep its real and imaginary parts as parameters, or freeze it"
            )


def check_objective(value: Any) -> None:
    """Refuse what is no objective, such as the model that one is made of.

    Raises:
        CallError: it says how to make one.
    """
    if not hasattr(value, "differentiable_loss"):
        raise CallError(f"objective: expected an alidade.Objective(model, loss_fn, batch), got {brief(value)}")


def check_seed(seed: Any) -> None:
    """Refuse what cannot begin a sequence of random numbers.

    Raises:
        CallError: no whole number of 64 bits.
    """
    if not isinstance(seed, Integral) or isinstance(seed, bool) or not -(2**63) <= int(seed) < 2**63:
        raise CallError(f"seed: expected a whole number of at most 64 bits, got {brief(seed)}")


def step_sizes(values: Any) -> Floats:
    """Finite real numbers from any iterable, as an array (K,), K >= 1.

    Raises:
        CallError: anything else, such as text, complex or truth values.

    >>> step_sizes(eta / 2 for eta in (1, -1, 0))
    array([ 0.5, -0.5,  0. ])
    """
    expected = f"step_sizes: expected a non-empty list of finite numbers, got {brief(values)}"
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        raise CallError(expected)
    try:
        numbers = [value.item() if hasattr(value, "item") else value for value in values]
    except (TypeError, ValueError, RuntimeError) as error:  # a tensor without an axis, or of two
        raise CallError(expected) from error
    for number in numbers:
        if not isinstance(number, Real) or isinstance(number, bool):
            raise CallError(f"step_sizes: expected finite numbers, got {brief(number)} among them")
    try:
        etas = np.array([float(number) for number in numbers])
    except OverflowError as error:  # a whole number beyond all floats
        raise CallError(expected) from error
    if not etas.size or not np.isfinite(etas).all():
        raise CallError(expected)
    return etas


def check_tensors(parameters: Tensors, given: Any, label: str = "direction") -> None:
    """Refuse what is not exactly one tensor of the right shape, precision and device per trainable parameter.

    Raises:
        CallError: the message begins with ``label``.
    """
    if not isinstance(given, Mapping):
        raise CallError(f"{label}: expected a dict with one tensor per trainable parameter, got {brief(given)}")
    missing, unknown = [name for name in parameters if name not in given], [n for n in given if n not in parameters]
    if missing or unknown:
        raise CallError(
            f"{label}: expected one tensor per trainable parameter, missing {missing[:3]}, unknown {unknown[:3]}"
        )
    for name, parameter in parameters.items():
        tensor = given[name]
        if not isinstance(tensor, Tensor):
            raise CallError(f"{label}[{name!r}]: expected a Tensor, got {brief(tensor)}")
        if tensor.layout != torch.strided:
            raise CallError(f"{label}[{name!r}]: expected a dense Tensor, got layout {_plain(tensor.layout)}")
        for what in ("shape", "dtype", "device"):
            expected, came = getattr(parameter, what), getattr(tensor, what)
            if expected != came:
                raise CallError(f"{label}[{name!r}]: expected {what} {_plain(expected)}, got {_plain(came)}")


def check_finite(given: Mapping[str, Tensor], label: str = "direction") -> None:
    """Refuse NaN and infinities.

    Raises:
        CallError: it names the first parameter that has one.
    """
    for name, tensor in given.items():
        if not bool(torch.isfinite(tensor).all()):
            raise CallError(f"{label}[{name!r}]: expected finite numbers, got NaN or infinities among them")


def is_whole(value: Any) -> bool:
    """Whether it is a whole number, of Python or NumPy, and no truth value.

    >>> is_whole(3), is_whole(np.int64(3)), is_whole(3.0), is_whole(True)
    (True, True, False, False)
    """
    return isinstance(value, Integral) and not isinstance(value, bool)


def _plain(value: Any) -> str:
    return str(tuple(value)) if isinstance(value, torch.Size) else str(value).removeprefix("torch.")
