"""What the activations of a network's layers look like: a frozen value that can be merged and compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import TypeVar

import numpy as np

from alidade.core.errors import CallError
from alidade.core.records import NON_FINITE, OK, UNDEFINED, Floats, Provenance, Row
from alidade.core.sketch import Histogram, Moments

T = TypeVar("T")

#: Probabilities of the quantiles that go into the tidy table.
PROBABILITIES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)

#: Unit of each quantity; a is the unit of the layer's output.
UNITS = {
    "activation_mean": "a", "activation_variance": "a^2", "activation_skewness": "1", "activation_kurtosis": "1",
    "activation_min": "a", "activation_max": "a", "activation_non_finite": "1",
    "activation_mean_change": "a", "activation_variance_change": "a^2",
    "activation_mean_drift": "a", "activation_variance_drift": "a^2",
}  # fmt: skip


@dataclass(frozen=True)
class LayerActivations:
    """The outputs of one layer: moments of each of its C units and one histogram over all of them."""

    units: Moments  # arrays (C,)
    histogram: Histogram
    unit_axis: int  # of the layer's output; every other axis counts samples
    calls: int = 1  # how often the layer was called; its calls are pooled

    @property
    def pooled(self) -> Moments:
        """Moments of all activations of the layer together, as arrays of length 1."""
        return self.units.pooled()

    @property
    def status(self) -> tuple[str, ...]:
        """Of each unit's mean and variance: ok, non_finite (a NaN or infinity was seen), undefined (nothing was)."""
        if not self.units.count:
            return (UNDEFINED,) * self.units.mean.size
        finite = (self.units.non_finite == 0) & np.isfinite(self.units.mean) & np.isfinite(self.units.variance)
        return tuple(OK if good else NON_FINITE for good in finite)

    def quantiles(self, probabilities: tuple[float, ...] = PROBABILITIES) -> Floats:
        """Quantiles over all units and samples; relative error at most 2^-8 (see :class:`Histogram`)."""
        return self.histogram.quantiles(probabilities)

    def merge(self, other: LayerActivations) -> LayerActivations:
        """Both sets of activations together."""
        units, histogram = self.units.merge(other.units), self.histogram.merge(other.histogram)
        return LayerActivations(units, histogram, self.unit_axis, self.calls + other.calls)

    def numbers(self) -> dict[str, float]:
        """The layer's numbers in the tidy table, by quantity."""
        pooled = self.pooled
        named = {
            "activation_mean": pooled.mean[0],
            "activation_variance": self.units.variance.mean(),
            "activation_skewness": pooled.skewness[0],
            "activation_kurtosis": pooled.kurtosis[0],
            "activation_min": pooled.minimum[0],
            "activation_max": pooled.maximum[0],
            "activation_non_finite": pooled.non_finite[0],
        }
        quantiles = zip(PROBABILITIES, self.quantiles(), strict=True)
        return {name: float(value) for name, value in named.items()} | {
            f"activation_quantile_{p:g}": float(value) for p, value in quantiles
        }


@dataclass(frozen=True)
class UnitChange:
    """How far the moments of a layer's units moved from one measurement to a later one; arrays (C,)."""

    mean_drift: Floats  # later minus earlier, signed
    variance_drift: Floats

    @property
    def mean_change(self) -> Floats:
        r""":math:`|\mu' - \mu|` of each unit."""
        return np.abs(self.mean_drift)

    @property
    def variance_change(self) -> Floats:
        r""":math:`|\sigma'^2 - \sigma^2|` of each unit."""
        return np.abs(self.variance_drift)


