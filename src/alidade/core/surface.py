"""The loss over a plane, and along the straight line between two checkpoints: frozen values."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from alidade.core.records import NON_FINITE, OK, Floats, Provenance, Row


def _no_points() -> Floats:
    return np.empty((0, 2))


def _no_values() -> Floats:
    return np.empty(0)


@dataclass(frozen=True)
class LossSurface:
    r"""Losses at :math:`\theta + x_i d_1 + y_j d_2`.

    Units: losses in nats (or whatever the loss is in). What 1 on an axis means depends on the plane: with filter
    normalization every filter has moved by its own norm; with principal components and checkpoints it is one unit
    of a weight (w), since their directions have length 1; otherwise it is the direction as it was given.

    A trajectory is projected orthogonally onto the plane. Its losses are those of its own points, which may lie off
    the plane: ``off_plane`` says how far.
    """

    x: Floats  # (n,) along the first direction
    y: Floats  # (m,) along the second direction
    losses: Floats  # (n, m)
    loss: float  # at (0, 0)
    directions: str  # random | given | pca | checkpoints
    normalize: str  # filter | raw
    direction_norms: tuple[float, float]  # ||d_1|| and ||d_2|| in weight space
    cosine: float  # of the angle between the directions: distances in the picture are true only if it is 0
    provenance: Provenance
    trajectory: Floats = field(default_factory=_no_points)  # (T, 2) coordinates
    trajectory_losses: Floats = field(default_factory=_no_values)  # (T,) at its own points
    off_plane: Floats = field(default_factory=_no_values)  # (T,) distance from the plane, in w
    explained_variance: tuple[float, float] | None = None  # shares of the trajectory's variance along d_1 and d_2

    @property
    def status(self) -> NDArray[np.str_]:
        """(n, m) ok | non_finite."""
        return np.where(np.isfinite(self.losses), OK, NON_FINITE)

    @property
    def lowest(self) -> tuple[float, float, float]:
        """Coordinates and loss of the lowest point of the grid; NaN where no loss is finite."""
        if not np.isfinite(self.losses).any():
            return (float("nan"), float("nan"), float("nan"))
        i, j = np.unravel_index(np.argmin(np.where(np.isfinite(self.losses), self.losses, np.inf)), self.losses.shape)
        return (float(self.x[i]), float(self.y[j]), float(self.losses[i, j]))


@dataclass(frozen=True)
class Interpolation:
    r"""Losses at :math:`(1 - t) \theta_1 + t \theta_2`, in nats (or whatever the loss is in)."""

    fractions: Floats  # (K,) t, from 0 to 1
    losses: Floats  # (K,)
    distance: float  # ||theta_2 - theta_1|| over all parameters, in w
    buffers: str  # interpolated | first | second
    recomputed_batches: int  # how many batches the running statistics were recomputed from; 0: they were not
    provenance: Provenance

    @property
    def status(self) -> tuple[str, ...]:
        """(K,) ok | non_finite."""
        return tuple(OK if finite else NON_FINITE for finite in np.isfinite(self.losses))

    @property
    def barrier(self) -> float:
        r"""Largest :math:`L(t) - [(1 - t) L(0) + t L(1)]` on the line (Entezari et al. 2022).

        Never negative, since the ends count; NaN where a loss is not finite.
        """
        chord = (1 - self.fractions) * self.losses[0] + self.fractions * self.losses[-1]
        return float(np.max(self.losses - chord))

    def rows(self, step: int, prefix: str = "") -> Iterator[Row]:
        """``interpolation_loss`` at each fraction (``step_size`` is t), and ``interpolation_barrier``."""
        conditions = {"statistics": self.provenance.statistics, "dtype": self.provenance.dtype}
        for t, loss, status in zip(self.fractions, self.losses, self.status, strict=True):
            name = f"{prefix}interpolation_loss"
            yield Row(step, name, float(loss), "nat", step_size=float(t), status=status, **conditions)  # type: ignore[arg-type]
        status = OK if np.isfinite(self.barrier) else NON_FINITE
        yield Row(step, f"{prefix}interpolation_barrier", self.barrier, "nat", status=status, **conditions)  # type: ignore[arg-type]
