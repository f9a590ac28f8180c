"""Gradients at leaves of our own, also through reentrant gradient checkpointing.

``torch.utils.checkpoint`` with ``use_reentrant=True`` runs part of the network inside the backward pass. Asked by
``autograd.grad``, it refuses, or, where the parameters inside are all that is missing, lets them look unused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import TypeVar

import torch
from torch import Tensor

from alidade.core.errors import CallError, RefusedError, brief

Tensors = dict[str, Tensor]
T = TypeVar("T")
_REENTRANT = (
    "checkpoint: expected use_reentrant=False where a graph of gradients is needed, got reentrant checkpointing, "
    "which hides its parameters from autograd.grad"
)
_INDEPENDENT = "loss_fn: expected a loss that depends on the parameters, got one that none of them enters"


class OnlyOneDerivativeError(RefusedError):
    """There is no second derivative by double backward."""


class ReentrantError(OnlyOneDerivativeError):
    """The gradient must be taken by ``.backward()``; there is no second derivative."""


def gradients_of(loss: Tensor, leaves: Sequence[Tensor], create_graph: bool = False) -> list[Tensor | None]:
    """Gradients by ``autograd.grad``; None for a leaf that the loss does not use.

    Raises:
        ReentrantError: part of the network runs inside the backward pass only.
        OnlyOneDerivativeError: a graph is wanted, and a function of the network makes none of its gradient.
    """
    try:
        with _graphs_required(loss) if create_graph else nullcontext():
            found: list[Tensor | None] = list(
                torch.autograd.grad(loss, leaves, create_graph=create_graph, allow_unused=True)
            )
    except RuntimeError as error:
        if "use_reentrant" in str(error):
            raise ReentrantError(_REENTRANT) from error
        raise
    if any(gradient is None for gradient in found) and any(
        "CheckpointFunction" in node.name() for node in nodes_behind(loss)
    ):
        raise ReentrantError(_REENTRANT)
    return found


@contextmanager
def _graphs_required(loss: Tensor) -> Iterator[None]:
    """Refuse a backward pass inside which a function of somebody's own, in NumPy or a kernel, leaves the graph.

    A gradient is linear in the one that reaches the function, so it has a graph where that one has; without it second
    derivatives would silently lack everything below the function.
    """
    outside: list[str] = []

    def watch(name: str) -> Callable[..., None]:
        def look(inputs: Sequence[Tensor | None], outputs: Sequence[Tensor | None]) -> None:
            made = [gradient for gradient in inputs if gradient is not None]
            if any(g is not None and g.requires_grad for g in outputs) and not all(g.requires_grad for g in made):
                outside.append(name)

        return look

    with ExitStack() as stack:
        for node in nodes_behind(loss):
            if hasattr(node, "_forward_cls") or "CppNode" in node.name():  # torch's own raise where they have none
                stack.callback(node.register_hook(watch(node.name())).remove)
        yield
    if outside:
        raise OnlyOneDerivativeError(
            f"double backward: expected gradients that have a derivative, got that of {outside[0]}, which is computed "
            "outside of autograd; write its backward with torch operations, or take differences"
        )


def graphs_if_needed(work: Callable[[bool], T]) -> tuple[T, bool]:
    """``work(False)``; ``work(True)`` where a loss takes gradients itself, as a penalty does. And which it was."""
    try:
        return work(False), False
    except RuntimeError as error:
        if "does not require grad" not in str(error):
            raise
    return work(True), True


def gradients_through_backward(loss: Tensor, leaves: Sequence[Tensor]) -> list[Tensor | None]:
    """Gradients by ``.backward()`` onto the leaves; ``.grad`` of every other leaf of the graph is left alone."""
    with _grads_of_others_kept(loss, leaves):
        loss.backward()
    return [leaf.grad for leaf in leaves]


@contextmanager
def _grads_of_others_kept(loss: Tensor, ours: Sequence[Tensor]) -> Iterator[None]:
    own, others = set(map(id, ours)), {}
    for node in nodes_behind(loss):
        leaf = getattr(node, "variable", None)
        if leaf is not None and id(leaf) not in own:
            others[leaf] = leaf.grad
            leaf.grad = None
    try:
        yield
    finally:
        for leaf, grad in others.items():
            leaf.grad = grad


def nodes_behind(loss: Tensor) -> Iterator[torch.autograd.graph.Node]:
    """Every node of the graph behind a loss, once."""
    seen: set[torch.autograd.graph.Node] = set()
    todo = [loss.grad_fn]
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            todo += [function for function, _ in node.next_functions]
            yield node


def require_dependence(loss: Tensor, leaves: Tensors) -> Tensor:
    """The loss without its graph, which must hold one of the leaves, or what reentrant checkpointing hides.

    Raises:
        CallError: as from :func:`named_gradients`, without a backward pass.
    """
    ours = set(map(id, leaves.values()))
    if not any(
        id(getattr(n, "variable", None)) in ours or "CheckpointFunction" in n.name() for n in nodes_behind(loss)
    ):
        raise CallError(_INDEPENDENT)
    return loss.detach()


def named_gradients(
    loss: Tensor, leaves: Tensors, create_graph: bool = False, second: bool = False, accumulate: bool = False
) -> Tensors:
    """Gradients by name, zeros for a leaf that the loss does not use; a CallError where it uses none.

    ``second`` says that the loss is itself made of gradients, which may well depend on no leaf any more.
    """
    ours = list(leaves.values())
    found = gradients_through_backward(loss, ours) if accumulate else gradients_of(loss, ours, create_graph)
    if not second and all(gradient is None for gradient in found):
        raise CallError(_INDEPENDENT)
    return {
        name: torch.zeros_like(leaf) if gradient is None else gradient.to_dense() if gradient.is_sparse else gradient
        for (name, leaf), gradient in zip(leaves.items(), found, strict=True)
    }


def named_product(loss: Tensor, leaves: Tensors, v: Mapping[str, Tensor]) -> Tensors:
    """The product of the loss's Hessian with ``v``, by double backward.

    Raises:
        OnlyOneDerivativeError: a function of the network has a first derivative only.
    """
    name = once_differentiable(loss)
    if name is not None:
        raise OnlyOneDerivativeError(
            f"double backward: expected functions that have one, got {name}, which is once_differentiable; "
            "alidade.CurvatureOperator takes differences there"
        )
    first = named_gradients(loss, leaves, create_graph=True)
    inner = torch.stack([(first[name] * v[name]).sum() for name in leaves]).sum()
    return named_gradients(inner, leaves, second=True) if inner.requires_grad else zeros_like_all(leaves)


def summed(losses: Sequence[Tensor]) -> Tensor:
    """The sum, added up in float64; of one, that very one."""
    return losses[0] if len(losses) == 1 else torch.stack(list(losses)).double().sum(0).to(losses[0].dtype)


def added(parts: Iterable[Tensors]) -> list[Tensors]:
    """One entry: the sums name by name, in float64 and one after the other; of one part, that very one."""
    rest = iter(parts)
    first, sums = next(rest), None
    for part in rest:
        sums = sums or {name: tensor.double().clone() for name, tensor in first.items()}
        for name, tensor in part.items():
            sums[name] += tensor
    return [first if sums is None else {name: total.to(first[name].dtype) for name, total in sums.items()}]


def zeros_like_all(leaves: Tensors) -> Tensors:
    """Zeros of the same shapes."""
    return {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}


def check_like(parameters: Tensors, v: Mapping[str, Tensor]) -> None:
    """Refuse a dictionary that does not hold exactly one tensor of the right shape per parameter."""
    if not isinstance(v, Mapping) or not all(isinstance(tensor, Tensor) for tensor in v.values()):
        raise CallError(f"direction: expected a dict with one tensor per trainable parameter, got {brief(v)}")
    if set(v) != set(parameters):
        missing, unknown = sorted(set(parameters) - set(v)), sorted(set(v) - set(parameters))
        raise CallError(
            f"direction: expected one tensor per trainable parameter, missing {missing[:3]}, unknown {unknown[:3]}"
        )
    for name, parameter in parameters.items():
        if v[name].shape != parameter.shape:
            raise CallError(f"direction[{name!r}]: expected shape {tuple(parameter.shape)}, got {tuple(v[name].shape)}")


def once_differentiable(loss: Tensor) -> str | None:
    """The name of a function behind the loss whose gradient has no derivative of its own; None where there is none.

    Such a function raises in double backward only where the gradient that reaches it depends on the parameters; below
    layers that are all linear it makes second derivatives look like 0.
    """
    for node in nodes_behind(loss):
        function = getattr(node, "_forward_cls", None)
        backward = getattr(function, "backward", None)
        if (
            function
            and backward
            and hasattr(backward, "__wrapped__")
            and backward.__globals__.get("__name__") == "torch.autograd.function"
        ):
            return str(function.__name__)
    return None
