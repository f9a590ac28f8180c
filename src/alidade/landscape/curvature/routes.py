"""Four routes to a product of the Hessian with a vector, for one (micro-)batch.

Each is built at fixed parameters and called with vectors, as dictionaries by parameter name:

* kept: double backward through one graph that is kept. One forward and backward pass at the start, then each
  product is one backward pass through the graph of the gradient.
* rebuilt: the same with a new graph for each product; no memory is held between products.
* forward_over_reverse: ``jvp(grad(f))`` of torch.func. (``jvp(jacrev(f))`` is wrong by percents through norms.)
* difference: central differences of the gradient at two step lengths, which are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from alidade.core.errors import RefusedError
from alidade.landscape.conditions import Part
from alidade.landscape.curvature.fused import FusedOperations
from alidade.landscape.differentiation import (
    ReentrantError,
    Tensors,
    named_gradients,
    once_differentiable,
    zeros_like_all,
)
from alidade.landscape.objective import Objective
from alidade.landscape.weight_norm import PlainWeightNorm

Run = Callable[[Tensors, Callable[[nn.Module], Any]], Any]


class RouteError(RefusedError):
    """One route cannot be gone; another one may."""


class Route:
    """Products for one part of an objective, at ``point``, with respect to the parameters ``names``.

    ``value`` and ``gradient`` are the part's loss and gradient where a graph gave them for nothing.
    """

    value: Tensor | None = None
    gradient: Tensors | None = None
    keeps = False  # whether a graph of the part stays between products

    def __init__(self, objective: Objective, part: Part, point: Tensors, names: Sequence[str]) -> None:
        self.objective, self.part, self.names = objective, part, tuple(names)
        # Parameters of our own, which no optimizer moves while a graph hangs on them.
        self.leaves: Tensors = {name: nn.Parameter(value.detach().clone()) for name, value in point.items()}

    @property
    def block(self) -> Tensors:
        """The leaves that are differentiated."""
        return {name: self.leaves[name] for name in self.names}

    @contextmanager
    def conditions(self) -> Iterator[Run]:
        """The part's conditions, with attention and weight norms that have a second derivative."""
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            stack.enter_context(PlainWeightNorm())
            yield stack.enter_context(self.objective.conditions_of(self.part))

    def loss(self, model: nn.Module) -> Tensor:
        """The part's loss with its graph."""
        return self.objective.differentiable_loss(model, self.part)

    def product(self, v: Tensors) -> Tensors:
        """H v."""
        raise NotImplementedError


class Kept(Route):
    """Double backward with the graph of the gradient kept."""

    keeps = True

    def __init__(self, objective: Objective, part: Part, point: Tensors, names: Sequence[str]) -> None:
        super().__init__(objective, part, point, names)
        with self.conditions() as run, FusedOperations():
            self.value, self.gradient, self._graph = run(self.leaves, self._build)

    def _build(self, model: nn.Module) -> tuple[Tensor, Tensors, Tensors]:
        loss = self.loss(model)
        require_second_derivative(loss)
        whole = len(self.names) == len(self.leaves)
        first = named_gradients(loss, self.block, create_graph=True, second=not whole)
        graph = {name: gradient for name, gradient in first.items() if gradient.requires_grad}
        return loss.detach(), {name: gradient.detach() for name, gradient in first.items()}, graph

    def product(self, v: Tensors) -> Tensors:
        """One backward pass through the graph."""
        if not self._graph:  # a loss that is linear in the parameters
            return zeros_like_all(self.block)
        with self.conditions() as run:  # checkpointed layers run again here
            found = run(self.leaves, lambda model: self._backward(v))
        return {name: gradient.detach() for name, gradient in found.items()}

    def _backward(self, v: Tensors) -> Tensors:
        vectors = [v[name] for name in self._graph]
        return gradients_along(list(self._graph.values()), self.block, vectors, retain_graph=True)


class Rebuilt(Kept):
    """Double backward with a graph that lives for one product, and for one replay of the part's conditions.

    So it works, too, where a forward pass changes its batch in place: outside of the conditions that is undone.
    """

    keeps = False

    def __init__(self, objective: Objective, part: Part, point: Tensors, names: Sequence[str]) -> None:
        Route.__init__(self, objective, part, point, names)

    def product(self, v: Tensors) -> Tensors:
        """One forward and backward pass, and one backward pass through their graph."""
        with self.conditions() as run, FusedOperations():
            found = run(self.leaves, lambda model: self._at_once(model, v))
        return {name: gradient.detach() for name, gradient in found.items()}

    def _at_once(self, model: nn.Module, v: Tensors) -> Tensors:
        _, _, self._graph = self._build(model)
        try:
            return self._backward(v) if self._graph else zeros_like_all(self.block)
        finally:
            self._graph = {}


