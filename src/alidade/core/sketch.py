"""Distributions in bounded memory: moments of each unit and a histogram, both mergeable; the values are not kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from alidade.core.errors import CallError, brief
from alidade.core.records import Floats

Integers = NDArray[np.int64]

_BITS_DROPPED = 45  # of a float64's 52 bits of mantissa: 7 stay, so a bin is 2^-7 of its lower edge wide
_SIGN = 1 << (63 - _BITS_DROPPED)  # what the sign bit is worth in a bin's number
_EPS = float(np.finfo(np.float64).eps)
_SMALLEST_NORMAL = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True)
class Moments:
    r"""The first four central moments, the range and the count of non-finite values of C units.

    Stored are the mean and the sums :math:`M_k = \sum_i (x_i - \bar x)^k`. Two sets are merged by the update of
    Chan, Golub & LeVeque (1979), for the third and fourth moment as given by Pébay (2008), which never subtracts
    large sums of raw powers. Every unit has seen the same number of values.

    A unit that has seen a NaN or an infinity has NaN moments from then on; its range is NaN, or infinite.

    >>> Moments.of([[1.0, 2.0, 6.0]]).merge(Moments.of([[3.0]])).variance  # of 1, 2, 6, 3
    array([3.5])
    """

    count: int  # values seen by each unit
    mean: Floats  # (C,)
    m2: Floats  # (C,) sum of squared deviations
    m3: Floats  # (C,)
    m4: Floats  # (C,)
    minimum: Floats  # (C,)
    maximum: Floats  # (C,)
    non_finite: Floats  # (C,) number of NaN and infinities among the values

    @classmethod
    def of(cls, values: ArrayLike) -> Moments:
        """The moments of ``values`` (C, S): S values of each of C units."""
        x = np.asarray(values, dtype=np.float64)
        units, count = x.shape
        if count == 0:
            nothing = np.full(units, np.nan)
            return cls(0, nothing, nothing, nothing, nothing, nothing, nothing, np.zeros(units))
        with np.errstate(all="ignore"):
            low, high, mean = x.min(1), x.max(1), x.mean(1)
            mean = np.where(low == high, low, mean)  # so that a constant has no variance, not even by rounding
            deviation = x - mean[:, None]
            square = deviation * deviation
            sums = (square.sum(1), np.einsum("cs,cs->c", square, deviation), np.einsum("cs,cs->c", square, square))
        finite = np.isfinite(low) & np.isfinite(high)
        lost = np.zeros(units) if finite.all() else (~np.isfinite(x)).sum(1).astype(np.float64)
        m2, m3, m4 = (np.where(finite, total, np.nan) for total in sums)
        return cls(count, np.where(finite, mean, np.nan), m2, m3, m4, low, high, lost)

    def merge(self, other: Moments) -> Moments:
        """The moments of both sets of values together.

        Raises:
            CallError: the two have different numbers of units.
        """
        if self.mean.shape != other.mean.shape:
            raise CallError(f"merge: expected {self.mean.size} units as in the first, got {other.mean.size}")
        if not self.count or not other.count:
            return self if self.count else other
        count = self.count + other.count
        a, b = self.count / count, other.count / count
        with np.errstate(all="ignore"):
            d = other.mean - self.mean
            between = d * d * (count * a * b)  # this part of M2 comes from the distance of the means
            m2 = self.m2 + other.m2 + between
            m3 = self.m3 + other.m3 + between * d * (a - b) + 3 * d * (a * other.m2 - b * self.m2)
            m4 = self.m4 + other.m4 + between * d * d * (a * a - a * b + b * b)
            m4 = m4 + 6 * d * d * (a * a * other.m2 + b * b * self.m2) + 4 * d * (a * other.m3 - b * self.m3)
            low, high = np.minimum(self.minimum, other.minimum), np.maximum(self.maximum, other.maximum)
            mean = self.mean + d * b
        return Moments(count, mean, m2, m3, m4, low, high, self.non_finite + other.non_finite)

    def pooled(self) -> Moments:
        """The moments of all units' values as if they were one unit."""
        with np.errstate(all="ignore"):
            mean = self.mean.mean()
            d, n = self.mean - mean, self.count
            m2 = (self.m2 + n * d**2).sum()
            m3 = (self.m3 + 3 * d * self.m2 + n * d**3).sum()
            m4 = (self.m4 + 4 * d * self.m3 + 6 * d**2 * self.m2 + n * d**4).sum()
            numbers = (mean, m2, m3, m4, self.minimum.min(), self.maximum.max(), self.non_finite.sum())
        return Moments(self.count * self.mean.size, *(np.array([number], np.float64) for number in numbers))

    @property
    def variance(self) -> Floats:
        """Biased variance, M2 / n (C,)."""
        return self.m2 / self.count if self.count else np.full_like(self.mean, np.nan)

    @property
    def skewness(self) -> Floats:
        """Third standardized moment (C,); NaN where the variance is 0 or not above its rounding error."""
        with np.errstate(all="ignore"):
            return np.where(self._spread, self.m3 / max(self.count, 1) / self.variance**1.5, np.nan)

    @property
    def kurtosis(self) -> Floats:
        """Fourth standardized moment (C,), 3 for a Gaussian; NaN where the skewness is."""
        with np.errstate(all="ignore"):
            return np.where(self._spread, self.m4 / max(self.count, 1) / self.variance**2, np.nan)

    @property
    def _spread(self) -> NDArray[np.bool_]:
        """Where the deviations are more than rounding of the mean, and their fourth powers are normal numbers."""
        with np.errstate(all="ignore"):
            above = self.variance > (8 * _EPS * self.mean) ** 2
            return above & (self.variance**2 > _SMALLEST_NORMAL / _EPS) & np.isfinite(self.m4)


