"""The Hessian or the Gauss-Newton matrix of an objective as a linear operator on flat vectors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import chain
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor

from alidade.core.errors import AlidadeError, CallError, RefusedError, brief
from alidade.core.records import Provenance
from alidade.landscape.arguments import check_objective
from alidade.landscape.curvature.block import Block
from alidade.landscape.curvature.gauss_newton import GaussNewton, RebuiltGaussNewton
from alidade.landscape.curvature.routes import (
    Difference,
    ForwardOverReverse,
    Kept,
    Rebuilt,
    Route,
    RouteError,
    routes_of,
)
from alidade.landscape.differentiation import OnlyOneDerivativeError, Tensors, added, summed
from alidade.landscape.objective import Objective

RouteName = Literal["auto", "kept", "rebuilt", "forward_over_reverse", "difference"]
Matrix = Literal["hessian", "gauss_newton"]
CHOICES: tuple[RouteName, ...] = get_args(RouteName)
ROUTES: dict[str, type[Route]] = {
    "kept": Kept, "rebuilt": Rebuilt, "forward_over_reverse": ForwardOverReverse, "difference": Difference,
    "gauss_newton": GaussNewton, "gauss_newton_rebuilt": RebuiltGaussNewton,
}  # fmt: skip

#: |u'Hv - v'Hu| that products may leave, relative to |u'Hv|; times the precision where that is more (half precision).
ASYMMETRY, ASYMMETRIC_ROUNDINGS = 1e-3, 16.0
#: Two step lengths whose differences are farther apart than this, relatively, did not measure one matrix.
MOST_DISAGREEMENT = 0.05


class SymmetricOperator(Protocol):
    """What the solvers need: a symmetric matrix that can be multiplied with a vector."""

    dimension: int
    matvecs: int
    block: Block

    def matvec(self, vector: Tensor) -> Tensor:
        """The product with a flat vector of the block."""

    @property
    def route(self) -> str:
        """How products are taken."""

    @property
    def problem(self) -> str | None:
        """What is wrong with the products so far, in words; None if nothing."""

    @property
    def provenance(self) -> Provenance:
        """Under which conditions the products were taken."""

    def gradient(self) -> Tensor | None:
        """The gradient where it is known without another pass: a good place to begin a search."""

    def repeated(self) -> AbstractContextManager[None]:
        """For many products: inside, nothing but these may touch the model."""


class CurvatureOperator:
    r"""Products with :math:`\nabla^2 L(\theta)`, or with the Gauss-Newton matrix, where the objective stands now.

    The parameters are copied at the first product: later training does not move the operator. With several
    (micro-)batches the products are added up in float64.

    Args:
        objective: one with (forward, criterion) for the Gauss-Newton matrix.
        names: parameters or modules, for the diagonal block of these alone; None is the whole matrix.
        route: "kept" (double backward, graph kept), "rebuilt" (a graph per product), "forward_over_reverse"
            (``jvp(grad)``), "difference" (central differences). "auto" keeps the graph of a single batch and rebuilds
            those of several; where memory runs out it rebuilds, where double backward is missing it takes
            ``jvp(grad)``, and differences where that is missing, too.
        matrix: "hessian" or "gauss_newton" (which has one route of its own).

    Raises:
        CallError: an unknown route, matrix or name; a Gauss-Newton matrix of an objective without the pair.
        RefusedError: from a product, where the loss or the product is not finite.

    Cost per product, in forward and backward passes: kept and Gauss-Newton about 2 (and 2 at the start), rebuilt 3
    to 4, forward_over_reverse 3 to 4.5, difference 4.5.

    >>> from torch import nn
    >>> model = nn.Linear(2, 1, bias=False).double()
    >>> stretch = torch.diag(torch.tensor([2.0, 1.0])).double()
    >>> operator = CurvatureOperator(Objective(model, lambda model, x: model(x).square().sum() / 2, stretch))
    >>> operator.dimension, operator.matvec(torch.tensor([1.0, 1.0]).double()).tolist(), operator.route
    (2, [4.0, 1.0], 'kept')
    """

    def __init__(
        self,
        objective: Objective,
        names: Sequence[str] | None = None,
        route: RouteName = "auto",
        matrix: Matrix = "hessian",
    ) -> None:
        check_objective(objective)
        if matrix not in ("hessian", "gauss_newton"):
            raise CallError(f"matrix: expected 'hessian' or 'gauss_newton', got {matrix!r}")
        if route not in CHOICES:
            raise CallError(f"route: expected 'auto' or one of {', '.join(CHOICES[1:])}, got {route!r}")
        if matrix == "gauss_newton" and (route != "auto" or objective.pair is None):
            GaussNewton.check(objective, route)
        self.objective, self.matrix = objective, matrix
        self.block = Block(objective.parameters, names)
        self.dimension = self.block.dimension
        self.matvecs = 0
        # One process may have more micro-batches than another: all of them go the same way.
        parts = max(objective.ranks.gathered(lambda: len(objective.parts)))
        self._plan = _plan(matrix, route, parts)
        self._routes: Iterable[Route] | None = None
        self._disagreement = 0.0

    @property
    def route(self) -> str:
        """The route in use; after a fall back no longer the one that was asked for."""
        return self._plan[0]

    @property
    def problem(self) -> str | None:
        """None, or that finite differences at two step lengths disagree."""
        if self._disagreement <= MOST_DISAGREEMENT:
            return None
        return f"differences at two step lengths disagree by {self._disagreement:.2g}"

    @property
    def provenance(self) -> Provenance:
        """Statistics mode, precision and batch size of the objective."""
        return self.objective.provenance()

    def product(self, v: Mapping[str, Tensor]) -> Tensors:
        """The product with a vector given as one tensor per parameter of the block."""
        return self.block.named(self.matvec(self.block.checked(v)))

    def matvec(self, vector: Tensor) -> Tensor:
        """The product with a flat vector of ``dimension`` numbers.

        Raises:
            RefusedError: it is not finite.
        """
        if not isinstance(vector, Tensor) or vector.shape != (self.dimension,):
            raise CallError(f"vector: expected a Tensor of {self.dimension} numbers, got {brief(vector)}")
        with torch.inference_mode(False):  # a clone of an inference tensor made here is none
            v = vector.clone() if vector.is_inference() else vector.detach()
            found = self._attempt(self.block.named(v))
        self.matvecs += 1
        if not bool(torch.isfinite(found).all()):
            raise RefusedError(
                f"{self.matrix}: expected a finite product, got NaN or infinity at product {self.matvecs}; "
                "loss or gradient overflow here, so measure earlier in training or in float64"
            )
        return found

    def gradient(self) -> Tensor | None:
        """The block of the gradient as a flat vector, where the first product's graph gave it for nothing."""
        self._attempt(None)
        known = [route.gradient for route in self._routes or () if route.gradient is not None]
        return self._mean(lambda: [self.block.flat(gradient) for gradient in known]) if known else None

    def repeated(self) -> AbstractContextManager[None]:
        """That of the objective: what products are to leave alone is looked up once."""
        return self.objective.repeated()

    def _attempt(self, v: Tensors | None) -> Tensor:
        """A product, or with None only the preparation; on the next route of the plan where one cannot be gone."""
        first: Exception | None = None
        while True:
            try:
                return self._go(v)
            except (RuntimeError, NotImplementedError) as error:
                stays = isinstance(error, AlidadeError) and not isinstance(error, OnlyOneDerivativeError | RouteError)
                if stays or len(self._plan) == 1:
                    raise (first or error) from None
                first = first or error
            self._routes = None
            self._plan = self._plan[1:]

    def _go(self, v: Tensors | None) -> Tensor:
        if self._routes is None:
            point, kind = self.objective.parameters, ROUTES[self.route]
            self._routes = self.objective.ranks.agreed(lambda: routes_of(kind, self.objective, point, self.block.names))
            self._confirm(self._routes)
        if v is None:
            return torch.empty(0)
        routes = self._routes
        found = self._mean(lambda: (self.block.flat(route.product(v)) for route in routes))
        if self.route == "difference":
            gaps = [route.disagreement for route in routes if isinstance(route, Difference)]
            self._disagreement = max([self._disagreement, *chain(*self.objective.ranks.gathered(lambda: gaps))])
        return found

    def _confirm(self, routes: Iterable[Route]) -> None:
        """The objective's own check; the loss of a graph that was just made saves it one forward pass."""
        values = [route.value for route in routes if route.value is not None]
        if values:
            (value,) = self.objective.ranks.mean(lambda: [summed(values)])
            if not math.isfinite(float(value)):
                raise RefusedError(f"objective: expected a finite loss, got {float(value)}; there is no curvature here")
            self.objective.confirm(value, differentiated=True)
        else:
            self.objective.confirm(None)

    def _mean(self, parts: Callable[[], Iterable[Tensor]]) -> Tensor:
        """The sum over the micro-batches, and its mean over the processes."""

        def local() -> list[Tensor]:
            return [found[""] for found in added({"": vector} for vector in parts())]

        return self.objective.ranks.mean(local)[0]


