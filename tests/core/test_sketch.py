"""Moments and histograms against NumPy and SciPy, and what merging must not change."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tests.reference import activations as naive

from alidade.core.errors import CallError
from alidade.core.sketch import Histogram, Moments

MOMENTS = ("mean", "m2", "m3", "m4")
BIN = 2.0**-7  # relative width of a bin; a quantile is off by half of it
TINY = 2.0**-1029  # absolute width of the bin that holds 0

magnitudes = st.floats(-30, 30).map(lambda exponent: 10.0**exponent)
anything = st.one_of(
    st.floats(-10, 10), st.integers(-3, 3).map(float), magnitudes, magnitudes.map(lambda x: -x), st.just(0.0)
)
samples = st.lists(anything, min_size=1, max_size=60).map(lambda values: np.array([values]))


def assert_close(first: Moments, second: Moments, values: np.ndarray) -> None:
    """Each merge rounds sums of at most 200 terms of the size of the k-th power of the largest deviation."""
    assert first.count == second.count
    np.testing.assert_array_equal(first.minimum, second.minimum)
    np.testing.assert_array_equal(first.maximum, second.maximum)
    scale = np.abs(values).max() + values.max() - values.min()
    units = 4 * 5e-324  # below the normal numbers every operation may round by one of these
    for k, name in enumerate(MOMENTS, start=1):
        tolerance = 1e-13 * values.size * scale**k + units
        np.testing.assert_allclose(getattr(first, name), getattr(second, name), rtol=1e-10, atol=tolerance)


def assert_same(first: Histogram, second: Histogram) -> None:
    for name in ("bins", "counts", "minimum", "maximum", "nans", "below", "above"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


@given(samples, samples, samples)
def test_merging_is_associative_and_commutative(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> None:
    x, y, z = Moments.of(a), Moments.of(b), Moments.of(c)
    together = np.concatenate([a, b, c], axis=1)
    assert_close(x.merge(y).merge(z), x.merge(y.merge(z)), together)
    assert_close(x.merge(y), y.merge(x), together)
    assert_close(x.merge(y).merge(z), Moments.of(together), together)
    p, q, r = Histogram.of(a), Histogram.of(b), Histogram.of(c)
    assert_same(p.merge(q).merge(r), p.merge(q.merge(r)))
    assert_same(p.merge(q), q.merge(p))
    assert_same(p.merge(q).merge(r), Histogram.of(together))


@given(arrays(np.float64, st.tuples(st.integers(1, 4), st.integers(1, 40)), elements=st.floats(-100, 100, width=32)))
def test_moments_are_those_of_numpy_and_scipy(values: np.ndarray) -> None:
    found = Moments.of(values)
    np.testing.assert_allclose(found.mean, values.mean(1), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.variance, values.var(1), rtol=1e-9, atol=1e-20)
    spread = values.std(1) > 1e-3  # below it the reference itself cancels
    expected = naive.moments(values[spread]) if spread.any() else {"skewness": [], "kurtosis": []}
    np.testing.assert_allclose(found.skewness[spread], expected["skewness"], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(found.kurtosis[spread], expected["kurtosis"], rtol=1e-6)
    constant = values.max(1) == values.min(1)
    assert (found.variance[constant] == 0).all()
    assert np.isnan(found.skewness[constant]).all()
    assert np.isnan(found.kurtosis[constant]).all()


@given(samples)
def test_pooling_units_is_the_moment_of_all_values(values: np.ndarray) -> None:
    half = values.size // 2
    if half == 0:
        return
    pairs = values[:, : 2 * half].reshape(2, half)
    assert_close(Moments.of(pairs).pooled(), Moments.of(pairs.reshape(1, -1)), pairs)


@pytest.mark.parametrize("value", [0.1, 1e30, -1e-30, 0.0, 1e200])
def test_a_constant_has_no_variance_not_even_by_rounding(value: float) -> None:
    moments = Moments.of(np.full((1, 7), value))
    for _ in range(5):
        moments = moments.merge(Moments.of(np.full((1, 3), value)))
    assert (moments.mean, moments.variance) == (value, 0.0)
    assert np.isnan(moments.kurtosis)


def test_a_spread_that_is_only_rounding_has_no_kurtosis() -> None:
    moments = Moments.of([[1e16, 1e16 + 2, 1e16]])
    assert np.isnan(moments.kurtosis)
    assert np.isnan(moments.skewness)


def test_fourth_powers_outside_of_float64_are_not_made_up() -> None:
    for scale in (1e-90, 1e100):
        moments = Moments.of([[scale, 2 * scale, 4 * scale]])
        assert np.isnan(moments.kurtosis)
        assert moments.variance == pytest.approx(14 / 9 * scale**2, rel=1e-12)


def test_moments_far_from_zero_keep_their_digits() -> None:
    """The sum of squares minus the squared sum would have no digit left here."""
    values = np.random.default_rng(0).standard_normal((1, 4000))
    near, far = Moments.of(values), Moments.of(np.empty((1, 0)))
    for part in np.split(values + 1e8, 40, axis=1):
        far = far.merge(Moments.of(part))
    # Shifting rounds each value to 1e-8, independently, and the means to as much.
    assert far.variance == pytest.approx(near.variance, rel=1e-7)
    assert far.kurtosis == pytest.approx(near.kurtosis, rel=1e-6)


@given(samples, st.lists(st.floats(0, 1), min_size=1, max_size=8))
@example(np.array([[-1e30, 1e-30, 1e30, 0.0, -0.0]]), [0.0, 0.5, 1.0])
@example(np.full((1, 20), 0.3), [0.05, 0.95])
def test_a_quantile_is_within_half_a_bin(values: np.ndarray, probabilities: list[float]) -> None:
    exact = np.sort(values.ravel())
    ranks = np.clip(np.ceil(np.array(probabilities) * exact.size * (1 - 1e-15)).astype(int), 1, exact.size)
    expected = exact[ranks - 1]
    found = Histogram.of(values).quantiles(probabilities)
    assert (np.abs(found - expected) <= BIN / 2 * np.abs(expected) + TINY / 2).all()


@given(arrays(np.float64, 30, elements=st.floats(allow_nan=False)))
def test_the_bound_holds_for_every_number_that_float64_has(values: np.ndarray) -> None:
    found = Histogram.of(values).quantiles(naive.PROBABILITIES)
    expected = naive.quantiles(values)
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(found[~finite], expected[~finite])
    found, expected = found[finite], expected[finite]
    assert (np.abs(found - expected) <= BIN / 2 * np.abs(expected) + TINY / 2).all()


def test_one_outlier_costs_the_others_nothing() -> None:
    values = np.random.default_rng(1).standard_normal(10_000)
    with_outlier = np.append(values, 1e30)
    found = Histogram.of(with_outlier).quantiles(naive.PROBABILITIES)
    np.testing.assert_allclose(found, naive.quantiles(with_outlier), rtol=BIN / 2)


def test_the_size_does_not_depend_on_the_number_of_values() -> None:
    rng = np.random.default_rng(2)
    sizes = [Histogram.of(rng.standard_normal(n)).bins.size for n in (10**3, 10**4, 10**5, 10**6)]
    assert sizes == sorted(sizes)
    assert sizes[-1] < 2 * 128 * 24  # two signs, 128 bins per octave, 2^-21 to 2^3 at this number
    merged = Histogram.of(rng.standard_normal(10**6))
    for _ in range(20):
        merged = merged.merge(Histogram.of(rng.standard_normal(10**5)))
    assert merged.total == 3 * 10**6
    assert merged.bins.size < 2 * 128 * 26


def test_no_more_bins_than_the_format_allows() -> None:
    high = np.arange(2**16, dtype=np.uint32) << 16  # every float32 with its last 16 bits 0, and every subnormal's bin
    low = np.arange(2**16, dtype=np.uint32)
    values = np.concatenate([high, low, low | np.uint32(2**31)]).view(np.float32)
    values = values[np.isfinite(values)].astype(np.float64)
    assert Histogram.of(values).bins.size < 7e4
    bits = np.random.default_rng(3).integers(-(2**63), 2**63, 10**6, dtype=np.int64)
    assert Histogram.of(bits.view(np.float64)).bins.size < 2**19


def test_nan_and_infinity_are_counted_and_not_averaged_away() -> None:
    values = np.array([[1.0, 2.0, np.nan, 3.0], [1.0, np.inf, -np.inf, 2.0], [1.0, np.inf, 2.0, 2.0], [1.0, 2, 3, 4]])
    moments = Moments.of(values)
    np.testing.assert_array_equal(moments.non_finite, [1, 2, 1, 0])
    np.testing.assert_array_equal(np.isnan(moments.mean), [True, True, True, False])
    np.testing.assert_array_equal(np.isnan(moments.variance), [True, True, True, False])
    np.testing.assert_array_equal(moments.maximum[1:], [np.inf, np.inf, 4])
    assert np.isnan(moments.maximum[0])
    later = Moments.of(np.ones((4, 3))).merge(moments).merge(Moments.of(np.ones((4, 3))))
    np.testing.assert_array_equal(np.isnan(later.mean), [True, True, True, False])
    np.testing.assert_array_equal(later.non_finite, [1, 2, 1, 0])
    assert np.isnan(later.pooled().mean)
    assert later.pooled().non_finite == 4
    histogram = Histogram.of(values)
    assert (histogram.nans, histogram.below, histogram.above, histogram.total) == (1, 1, 2, 16)
    assert np.isnan(histogram.quantiles([0.1, 0.5])).all()
    assert (histogram.minimum, histogram.maximum) == (1.0, 4.0)
    np.testing.assert_array_equal(Histogram.of(values[1:]).quantiles([0.0, 0.5, 1.0]).round(1), [-np.inf, 2.0, np.inf])


def test_nothing_seen_is_nothing_known() -> None:
    moments, histogram = Moments.of(np.empty((2, 0))), Histogram.of([])
    assert np.isnan([moments.mean, moments.variance, moments.kurtosis]).all()
    assert np.isnan(histogram.quantiles([0.5])).all()
    assert Moments.of(np.ones((2, 1))).merge(moments).count == 1
    assert histogram.merge(Histogram.of([1.0])).quantiles([0.5]) == 1.0


@given(samples, st.integers(1, 40))
@example(np.array([[1e16]]), 1)
@example(np.array([[1.0, 1.0 + 2**-52]]), 40)
@example(np.array([[-1.0, 0.0, 0.0]]), 2)
def test_a_density_integrates_to_one(values: np.ndarray, bins: int) -> None:
    edges, density = Histogram.of(values).density(bins)
    assert edges.shape == (bins + 1,)
    assert (density >= 0).all()
    assert (np.diff(edges) > 0).all()
    assert float((density * np.diff(edges)).sum()) == pytest.approx(1.0, rel=1e-9)


def test_a_density_is_numpys_histogram_to_the_width_of_a_bin() -> None:
    values = np.random.default_rng(4).standard_normal(50_000)
    edges, density = Histogram.of(values).density(30, (-3.0, 3.0))
    expected, _ = np.histogram(values, edges)
    # At each of the two edges of a bin at most one fine bin of width 3/128 and of density 0.4 is spread.
    np.testing.assert_allclose(density * 0.2, expected / values.size, atol=2 * 0.4 * 3 / 128)
    assert float(np.abs(density * 0.2 - expected / values.size).sum()) < 0.02


def test_bad_calls_are_one_line() -> None:
    histogram = Histogram.of([1.0, 2.0])
    for call in (
        lambda: histogram.quantiles([1.5]),
        lambda: histogram.quantiles([float("nan")]),
        lambda: histogram.density(0),
        lambda: histogram.density(3, (1.0, 1.0)),
        lambda: Histogram.of([]).density(),
        lambda: Moments.of(np.ones((2, 3))).merge(Moments.of(np.ones((3, 3)))),
    ):
        with pytest.raises(CallError) as caught:
            call()
        assert "expected" in str(caught.value)
        assert "\n" not in str(caught.value)
