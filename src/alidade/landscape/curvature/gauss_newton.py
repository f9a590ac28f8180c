r"""Products with the Gauss-Newton matrix :math:`J^\top \nabla^2_f C\, J` of outputs f and criterion C."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from alidade.core.errors import CallError
from alidade.landscape.conditions import Part
from alidade.landscape.curvature.fused import FusedOperations
from alidade.landscape.curvature.routes import Route, gradients_along, require_second_derivative
from alidade.landscape.differentiation import Tensors, gradients_of, zeros_like_all
from alidade.landscape.loss import as_scalar
from alidade.landscape.objective import Objective


class GaussNewton(Route):
    r"""The graph of the outputs is kept, and that of :math:`u \mapsto J^\top u`, whose derivative is J (twice reverse).

    The criterion's second derivative is exact; for a convex criterion the matrix has no negative eigenvalue. It is
    the Hessian without the curvature of the network itself (Schraudolph 2002).
    """

    keeps = True

    def __init__(self, objective: Objective, part: Part, point: Tensors, names: Sequence[str]) -> None:
        super().__init__(objective, part, point, names)
        with self.conditions() as run, FusedOperations():
            run(self.leaves, self._build)

    @staticmethod
    def check(objective: Objective, route: str) -> None:
        """Refuse an objective whose outputs are not known, and a route other than this one."""
        if objective.pair is None:
            raise CallError(
                "gauss_newton: expected an objective made with (forward, criterion), got a single loss_fn; "
                "pass the pair, so that the outputs are known"
            )
        if route != "auto":
            raise CallError(f"route: expected 'auto' for the Gauss-Newton matrix, which has one route, got {route!r}")

    def _build(self, model: nn.Module) -> None:
        forward, criterion = self.objective.pair or (None, None)
        batch = self.part.supply.fresh()
        outputs, structure = pytree.tree_flatten(forward(model, batch))
        self._outputs = [o for o in outputs if isinstance(o, Tensor) and o.requires_grad]
        if not self._outputs:
            raise CallError("forward: expected outputs that depend on the parameters, got none")
        for output in self._outputs:
            require_second_derivative(output)
        self._dummies = [torch.zeros_like(o, requires_grad=True) for o in self._outputs]
        self._pulled = self._pull_back()
        self._ends = [o.detach().requires_grad_() for o in self._outputs]
        loss = self.part.weight * as_scalar(criterion(pytree.tree_unflatten(self._replaced(outputs), structure), batch))
        if not loss.requires_grad:
            raise CallError("criterion: expected a loss that depends on the outputs, got a detached Tensor")
        first = torch.autograd.grad(loss, self._ends, create_graph=True, allow_unused=True)
        self._first = [(g, end) for g, end in zip(first, self._ends, strict=True) if g is not None]
        self.value = loss.detach()
        used = [(o, g.detach()) for o, g in zip(self._outputs, first, strict=True) if g is not None]
        outs, weights = [o for o, _ in used], [g for _, g in used]
        self.gradient = gradients_along(outs, self.block, weights, retain_graph=True)

    def _pull_back(self) -> Tensors:
        """The gradient of <dummies, outputs>, with its graph, where it depends on the dummies."""
        inner = [(o * dummy).sum() for o, dummy in zip(self._outputs, self._dummies, strict=True)]
        pulled = gradients_of(torch.stack(inner).sum(), list(self.block.values()), create_graph=True)
        return {n: g for n, g in zip(self.names, pulled, strict=True) if g is not None and g.requires_grad}

    def _replaced(self, outputs: list[Any]) -> list[Any]:
        ends = iter(self._ends)
        return [next(ends) if isinstance(o, Tensor) and o.requires_grad else o for o in outputs]

    def product(self, v: Tensors) -> Tensors:
        """Three backward passes: through the graph of the pull-back, the criterion's, and the network's."""
        with self.conditions() as run:
            found = run(self.leaves, lambda model: self._product(v))
        return {name: gradient.detach() for name, gradient in found.items()}

    def _product(self, v: Tensors) -> Tensors:
        named = {str(i): dummy for i, dummy in enumerate(self._dummies)}
        vectors = [v[name] for name in self._pulled]
        pushed = list(gradients_along(list(self._pulled.values()), named, vectors, retain_graph=True).values())
        curved = self._curved(pushed)
        if curved is None:
            return zeros_like_all(self.block)
        return gradients_along(self._outputs, self.block, curved, retain_graph=True)

    def _curved(self, pushed: list[Tensor]) -> list[Tensor] | None:
        """The criterion's Hessian times ``pushed``; None where the criterion is linear."""
        graph = [(g, p) for (g, _), p in zip(self._first, self._matching(pushed), strict=True) if g.requires_grad]
        if not graph:
            return None
        named = {str(i): end for i, end in enumerate(self._ends)}
        return list(gradients_along([g for g, _ in graph], named, [p for _, p in graph], retain_graph=True).values())

    def _matching(self, pushed: list[Tensor]) -> list[Tensor]:
        by_end = {id(end): p for end, p in zip(self._ends, pushed, strict=True)}
        return [by_end[id(end)] for _, end in self._first]


class RebuiltGaussNewton(GaussNewton):
    """The same with graphs that live for one product, for several (micro-)batches."""

    keeps = False

    def __init__(self, objective: Objective, part: Part, point: Tensors, names: Sequence[str]) -> None:
        Route.__init__(self, objective, part, point, names)

    def product(self, v: Tensors) -> Tensors:
        """One forward and two backward passes, and the three backward passes of a product."""
        with self.conditions() as run, FusedOperations():
            found = run(self.leaves, lambda model: self._at_once(model, v))
        self.value = self.gradient = None  # of a graph that is gone
        return {name: gradient.detach() for name, gradient in found.items()}

    def _at_once(self, model: nn.Module, v: Tensors) -> Tensors:
        self._build(model)
        try:
            return self._product(v)
        finally:
            self._outputs, self._dummies, self._ends, self._pulled, self._first = [], [], [], {}, []