def as_operator(
    objective: Objective | SymmetricOperator, names: Sequence[str] | None = None, matrix: Matrix = "hessian"
) -> SymmetricOperator:
    """The operator of an objective; an operator is returned as it is."""
    if isinstance(objective, Objective):
        return CurvatureOperator(objective, names, matrix=matrix)
    if not hasattr(objective, "matvec"):
        check_objective(objective)
    if names is not None or matrix != "hessian":
        raise CallError("names, matrix: expected only with an objective; an operator has chosen them already")
    return objective


def require_symmetric(operator: SymmetricOperator, gap: float, scale: float) -> None:
    """Refuse an operator whose |u'Hv - v'Hu| = ``gap`` is no rounding where |u'Hv| is up to ``scale``.

    Differences that disagree are asymmetric, too, and are said to be a problem already.

    Raises:
        RefusedError: it is not symmetric.
    """
    if operator.problem is not None:
        return
    kind = getattr(torch, operator.provenance.dtype, torch.float32)
    allowed = MOST_DISAGREEMENT if operator.route == "difference" else ASYMMETRY
    if gap > max(allowed, ASYMMETRIC_ROUNDINGS * torch.finfo(kind).eps) * scale:
        raise RefusedError(
            f"curvature: expected a symmetric operator, got |u'Hv - v'Hu| = {gap:.2g} where |u'Hv| is up to "
            f"{scale:.2g}; the loss is not twice differentiable here, or keeps state, or a backward pass is wrong"
        )


def _plan(matrix: str, route: str, parts: int) -> tuple[str, ...]:
    """Routes in the order in which they are tried."""
    if matrix == "gauss_newton":
        return (*(("gauss_newton",) if parts == 1 else ()), "gauss_newton_rebuilt")
    if route != "auto":
        return (route,)
    return (*(("kept",) if parts == 1 else ()), "rebuilt", "forward_over_reverse", "difference")
