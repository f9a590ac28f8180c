"""The largest or smallest eigenvalues of the Hessian, with true residuals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from alidade.core.curvature import TopEigenvalues
from alidade.core.errors import CallError
from alidade.core.records import Floats
from alidade.landscape.arguments import check_finite, check_seed, is_whole
from alidade.landscape.curvature.lanczos import Lanczos, Pairs
from alidade.landscape.curvature.operator import Matrix, SymmetricOperator, as_operator
from alidade.landscape.objective import Objective

WHICH = ("largest", "smallest", "magnitude")

#: Share of a random direction in the first vector, beside the gradient's 1; and of both beside one that was given.
RANDOM_SHARE, SCOUT_SHARE = 0.3, 0.1
#: A warm start is lost where an eigenvector has less than this share of its length in the space that was given.
LEAST_OVERLAP = 0.5


@torch.inference_mode(mode=False)
def top_eigenvalues(
    objective: Objective | SymmetricOperator,
    k: int = 1,
    which: str = "largest",
    rtol: float = 1e-3,
    max_matvecs: int = 500,
    start: Sequence[Mapping[str, Tensor]] | TopEigenvalues | None = None,
    *,
    names: Sequence[str] | None = None,
    matrix: Matrix = "hessian",
    seed: int = 0,
    scout: float = SCOUT_SHARE,
) -> TopEigenvalues:
    r"""The k largest or smallest eigenvalues of the Hessian, to a true residual.

    Eigenvalues :math:`\lambda` and unit vectors v with :math:`\|H v - \lambda v\| \le \mathrm{rtol}\, |\lambda|`, by
    Lanczos with full reorthogonalization and thick restarts on a basis of at most 40 + 2k vectors (Wu & Simon 2000).
    The residual is the true one, from products with H that were really taken. It begins at the gradient with a
    random direction mixed in, since a good part of the gradient lies in the span of the top eigenvectors (Gur-Ari
    et al. 2018), or at eigenvectors that are given.

    An eigenvalue of 0, such as those beyond the rank, has no relative residual: where the residual is down at the
    rounding of products (``resolution``) the search ends with the status "below_resolution".

    Of more vectors than k in ``start`` the first k are used. Searches for several eigenvalues from scratch take five
    products more, to see copies of one eigenvalue.

    A small residual says that there is an eigenvalue within it. That it is the largest one is, as with every Krylov
    method, very likely and not certain.

    Args:
        objective: the loss; or an operator (:class:`CurvatureOperator`, a preconditioned or spherical one).
        k: how many, at most the number of parameters.
        which: "largest" (algebraic), "smallest", or "magnitude" (largest absolute value).
        rtol: of the residual, relative to the eigenvalue.
        max_matvecs: products at most. When they run out the status is "not_converged".
        start: eigenvectors from before, as dictionaries, or an earlier result: a warm start.
        names: parameters or modules whose diagonal block it is; None is the whole Hessian.
        matrix: "hessian" or "gauss_newton".
        seed: of the random direction; the global random state is not used.
        scout: share of gradient and random direction in the first vector of a warm start, beside the given one's 1.

    Raises:
        CallError: k not between 1 and the dimension, an unknown ``which``, a tolerance that is not above 0, too few
            products for k, a start of the wrong names or shapes, or not finite.
        RefusedError: a loss or product that is not finite; an operator that is not symmetric; an objective that is not
            deterministic.

    Cost: two forward and backward passes, then about two per product (kept graph): some 5 to 15 products for
    k = 1 at rtol 1e-3. Memory: twice as many vectors as the basis, 1 GiB at most beside k + 8 of them; and the graph.

    >>> from torch import nn
    >>> model = nn.Linear(3, 1, bias=False).double()
    >>> stretch = torch.diag(torch.tensor([3.0, 2.0, 1.0])).double()
    >>> objective = Objective(model, lambda model, x: model(x).square().sum() / 2, stretch)
    >>> top = top_eigenvalues(objective, k=2)  # of diag(9, 4, 1)
    >>> top.eigenvalues.round(6), top.converged, top.eigenvectors[0]["weight"].abs().round(decimals=4).tolist()
    (array([9., 4.]), True, [[1.0, 0.0, 0.0]])
    """
    operator = as_operator(objective, names, matrix)
    _check(operator, k, which, rtol, max_matvecs)
    check_seed(seed)
    given = _given(operator, start)
    before = operator.matvecs
    with operator.repeated():
        search = Lanczos(operator, k, which, seed)
        pairs = search.run(_first(search, operator, given[:k], scout), rtol, before + max_matvecs)
    return TopEigenvalues(
        eigenvalues=pairs.values,
        residuals=pairs.residuals,
        rtol=rtol,
        which=which,
        matvecs=operator.matvecs - before,
        route=operator.route,
        provenance=operator.provenance,
        problem=operator.problem,
        lost=_lost(pairs, given) if given else None,
        resolution=pairs.resolution,
        eigenvectors=tuple(operator.block.named(vector) for vector in pairs.vectors),
    )


def _check(operator: SymmetricOperator, k: int, which: str, rtol: float, max_matvecs: int) -> None:
    if which not in WHICH:
        raise CallError(f"which: expected one of {', '.join(map(repr, WHICH))}, got {which!r}")
    if not is_whole(k) or not 1 <= k <= operator.dimension:
        raise CallError(f"k: expected between 1 and the number of parameters, {operator.dimension}, got {k!r}")
    if not 0 < rtol < math.inf:
        raise CallError(f"rtol: expected a number above 0, got {rtol!r}")
    if not is_whole(max_matvecs) or max_matvecs < k:
        raise CallError(f"max_matvecs: expected at least k = {k}, got {max_matvecs!r}")


def _given(operator: SymmetricOperator, start: Sequence[Mapping[str, Tensor]] | TopEigenvalues | None) -> list[Tensor]:
    vectors = start.eigenvectors if isinstance(start, TopEigenvalues) else start or ()
    for index, vector in enumerate(vectors):
        if isinstance(vector, Mapping):
            check_finite(vector, f"start[{index}]")
    return [operator.block.checked(v) for v in vectors]


def _first(search: Lanczos, operator: SymmetricOperator, given: list[Tensor], share: float) -> list[Tensor]:
    """Where the search begins: gradient and random direction; or what was given, with a little of these mixed in.

    An eigenvector that is no longer the top one has a residual of 0 by itself, and a search there would end at once.
    """
    scout, gradient = RANDOM_SHARE * search.random(), operator.gradient()
    length = 0.0 if gradient is None else float(torch.linalg.vector_norm(gradient))
    if gradient is not None and length > 0:
        scout = scout + gradient / length
    if not given:
        return [scout]
    scout = share * torch.linalg.vector_norm(given[0]) * scout / torch.linalg.vector_norm(scout)
    # Whichever sign: of two guesses at one direction those halves are added that point the same way.
    return [given[0] + (scout if float(scout @ given[0]) >= 0 else -scout), *given[1:]]


def _lost(pairs: Pairs, given: list[Tensor]) -> bool:
    """Whether some eigenvector is mostly outside the span of those that were given."""
    frame: Floats
    frame = torch.linalg.qr(torch.stack(given).double().T).Q
    shares = torch.linalg.vector_norm(pairs.vectors.double() @ frame, dim=1)
    return bool((shares < LEAST_OVERLAP).any())