@dataclass(frozen=True)
class ActivationChange:
    """Change and drift of every unit of every layer between two measurements (Santurkar et al. 2018, Fig. 8)."""

    by_layer: Mapping[str, UnitChange]
    provenance: Provenance  # of the later measurement

    def __getitem__(self, layer: str) -> UnitChange:
        return _lookup(self.by_layer, layer)

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers, in order of first use."""
        return tuple(self.by_layer)

    def rows(self, step: int, prefix: str = "") -> Iterator[Row]:
        """Per layer the means over its units of change (absolute) and drift (signed), for the later step."""
        for layer, change in self.by_layer.items():
            for name in ("mean_change", "variance_change", "mean_drift", "variance_drift"):
                value = float(getattr(change, name).mean())
                yield _row(step, layer, prefix, f"activation_{name}", value, NON_FINITE, self.provenance)


@dataclass(frozen=True)
class ActivationStatistics:
    """Moments, histograms and quantiles of the outputs of a network's layers, without the outputs themselves.

    The size does not depend on how many samples were seen. ``a.merge(b)`` is what one measurement of both batches
    would have given, up to rounding of the moments, and is associative and commutative to that rounding
    (histograms, counts and ranges: exactly).
    """

    by_layer: Mapping[str, LayerActivations]  # in order of first use, or as they were asked for
    provenance: Provenance

    def __getitem__(self, layer: str) -> LayerActivations:
        return _lookup(self.by_layer, layer)

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers."""
        return tuple(self.by_layer)

    def merge(self, other: ActivationStatistics) -> ActivationStatistics:
        """Both measurements together; a layer that only one of them saw is taken from there.

        Raises:
            CallError: other normalization statistics, another precision, or a layer with another number of units.
        """
        merged = dict(self.by_layer)
        for name, found in other.by_layer.items():
            merged[name] = merged[name].merge(found) if name in merged else found
        return ActivationStatistics(merged, _joined(self.provenance, other.provenance))

    def change(self, later: ActivationStatistics) -> ActivationChange:
        r"""Per unit :math:`\mu' - \mu` and :math:`\sigma'^2 - \sigma^2`, signed and absolute.

        With successive measurements this is the paper's Fig. 8a, with the first and any later one Fig. 8b. A NaN
        stays one.

        Raises:
            CallError: the two have other layers or other numbers of units.
        """
        if set(self.by_layer) != set(later.by_layer):
            other = sorted(set(self.by_layer) ^ set(later.by_layer))
            raise CallError(f"change: expected the same layers in both measurements, got {other[:4]} in only one")
        changes = {}
        for name, found in self.by_layer.items():
            before, after = found.units, later.by_layer[name].units
            if before.mean.shape != after.mean.shape:
                raise CallError(f"change: expected {before.mean.size} units in layer {name!r}, got {after.mean.size}")
            changes[name] = UnitChange(after.mean - before.mean, after.variance - before.variance)
        return ActivationChange(changes, later.provenance)

    def rows(self, step: int, prefix: str = "") -> Iterator[Row]:
        """Tidy rows, one per layer and quantity; ``prefix`` stands before the quantities' names.

        ``activation_mean`` is the mean over all units and samples (every unit has as many samples, so it is also the
        mean of the units' means); ``activation_variance`` is the mean over units of the variance within a unit;
        skewness, kurtosis, range and quantiles (``activation_quantile_0.25``) are of all activations of the layer
        pooled; ``activation_non_finite`` counts NaN and infinities.
        """
        for name, layer in self.by_layer.items():
            for quantity, value in layer.numbers().items():
                why = NON_FINITE if layer.units.non_finite.any() else UNDEFINED
                yield _row(step, name, prefix, quantity, value, why, self.provenance)


def _lookup(by_layer: Mapping[str, T], layer: str) -> T:
    if layer not in by_layer:
        raise CallError(f"layer: expected one of {', '.join(map(repr, by_layer))}, got {layer!r}")
    return by_layer[layer]


def _joined(first: Provenance, second: Provenance) -> Provenance:
    """What two measurements have in common; None where a step, run, seed or batch size differs."""
    for name in ("statistics", "dtype"):
        if getattr(first, name) != getattr(second, name):
            expected, came = getattr(first, name), getattr(second, name)
            raise CallError(f"merge: expected {name} {expected!r} in both measurements, got {came!r} in the second")
    differing = [f.name for f in fields(first) if getattr(first, f.name) != getattr(second, f.name)]
    return replace(first, **dict.fromkeys(differing))  # type: ignore[arg-type]


def _row(step: int, layer: str, prefix: str, quantity: str, value: float, why: str, provenance: Provenance) -> Row:
    return Row(
        step=step, quantity=prefix + quantity, value=value, unit=UNITS.get(quantity, "a"), layer=layer,
        statistics=provenance.statistics, dtype=provenance.dtype, status=OK if np.isfinite(value) else why,
    )  # fmt: skip
