"""The density of the Hessian's eigenvalues by stochastic Lanczos quadrature."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from alidade.core.curvature import SpectralDensity
from alidade.core.errors import CallError
from alidade.core.records import Floats
from alidade.landscape.arguments import check_seed, is_whole
from alidade.landscape.curvature.operator import Matrix, SymmetricOperator, as_operator, require_symmetric
from alidade.landscape.objective import Objective

#: An outlier stands for one eigenvalue, whose share of a random vector is about 1 / n; a node of the bulk for many.
MOST_SHARE = 10.0


@torch.inference_mode(mode=False)
def spectral_density(
    objective: Objective | SymmetricOperator,
    probes: int = 4,
    steps: int = 60,
    grid_points: int = 512,
    smoothing: float = 0.005,
    *,
    names: Sequence[str] | None = None,
    matrix: Matrix = "hessian",
    seed: int = 0,
) -> SpectralDensity:
    r"""The density :math:`\frac 1n \sum_i \delta(\lambda - \lambda_i)` of the n eigenvalues, smoothed.

    Stochastic Lanczos quadrature (Lin, Saad & Yang 2016, SIAM Review 58; for networks Ghorbani et al. 2019): from each
    random unit vector m Lanczos steps with full reorthogonalization give a tridiagonal matrix. Its eigenvalues are the
    nodes of a Gaussian quadrature of the density, the squared first entries of its eigenvectors the weights. Each node
    becomes a Gaussian. The probe vectors differ only by chance, so their spread gives the error band.

    Outliers are nodes with a residual below the smoothing whose share of the vectors is that of a single eigenvalue and
    that are farther than 3 standard deviations of the smoothing from the others: for classification there are often as
    many as classes (Sagun et al. 2017; Papyan 2019).

    Args:
        objective: the loss, or an operator.
        probes: random vectors, at least 2 for a band.
        steps: Lanczos steps per vector (at most the number of parameters).
        grid_points: of the grid, which covers all nodes and 4 standard deviations more on each side.
        smoothing: standard deviation of the Gaussians as a share of the spectrum's width.
        names: parameters or modules whose diagonal block it is; None is the whole Hessian.
        matrix: "hessian" or "gauss_newton".
        seed: of the vectors; the global random state is not used.

    Raises:
        CallError: fewer than 2 probes, 1 step or 2 grid points, a smoothing that is not above 0.
        RefusedError: a loss or product that is not finite; an operator that is not symmetric; an objective that is not
            deterministic.

    Cost: two forward and backward passes, then about two per step and probe vector (kept graph). Memory: ``steps``
    vectors.

    >>> from torch import nn
    >>> model = nn.Linear(3, 1, bias=False).double()
    >>> stretch = torch.diag(torch.tensor([3.0, 2.0, 1.0])).double()
    >>> objective = Objective(model, lambda model, x: model(x).square().sum() / 2, stretch)
    >>> spectrum = spectral_density(objective, probes=2)
    >>> spectrum.nodes[0].round(6), spectrum.weights.sum(1).round(6)
    (array([1., 4., 9.]), array([1., 1.]))
    >>> round(float(spectrum.density.sum() * (spectrum.grid[1] - spectrum.grid[0])), 3)
    1.0
    """
    counts = ((probes, 2), (steps, 1), (grid_points, 2))
    if not all(is_whole(count) and count >= least for count, least in counts) or not 0 < smoothing < np.inf:
        raise CallError(
            "spectral_density: expected probes >= 2, steps >= 1, grid_points >= 2 and smoothing > 0, "
            f"got {probes!r}, {steps!r}, {grid_points!r} and {smoothing!r}"
        )
    operator = as_operator(objective, names, matrix)
    check_seed(seed)
    before, generator = operator.matvecs, torch.Generator().manual_seed(seed)
    with operator.repeated():
        rules = [_quadrature(operator, min(steps, operator.dimension), generator) for _ in range(probes)]
    width = max(float(rule.nodes.max()) for rule in rules) - min(float(rule.nodes.min()) for rule in rules)
    largest = max(float(np.abs(rule.nodes).max()) for rule in rules)
    scale = smoothing * (
        width if width > 1e-9 * largest else largest or 1.0
    )  # all eigenvalues alike: a peak of any width
    grid = _grid(rules, scale, grid_points)
    each = np.stack([_smoothed(grid, rule, scale) for rule in rules])
    return SpectralDensity(
        grid=grid, density=each.mean(0), standard_error=each.std(0, ddof=1) / probes**0.5,
        nodes=_padded([rule.nodes for rule in rules], "last"), weights=_padded([r.weights for r in rules], "zero"),
        outliers=_outliers(rules, scale, operator.dimension), width=width, smoothing=scale,
        dimension=operator.dimension, matvecs=operator.matvecs - before, route=operator.route,
        provenance=operator.provenance, problem=operator.problem,
    )  # fmt: skip


class _Rule(NamedTuple):
    """A quadrature: nodes ascending, weights that sum to 1, and the residual of each node as an eigenvalue."""

    nodes: Floats
    weights: Floats
    residuals: Floats


def _quadrature(operator: SymmetricOperator, steps: int, generator: torch.Generator) -> _Rule:
    block = operator.block
    draw = torch.randn(block.dimension, generator=generator, dtype=torch.float64)
    basis = torch.empty(steps, block.dimension, dtype=block.dtype, device=block.device)
    direction = (draw / draw.norm()).to(basis)
    diagonal, beside, asymmetry = [], list[float](), 0.0
    for row in range(steps):
        basis[row] = direction
        product = operator.matvec(direction)
        diagonal.append(float(torch.dot(direction.double(), product.double())))
        inside = basis[: row + 1] @ product
        asymmetry = max(asymmetry, _asymmetry(inside, beside))
        outside = _outside(basis[: row + 1], product - inside @ basis[: row + 1])
        beside.append(float(torch.linalg.vector_norm(outside)))
        scale = max(map(abs, [*diagonal, *beside[:-1]]))
        if beside[-1] <= 10 * torch.finfo(block.dtype).eps * scale:  # the vector has no more eigenvectors in it
            break
        direction = _outside(basis[: row + 1], outside / beside[-1])
        direction = direction / torch.linalg.vector_norm(direction)
    require_symmetric(operator, asymmetry, scale)
    matrix = np.diag(diagonal) + np.diag(beside[:-1], 1) + np.diag(beside[:-1], -1)
    values, vectors = np.linalg.eigh(matrix)
    return _Rule(values, vectors[0] ** 2, beside[-1] * np.abs(vectors[-1]))


def _asymmetry(inside: Tensor, beside: list[float]) -> float:
    """A symmetric matrix in a Krylov basis is tridiagonal: beside the diagonal what was left before, and 0 above."""
    expected = torch.zeros_like(inside)
    if beside:
        expected[-2] = beside[-1]
    return float((inside - expected)[:-1].abs().amax()) if beside else 0.0


def _outside(basis: Tensor, vector: Tensor) -> Tensor:
    return vector - (basis @ vector) @ basis


def _grid(rules: list[_Rule], scale: float, points: int) -> Floats:
    low, high = min(float(r.nodes.min()) for r in rules), max(float(r.nodes.max()) for r in rules)
    return np.linspace(low - 4 * scale, high + 4 * scale, points)


def _smoothed(grid: Floats, rule: _Rule, scale: float) -> Floats:
    """Means of the Gaussians over the cells of the grid, so that the density integrates to 1 on any grid."""
    from scipy.special import ndtr  # takes long to import, and little else here needs it

    cell = grid[1] - grid[0]
    edges = np.append(grid - cell / 2, grid[-1] + cell / 2)
    below: Floats = ndtr((edges[:, None] - rule.nodes[None, :]) / scale) @ rule.weights
    return np.asarray(np.diff(below) / cell)


def _padded(rows: list[Floats], fill: str) -> Floats:
    """One array of rules that may have stopped early."""
    most = max(map(len, rows))
    return np.stack([np.append(row, np.full(most - len(row), row[-1] if fill == "last" else 0.0)) for row in rows])


def _outliers(rules: list[_Rule], scale: float, dimension: int) -> Floats:
    """From the vector that resolved most of them; all vectors have the same outliers."""
    found = [_outliers_of(rule, scale, dimension) for rule in rules]
    return max(found, key=len)


def _outliers_of(rule: _Rule, scale: float, dimension: int) -> Floats:
    gaps = np.diff(rule.nodes, prepend=-np.inf, append=np.inf)
    apart = (gaps[:-1] > 3 * scale) & (gaps[1:] > 3 * scale)
    single = rule.weights * dimension < MOST_SHARE
    return rule.nodes[apart & single & (rule.residuals < scale)][::-1].copy()
