"""What a measurement is: frozen values in NumPy float64 with units, status and provenance. No torch here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Statistics = Literal["batch", "running", "mixed", "none"]

#: Columns of the tidy table, in this order (see docs/reference/table.md).
COLUMNS = (
    "run", "seed", "step", "quantity", "layer", "step_size", "value", "unit", "statistics", "dtype", "status",
)  # fmt: skip

#: Status of one number. "ok" is the only one that a figure draws.
OK = "ok"
BELOW_RESOLUTION = "below_resolution"  # smaller than its own rounding error
NON_FINITE = "non_finite"  # NaN or infinity came out of the network
UNDEFINED = "undefined"  # 0 / 0: at eta = 0, or along a direction of length 0
FAILED = "failed"  # the probe raised; the status reads "failed: reason"


@dataclass(frozen=True, slots=True)
class Row:
    """One number of the tidy table; the store adds run and seed."""

    step: int
    quantity: str
    value: float
    unit: str
    layer: str | None = None
    step_size: float | None = None
    statistics: Statistics = "none"
    dtype: str = "float32"
    status: str = OK


class Recorder(Protocol):
    """Where measurements go. The measuring side knows this and nothing of files."""

    def record(self, segment: str, rows: Sequence[Row]) -> None:
        """Take ``rows`` for the segment (a probe id, "training" or "timing")."""


class Measured(Protocol):
    """Anything that was measured knows its rows of the tidy table."""

    def rows(self, step: int) -> Iterator[Row]:
        """The rows, for a measurement after ``step`` optimizer steps."""


@dataclass(frozen=True)
class Provenance:
    """Under which conditions a number was measured."""

    statistics: Statistics  # of the normalization layers
    dtype: str  # of the parameters, or of autocast where it was on
    batch_size: int | None  # None where the batch has no length
    step: int | None = None  # optimizer steps taken before the measurement
    run: str | None = None
    seed: int | None = None
    partition: tuple[int | None, ...] | None = None  # lengths of the (micro-)batches where there are several
    coordinates: Literal["raw", "relative"] = "raw"
    direction: str = "gradient"
    ranks: int = 1  # processes whose losses are averaged, each on a batch and with batch statistics of its own


def _no_values() -> Floats:
    return np.empty(0)


@dataclass(frozen=True)
class LineProfile:
    r"""Losses and gradients at :math:`\theta - \eta d` for a list of step sizes :math:`\eta`.

    Units: losses in nats (or whatever the loss is in); ``step_sizes`` as the direction makes them; raw
    gradient distances in nat/w and smoothness in nat/w^2, where w is the unit of a weight. In relative
    coordinates a weight is counted in units of its filter's norm: gradient distances are divided by the
    norm of the base gradient (unit 1) and smoothness is in nat.

    Where gradients were not asked for, their arrays are NaN with status "undefined".
    """

    step_sizes: Floats  # (K,)
    losses: Floats  # (K,)
    gradient_distances: Floats  # (K,) ||g(eta) - g(0)||, relative: / ||G(0)||
    gradient_cosines: Floats  # (K,) <g(eta), g(0)> / (||g(eta)|| ||g(0)||)
    effective_smoothness: Floats  # (K,) ||g(eta) - g(0)|| / (|eta| ||d||)
    directional_curvature: Floats  # (K,) <d, g(0) - g(eta)> / (eta ||d||^2)
    resolution: Floats  # (K,) rounding error of effective_smoothness, same unit
    status: tuple[str, ...]  # (K,) of the smoothness: ok | below_resolution | non_finite | undefined
    loss: float  # at eta = 0
    gradient_norm: float  # at eta = 0
    direction_norm: float
    provenance: Provenance
    slope: float = float("nan")  # <d, g(0)>: the loss falls by eta times this, to first order

    @property
    def step_curvature(self) -> float:
        r"""Of the step eta = 1: :math:`\langle d, g(0) - g(1)\rangle / \langle d, g(0)\rangle`; NaN if not listed.

        Above 2 the quadratic model says that this step raised the loss. For plain full-batch gradient descent it
        is the learning rate times the directional curvature, and 2 is the edge of stability.
        """
        taken = np.flatnonzero(self.step_sizes == 1.0)
        if taken.size == 0 or self.slope == 0:
            return float("nan")
        return float(self.directional_curvature[taken[0]] * self.direction_norm**2 / self.slope)

    @property
    def loss_band(self) -> tuple[float, float]:
        """[min, max] of the loss over the listed step sizes (Santurkar et al. 2018, Fig. 4a). NaN stays NaN."""
        return _band(self.losses)

    @property
    def gradient_band(self) -> tuple[float, float]:
        """[min, max] of the gradient distance over the listed step sizes (Fig. 4b)."""
        return _band(self.gradient_distances)

    @property
    def cosine_band(self) -> tuple[float, float]:
        """[min, max] of the cosine between the gradients over the listed step sizes."""
        return _band(self.gradient_cosines)

    @property
    def max_effective_smoothness(self) -> float:
        """Largest effective smoothness over the listed step sizes other than 0 (Fig. 4c)."""
        defined = self.effective_smoothness[self.step_sizes != 0]
        return float(np.max(defined)) if defined.size else float("nan")

    @property
    def units(self) -> dict[str, str]:
        """Unit of each quantity, as in the tidy table."""
        relative = self.provenance.coordinates == "relative"
        return {
            "loss": "nat",
            "gradient_distance": "1" if relative else "nat/w",
            "gradient_cosine": "1",
            "effective_smoothness": "nat" if relative else "nat/w^2",
            "directional_curvature": "nat" if relative else "nat/w^2",
            "resolution": "nat" if relative else "nat/w^2",
            "gradient_norm": "nat" if relative else "nat/w",
            "direction_norm": "1" if relative else "w/step_size",
            "slope": "nat/step_size",
            "step_curvature": "1",
        }

    def rows(self, step: int, prefix: str = "") -> Iterator[Row]:
        """The profile as tidy rows; ``prefix`` and, in those coordinates, ``relative_`` stand before each name."""
        columns = {
            "loss": self.losses,
            "gradient_distance": self.gradient_distances,
            "gradient_cosine": self.gradient_cosines,
            "effective_smoothness": self.effective_smoothness,
            "directional_curvature": self.directional_curvature,
            "resolution": self.resolution,
        }
        at_start = {"loss": self.loss, "gradient_norm": self.gradient_norm, "direction_norm": self.direction_norm}
        if self.provenance.direction == "given" and self.provenance.coordinates == "raw":
            at_start |= {"slope": self.slope, "step_curvature": self.step_curvature}
        for name, value in at_start.items():
            yield self._row(step, prefix, name, value, 0.0, self._status_at_start(name, value))
        for index, step_size in enumerate(self.step_sizes):
            for name, values in columns.items():
                value = float(values[index])
                yield self._row(step, prefix, name, value, float(step_size), self._status(name, index, value))

    def _status_at_start(self, quantity: str, value: float) -> str:
        """Undefined is what was not asked for: gradients, the step eta = 1; and 0/0: its curvature on a slope of 0."""
        if np.isfinite(value):
            return OK
        if quantity == "step_curvature" and np.isfinite(self.loss) and np.isfinite(self.direction_norm):
            unlisted = 1.0 not in self.step_sizes
            return UNDEFINED if unlisted or self.slope == 0 or self.direction_norm == 0 else NON_FINITE
        broken = NON_FINITE in self.status or not np.isfinite(self.loss)
        return NON_FINITE if broken or quantity == "direction_norm" else UNDEFINED

    def _status(self, quantity: str, index: int, value: float) -> str:
        status = self.status[index]
        if quantity == "loss" or status == NON_FINITE:
            return OK if np.isfinite(value) else NON_FINITE
        if quantity in ("resolution", "gradient_distance") or (quantity == "gradient_cosine" and status == UNDEFINED):
            return OK if np.isfinite(value) else UNDEFINED  # themselves never below the resolution
        return status

    def _row(self, step: int, prefix: str, quantity: str, value: float, step_size: float, status: str) -> Row:
        provenance = self.provenance
        named = prefix + ("relative_" if provenance.coordinates == "relative" else "") + quantity
        return Row(
            step=step, quantity=named, value=value, unit=self.units[quantity], step_size=step_size,
            statistics=provenance.statistics, dtype=provenance.dtype, status=status,
        )  # fmt: skip


@dataclass(frozen=True)
class CovariateShift:
    r"""Change of each layer's gradient when only the layers before it are updated (Definition 2.1), n layers.

    :math:`G_i` is the gradient before the update of the preceding layers, :math:`G'_i` the one after. Units: nat/w
    for ``l2``, ``gradient_norm`` and ``resolution``, where w is the unit of a weight; 1 for the others. Where a
    gradient is zero the cosine is 0/0, NaN with status "undefined"; ``relative`` too where that is :math:`G_i`.
    """

    layers: tuple[str, ...]  # n names
    l2: Floats  # (n,) ||G_i - G'_i||
    cosine: Floats  # (n,) <G_i, G'_i> / (||G_i|| ||G'_i||)
    relative: Floats  # (n,) ||G_i - G'_i|| / ||G_i||
    gradient_norm: Floats  # (n,) ||G_i||
    resolution: Floats  # (n,) rounding error of l2; 0 for a layer with none before it, where G' is G
    status: tuple[str, ...]  # (n,) ok | below_resolution | undefined | non_finite
    provenance: Provenance

    #: Unit of each quantity, as in the tidy table.
    units: ClassVar[dict[str, str]] = {
        "l2": "nat/w", "cosine": "1", "relative": "1", "gradient_norm": "nat/w", "resolution": "nat/w",
    }  # fmt: skip

    def rows(self, step: int, prefix: str = "") -> Iterator[Row]:
        """The numbers as tidy rows with the layers' names; quantities read ``covariate_shift_l2`` and so on."""
        provenance = self.provenance
        for index, layer in enumerate(self.layers):
            for name, unit in self.units.items():
                value = float(getattr(self, name)[index])
                yield Row(
                    step=step, quantity=f"{prefix}covariate_shift_{name}", value=value, unit=unit, layer=layer,
                    statistics=provenance.statistics, dtype=provenance.dtype, status=self._status(name, index, value),
                )  # fmt: skip

    def _status(self, quantity: str, index: int, value: float) -> str:
        status = self.status[index]
        if quantity == "gradient_norm":
            return OK if np.isfinite(value) else NON_FINITE
        if status == BELOW_RESOLUTION:  # of the distance; the cosine is then 1 to rounding
            return status if quantity in ("l2", "relative") else OK
        if status == UNDEFINED:  # a distance from nothing to nothing, or only the angle and the ratio
            nothing = self.gradient_norm[index] == 0 and (quantity == "relative" or value == 0)
            return UNDEFINED if quantity == "cosine" or (nothing and quantity != "resolution") else OK
        return status


def _band(values: Floats) -> tuple[float, float]:
    if values.size == 0:
        return (float("nan"), float("nan"))
    return (float(np.min(values)), float(np.max(values)))
