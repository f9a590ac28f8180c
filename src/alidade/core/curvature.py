"""Eigenvalues, trace, spectral density and curvature along a direction: frozen values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from alidade.core.records import BELOW_RESOLUTION, NON_FINITE, OK, UNDEFINED, Floats, Provenance, Row

NOT_CONVERGED = "not_converged"  # the products ran out before the tolerance was met
UNIT = "nat/w^2"  # of second derivatives; w is the unit of a weight


@dataclass(frozen=True)
class TopEigenvalues:
    r"""k eigenvalues at one end of the spectrum, best first, each with its true residual :math:`\|Hv - \lambda v\|`.

    There is an eigenvalue within the residual of each of them (H symmetric). What is not converged has the status
    "not_converged" and is not drawn. Below ``resolution``, the rounding of products, no residual can fall: what is met
    to that and not to rtol, an eigenvalue of 0 for example, has the status "below_resolution".
    """

    eigenvalues: Floats  # (k,)
    residuals: Floats  # (k,) ||Hv - lambda v|| for ||v|| = 1
    rtol: float
    which: str
    matvecs: int
    route: str
    provenance: Provenance
    problem: str | None = None  # why no number here can be trusted, in words
    unit: str = UNIT
    quantity: str = "top_eigenvalue"
    lost: bool | None = None  # of a warm start: the eigenvectors found are not near those that were given
    resolution: float = 0.0  # of the residuals
    #: By parameter name, of length 1; tensors, k of them.
    eigenvectors: tuple[Mapping[str, Any], ...] = field(default=(), repr=False, compare=False)

    @property
    def converged(self) -> bool:
        """Whether every residual is at most max(rtol |lambda|, resolution), and nothing else is wrong."""
        return all(status in (OK, BELOW_RESOLUTION) for status in self.status)

    @property
    def status(self) -> tuple[str, ...]:
        """(k,) ok | below_resolution | not_converged | what is wrong with the products."""
        met = self.residuals <= self.rtol * np.abs(self.eigenvalues)
        rounded = np.where(self.residuals <= self.resolution, BELOW_RESOLUTION, NOT_CONVERGED)
        return tuple(self.problem or (OK if fine else str(other)) for fine, other in zip(met, rounded, strict=True))

    def rows(self, step: int, prefix: str = "") -> Iterator[Row]:
        """``top_eigenvalue``, then ``eigenvalue_2`` and so on, each with its residual; and the matvecs."""
        for index, status in enumerate(self.status):
            name = self.quantity if index == 0 else f"eigenvalue_{index + 1}"
            yield self._row(step, prefix + name, float(self.eigenvalues[index]), self.unit, status)
            yield self._row(step, f"{prefix}{name}_residual", float(self.residuals[index]), self.unit)
        yield self._row(step, f"{prefix}{self.quantity}_matvecs", float(self.matvecs), "1")
        if self.lost is not None:
            yield self._row(step, f"{prefix}{self.quantity}_lost", float(self.lost), "1")

    def _row(self, step: int, quantity: str, value: float, unit: str, status: str = OK) -> Row:
        return _row(self.provenance, step, quantity, value, unit, status)


@dataclass(frozen=True)
class Trace:
    """An estimate of the trace and its standard error."""

    value: float
    standard_error: float
    converged: bool  # whether the standard error is within the tolerance asked for
    matvecs: int
    method: str  # krylov | hutchinson | exact
    route: str
    provenance: Provenance
    problem: str | None = None

    @property
    def status(self) -> str:
        """One of ok | not_converged | what is wrong with the products."""
        return self.problem or (OK if self.converged else NOT_CONVERGED)

    def rows(self, step: int, prefix: str = "") -> Iterator[Row]:
        """``hessian_trace``, ``hessian_trace_standard_error`` and ``hessian_trace_matvecs``."""
        status = self.status
        name = f"{prefix}hessian_trace"
        yield _row(self.provenance, step, name, self.value, UNIT, status)
        yield _row(self.provenance, step, f"{name}_standard_error", self.standard_error, UNIT)
        yield _row(self.provenance, step, f"{name}_matvecs", float(self.matvecs), "1")


@dataclass(frozen=True)
class SpectralDensity:
    r"""Density of eigenvalues: the share of them per unit of eigenvalue; it integrates to 1.

    ``nodes`` and ``weights`` are the quadrature itself, without smoothing: P probe vectors with m nodes each.
    """

    grid: Floats  # (G,)
    density: Floats  # (G,) mean over the probe vectors
    standard_error: Floats  # (G,) of that mean: the error band
    nodes: Floats  # (P, m) eigenvalues
    weights: Floats  # (P, m) each row sums to 1
    outliers: Floats  # eigenvalues that stand apart, each with a residual below the smoothing, largest first
    width: float  # of the spectrum: largest minus smallest node
    smoothing: float  # standard deviation of the Gaussian that each node became
    dimension: int
    matvecs: int
    route: str
    provenance: Provenance
    problem: str | None = None

    @property
    def status(self) -> str:
        """One of ok | what is wrong with the products."""
        return self.problem or OK

    def rows(self, step: int, prefix: str = "") -> Iterator[Row]:
        """Density with its error along the grid (``step_size`` is the eigenvalue), and the number of outliers."""
        status = self.status
        for name, values in (("", self.density), ("_standard_error", self.standard_error)):
            for eigenvalue, value in zip(self.grid, values, strict=True):
                quantity = f"{prefix}spectral_density{name}"
                yield _row(self.provenance, step, quantity, float(value), "w^2/nat", status, float(eigenvalue))
        yield _row(self.provenance, step, f"{prefix}spectral_outliers", float(self.outliers.size), "1", status)
        yield _row(self.provenance, step, f"{prefix}spectral_density_matvecs", float(self.matvecs), "1")


@dataclass(frozen=True)
class Curvature:
    """One second derivative, along a direction or normalized by one."""

    value: float
    quantity: str
    unit: str
    matvecs: int
    route: str
    provenance: Provenance
    problem: str | None = None

    @property
    def status(self) -> str:
        """One of ok | undefined (along nothing) | non_finite | what is wrong with the products."""
        if self.problem is not None:
            return self.problem
        return UNDEFINED if np.isnan(self.value) else OK if np.isfinite(self.value) else NON_FINITE

    def rows(self, step: int, prefix: str = "") -> Iterator[Row]:
        """The one number."""
        yield _row(self.provenance, step, prefix + self.quantity, self.value, self.unit, self.status)


def _row(
    provenance: Provenance, step: int, quantity: str, value: float, unit: str, status: str = OK, at: float | None = None
) -> Row:
    if status == OK and not np.isfinite(value):
        status = NON_FINITE
    return Row(
        step=step, quantity=quantity, value=value, unit=unit, step_size=at,
        statistics=provenance.statistics, dtype=provenance.dtype, status=status,
    )  # fmt: skip