@dataclass(frozen=True)
class Histogram:
    r"""Counts in fixed bins of constant relative width: a bin is :math:`2^{-7}` of its lower edge wide.

    The bin of a number is read off its bits: sign, exponent and the first 7 bits of the mantissa (the numbers that
    bfloat16 has are the edges). The edges depend on no data, so merging adds counts and is exactly associative and
    commutative, one outlier of 1e30 costs the other values no resolution, and networks and steps share their edges.
    Memory is bounded by the number format: at most 2^19 bins for float64 and 7e4 for what was float32; real layers
    fill a few thousand. A histogram of equal widths whose range doubles would resolve a distribution far from 0
    better, and would lose all resolution when a single activation explodes, which is when one looks.

    A quantile is the middle of the bin in which it lies, so
    :math:`|\hat q - q| \le 2^{-8} |q|` (+ 2^-1030 for what is below the normal numbers), where q is the smallest value
    with at least a fraction p of the values at or below it.

    >>> histogram = Histogram.of([-1.0, 0.0, 0.0, 100.0])
    >>> histogram.quantiles([0.25, 0.5, 1.0])
    array([ -1.,   0., 100.])
    """

    bins: Integers  # (B,) numbers of the bins that are not empty, in the order of the values in them
    counts: Integers  # (B,)
    minimum: float  # of the finite values; NaN where there are none
    maximum: float
    nans: int = 0
    below: int = 0  # how often -infinity
    above: int = 0  # how often +infinity

    @classmethod
    def of(cls, values: ArrayLike) -> Histogram:
        """The histogram of all entries of an array of any shape."""
        x = np.ravel(np.asarray(values, dtype=np.float64))
        nans = below = above = 0
        if x.size and not np.isfinite([x.min(), x.max()]).all():
            nans, below, above = int(np.isnan(x).sum()), int((x == -np.inf).sum()), int((x == np.inf).sum())
            x = x[np.isfinite(x)]
        if not x.size:
            return cls(np.empty(0, np.int64), np.empty(0, np.int64), np.nan, np.nan, nans, below, above)
        numbers = x.view(np.int64) >> _BITS_DROPPED  # keeps sign, exponent and 7 bits of the mantissa
        first = int(numbers.min())
        numbers -= first
        found = np.bincount(numbers)
        filled = np.flatnonzero(found)
        bins = filled + first
        bins = np.where(bins < 0, ~(bins + _SIGN), bins)  # ~n = -n - 1: the negative bins mirror the positive ones
        order = np.argsort(bins)
        low, high = float(x.min()), float(x.max())
        return cls(bins[order], found[filled][order], low, high, nans, below, above)

    def merge(self, other: Histogram) -> Histogram:
        """The histogram of both sets of values together; exact."""
        bins, where = np.unique(np.concatenate([self.bins, other.bins]), return_inverse=True)
        counts = np.zeros(bins.size, np.int64)
        np.add.at(counts, where, np.concatenate([self.counts, other.counts]))
        low, high = np.fmin(self.minimum, other.minimum), np.fmax(self.maximum, other.maximum)
        lost = (self.nans + other.nans, self.below + other.below, self.above + other.above)
        return Histogram(bins, counts, float(low), float(high), *lost)

    @property
    def total(self) -> int:
        """Number of values seen, NaN and infinities among them."""
        return int(self.counts.sum()) + self.nans + self.below + self.above

    def quantiles(self, probabilities: Sequence[float] | Floats) -> Floats:
        """The quantile for each probability in [0, 1]; NaN where a NaN or nothing was seen, infinities count.

        Raises:
            CallError: a probability outside of [0, 1].
        """
        p = np.asarray(probabilities, dtype=np.float64)
        if not ((p >= 0) & (p <= 1)).all():
            raise CallError(f"probabilities: expected numbers in [0, 1], got {brief(probabilities)}")
        if self.nans or not self.total:
            return np.full(p.shape, np.nan)
        ranks = np.clip(np.ceil(p * self.total * (1 - 4 * _EPS)), 1, self.total)  # 0.95 of 20 is the 19th, not the 20th
        middles = np.concatenate([[-np.inf], self._middles(), [np.inf]])
        counts = np.concatenate([[self.below], self.counts, [self.above]])
        return np.asarray(middles[np.searchsorted(np.cumsum(counts), ranks)])

    def density(self, bins: int = 60, limits: tuple[float, float] | None = None) -> tuple[Floats, Floats]:
        """Edges (bins + 1,) of equal bins and in each the fraction of all values per unit of x, for a picture.

        Within one fine bin the values count as spread evenly. ``limits`` are the finite range by default, widened
        on each side by half of its size, or 1/2, where it is too narrow to divide; what lies outside is left out, so
        that the densities integrate to the fraction inside.

        Raises:
            CallError: limits that are not finite or not in order, or fewer than 1 bin.
        """
        low, high = limits if limits is not None else (self.minimum, self.maximum)
        size = max(abs(low), abs(high), 1.0)
        if limits is None and high - low <= 64 * bins * _EPS * size:
            low, high = low - size / 2, high + size / 2
        if bins < 1 or not 0 < high - low < np.inf:
            raise CallError(f"density: expected finite limits in order and bins >= 1, got ({low}, {high}) and {bins}")
        edges = np.linspace(low, high, bins + 1)
        start, stop = (np.clip(side, self.minimum, self.maximum) for side in self._edges())
        seen = np.cumsum(self.counts)
        x = np.stack([start, stop], axis=1).ravel()
        y = np.stack([seen - self.counts, seen], axis=1).ravel() / self.total
        cumulative = np.interp(edges, x, y)
        # np.interp takes the right-hand value at a jump; the first edge must not lose what lies exactly on it.
        cumulative[0] = 0.0 if edges[0] <= self.minimum else cumulative[0]
        return edges, np.diff(cumulative) / np.diff(edges)

    def _edges(self) -> tuple[Floats, Floats]:
        """Lower and upper edge of each bin."""
        magnitude = np.where(self.bins < 0, ~self.bins, self.bins)
        inner = (magnitude << _BITS_DROPPED).view(np.float64)
        outer = ((magnitude + 1) << _BITS_DROPPED).view(np.float64)
        negative = self.bins < 0
        return np.where(negative, -outer, inner), np.where(negative, -inner, outer)

    def _middles(self) -> Floats:
        """The middle of each bin, 0 for the one that holds 0, within the range of the values."""
        magnitude = np.where(self.bins < 0, ~self.bins, self.bins)
        middle = ((magnitude << _BITS_DROPPED) | (1 << (_BITS_DROPPED - 1))).view(np.float64)
        middle = np.where(magnitude == 0, 0.0, middle)
        return np.clip(np.where(self.bins < 0, -middle, middle), self.minimum, self.maximum)