class ForwardOverReverse(Route):
    """``jvp(grad(f))``: a forward-mode derivative of the gradient.

    Under the transforms of torch.func some models compute something else: they draw other dropout masks in attention,
    or make new parameters from the tensors that stand in for theirs. So the first product's gradient is compared with
    the one of a plain backward pass.

    Raises:
        RouteError: these two differ.
    """

    _checked = False

    def product(self, v: Tensors) -> Tensors:
        """One forward and backward pass with tangents; at the first product one more of each."""
        others = {name: leaf.detach() for name, leaf in self.leaves.items() if name not in self.names}
        at = {name: leaf.detach() for name, leaf in self.block.items()}
        with self.conditions() as run:

            def loss_at(block: Tensors) -> Tensor:
                found: Tensor = run(block | others, self.loss)
                return found

            gradient, tangent, *_ = torch.func.jvp(torch.func.grad(loss_at), (at,), (dict(v),))
        if not self._checked:
            self._check({name: value.detach() for name, value in gradient.items()})
        return {name: value.detach() for name, value in tangent.items()}

    def _check(self, gradient: Tensors) -> None:
        with self.conditions() as run:
            plain = run(self.leaves, lambda model: named_gradients(self.loss(model), self.block, second=True))
        gap = _norm({name: plain[name].detach() - gradient[name] for name in plain})
        eps = max(torch.finfo(leaf.dtype).eps for leaf in self.block.values())
        if not gap <= eps**0.5 * _norm(plain):
            raise RouteError(
                "forward_over_reverse: expected the gradient of a plain backward pass, got one that differs by "
                f"{gap / max(_norm(plain), 1e-300):.2g}; under torch.func this model computes something else"
            )
        self._checked = True


class Difference(Route):
    r"""Central differences :math:`(g(\theta + hv) - g(\theta - hv)) / 2h` at two step lengths h and 2h.

    The shorter one is the result. Across kinks of ReLU and max pooling the two disagree, by factors, and neither
    is the Hessian almost everywhere.
    """

    def __init__(self, objective: Objective, part: Part, point: Tensors, names: Sequence[str]) -> None:
        super().__init__(objective, part, point, names)
        self.disagreement = 0.0  # largest relative distance between the two results so far

    def product(self, v: Tensors) -> Tensors:
        """Four forward and backward passes."""
        length = _norm(v)
        if length == 0:
            return zeros_like_all({name: leaf.detach() for name, leaf in self.block.items()})
        step = self._step() / length
        short, long = self._difference(v, step), self._difference(v, 2 * step)
        gap = _norm({name: short[name] - long[name] for name in short})
        size = max(_norm(short), _norm(long))
        self.disagreement = max(self.disagreement, gap / size if size > 0 else 0.0)
        return short

    def _step(self) -> float:
        """Rounding falls and curvature's change grows with the step: the cube root of the precision is between."""
        eps = max(torch.finfo(leaf.dtype).eps for leaf in self.block.values())
        return float(eps ** (1 / 3) * max(1.0, _norm(self.block)) / 4)

    def _difference(self, v: Tensors, step: float) -> Tensors:
        ahead, behind = self._gradient(v, step), self._gradient(v, -step)
        return {name: (ahead[name] - behind[name]) / (2 * step) for name in ahead}

    def _gradient(self, v: Tensors, step: float) -> Tensors:
        moved: Tensors = {
            name: nn.Parameter(torch.add(leaf.detach(), v[name], alpha=step) if name in v else leaf.detach().clone())
            for name, leaf in self.leaves.items()
        }
        block = {name: moved[name] for name in self.names}
        try:
            return self._gradients(moved, block, accumulate=False)
        except ReentrantError:
            return self._gradients(moved, block, accumulate=True)

    def _gradients(self, moved: Tensors, block: Tensors, accumulate: bool) -> Tensors:
        with self.conditions() as run:
            found: Tensors = run(
                moved, lambda model: named_gradients(self.loss(model), block, second=True, accumulate=accumulate)
            )
        return {name: gradient.detach() for name, gradient in found.items()}


class Wandering:
    """One route that goes from part to part, for routes that keep nothing of a part: memory holds one batch."""

    def __init__(self, route: Route, parts: Sequence[Part]) -> None:
        self._route, self._parts = route, parts

    def __iter__(self) -> Iterator[Route]:
        for part in self._parts:
            self._route.part = part
            yield self._route


def routes_of(kind: type[Route], objective: Objective, point: Tensors, names: Sequence[str]) -> Iterable[Route]:
    """A route of this kind to the product for each part."""
    if len(objective.parts) > 1 and not kind.keeps:
        return Wandering(kind(objective, objective.parts[0], point, names), objective.parts)
    return [kind(objective, part, point, names) for part in objective.parts]


def require_second_derivative(loss: Tensor) -> None:
    """Refuse double backward through functions whose authors wrote one derivative only.

    Raises:
        RouteError: with the function's name.
    """
    name = once_differentiable(loss)
    if name is not None:
        raise RouteError(f"double backward: expected functions that have one, got {name}, which is once_differentiable")


def gradients_along(
    outputs: Sequence[Tensor], inputs: Tensors, weights: Sequence[Tensor], retain_graph: bool = False
) -> Tensors:
    """Gradients by name of the weighted sum of ``outputs``; zeros where nothing depends on an input."""
    found = torch.autograd.grad(outputs, list(inputs.values()), weights, retain_graph=retain_graph, allow_unused=True)
    return {
        name: torch.zeros_like(leaf) if gradient is None else gradient.to_dense() if gradient.is_sparse else gradient
        for (name, leaf), gradient in zip(inputs.items(), found, strict=True)
    }


def _norm(tensors: Tensors) -> float:
    return float(torch.stack([torch.linalg.vector_norm(t.detach().double()) for t in tensors.values()]).norm())
