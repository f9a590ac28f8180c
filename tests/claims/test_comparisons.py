"""One value per seed, from two runs of that seed."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
from tests.claims.tables import linear_spec, row, runs_of
from tests.reference import statistics as naive
from tests.studies import run_spec

from alidade.claims.claim import Runs
from alidade.claims.comparisons import (
    alone,
    band_log_ratio,
    last_value,
    log_ratio,
    mean_over_layers,
    mean_over_probes,
    mean_over_training,
    median_over_probes,
    paired,
    untrained,
)
from alidade.claims.quantities import RELATIVE_STEPS, BandSeries, paper_step_sizes
from alidade.core.spec import RunSpec

STEPS = 40
WIDTH = BandSeries("loss", "width")
TWIN = BandSeries("relative_loss", "width")


def _rows(seed: int, scale: float, broken: tuple[int, ...] = ()) -> list[dict[str, object]]:
    """A run's training loss, and line profiles at every second step whose losses spread in proportion to ``scale``."""
    random = np.random.default_rng(seed)
    rows: list[dict[str, object]] = [
        {"step": step, "quantity": "train_loss", "step_size": None, "value": 2.5 * 0.95**step, "status": "ok"}
        for step in range(STEPS)
    ]
    for step in range(0, STEPS + 1, 2):
        for quantity, sizes in (("loss", paper_step_sizes(0.1)), ("relative_loss", RELATIVE_STEPS)):
            for size in sizes:
                value, status = scale * random.random(), "non_finite" if step in broken else "ok"
                rows.append({"step": step, "quantity": quantity, "step_size": size, "value": value, "status": status})
    return rows


def _runs(*parts: tuple[str, int, list[dict[str, object]]]) -> Runs:
    """Runs by norm and seed."""
    specs = {(norm, seed): run_spec(seed, norm, steps=STEPS) for norm, seed, _ in parts}  # type: ignore[arg-type]
    rows = [{"run": specs[norm, seed].run_id, **row} for norm, seed, found in parts for row in found]
    schema = {"run": str, "step": int, "quantity": str, "step_size": float, "value": float, "status": str}
    return Runs(pl.DataFrame(rows, schema=schema), {spec.run_id: spec for spec in specs.values()})


def _value(runs: Runs, series: BandSeries, equal_loss: bool) -> float | None:
    found = paired(runs, "none", "batch", 0.1, band_log_ratio(series, equal_loss), "why")
    return next(iter(found.values.values()), None)


@pytest.mark.parametrize(("series", "sizes"), [(WIDTH, paper_step_sizes(0.1)), (TWIN, RELATIVE_STEPS)])
def test_at_equal_step_it_is_the_ratio_of_means_over_steps_that_both_have(
    series: BandSeries, sizes: tuple[float, ...]
) -> None:
    plain, batch = _rows(1, 3.0, broken=(10, 20)), _rows(2, 1.0, broken=(20, 30))
    bands = [naive.band(rows, series.quantity, "width", sizes) for rows in (plain, batch)]
    steps = [step for step in range(4, STEPS + 1, 2) if step not in (10, 20, 30)]
    expected = math.log(sum(bands[0][step] for step in steps) / sum(bands[1][step] for step in steps))
    found = _value(_runs(("none", 100, plain), ("batch", 100, batch)), series, equal_loss=False)
    assert found == pytest.approx(expected, rel=1e-13)  # sums of 20 numbers of one sign: 20 roundings


def test_at_equal_loss_it_is_the_ratio_over_bins_of_the_smoothed_loss() -> None:
    plain, batch = _rows(1, 3.0), _rows(2, 1.0)
    smooth = naive.smoothed([2.5 * 0.95**step for step in range(STEPS)], 10)
    smooth.append(smooth[-1])  # the last probe comes after the last step
    sizes = paper_step_sizes(0.1)
    pairs = [[(smooth[s], v) for s, v in naive.band(rows, "loss", "width", sizes).items()] for rows in (plain, batch)]
    expected = naive.log_ratio_at_equal_loss(pairs[0], pairs[1])
    found = _value(_runs(("none", 100, plain), ("batch", 100, batch)), WIDTH, equal_loss=True)
    assert expected is not None
    assert found == pytest.approx(expected, rel=1e-12)  # as above, of logs


def test_a_run_that_broke_down_early_is_not_compared() -> None:
    most = tuple(range(0, STEPS, 2))[6:]
    runs = _runs(("none", 100, _rows(1, 3.0, broken=most)), ("batch", 100, _rows(2, 1.0)))
    assert _value(runs, WIDTH, equal_loss=False) is None


@pytest.mark.parametrize("equal_loss", [False, True])
def test_a_run_without_any_band_is_left_out_with_the_reason(equal_loss: bool) -> None:
    everything = tuple(range(STEPS + 1))
    runs = _runs(
        ("none", 100, _rows(1, 3.0, broken=everything)), ("batch", 100, _rows(2, 1.0)),
        ("none", 101, _rows(3, 3.0)), ("batch", 101, _rows(4, 1.0)),
    )  # fmt: skip
    found = paired(runs, "none", "batch", 0.1, band_log_ratio(WIDTH, equal_loss), "no band")
    assert set(found.values) == {101}
    assert found.reason == "1 of 2 seeds left out: no band"
    assert len(found.runs) == 4


def test_only_seeds_that_both_have_make_pairs() -> None:
    content = {seed: _rows(seed, 1.0) for seed in (100, 101, 102)}
    runs = _runs(*(("none", seed, content[seed]) for seed in (100, 102)), ("batch", 102, content[102]))
    found = paired(runs, "none", "batch", 0.1, lambda runs, a, b: 0.0 if a != b else 1.0, "why")
    assert (found.values, found.reason) == ({102: 0.0}, "")
    assert set(found.runs) == {run_spec(102, "none", steps=STEPS).run_id, run_spec(102, "batch", steps=STEPS).run_id}
    assert paired(runs, "none", "batch", 0.5, lambda runs, a, b: 0.0, "why").runs == ()


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (8.0, 2.0, math.log(4)), (None, 1.0, None), (1.0, None, None), (0.0, 1.0, None), (1.0, -1.0, None),
        (5e-324, 1.7e308, math.log(5e-324) - math.log(1.7e308)),  # the quotient itself would be 0
    ],
)  # fmt: skip
def test_the_log_ratio_is_missing_where_it_is_not_defined(
    first: float | None, second: float | None, expected: float | None
) -> None:
    assert log_ratio(first, second) == (None if expected is None else pytest.approx(expected, rel=1e-15))


def test_a_mean_over_training_counts_the_steps_asked_for_and_refuses_holes() -> None:
    rows = _rows(1, 1.0)
    runs = _runs(("none", 100, rows))
    (run,) = runs.specs
    losses = [2.5 * 0.95**step for step in range(STEPS)]
    assert mean_over_training(runs, run, "train_loss") == pytest.approx(np.mean(losses), rel=1e-14)
    assert mean_over_training(runs, run, "train_loss", 0.8) == pytest.approx(np.mean(losses[32:]), rel=1e-14)
    assert mean_over_training(runs, run, "not measured") is None
    broken = [row | {"value": math.nan} if row["step"] == 35 else row for row in rows]
    assert mean_over_training(_runs(("none", 100, broken)), run, "train_loss") is None


def _augmented(spec: RunSpec) -> RunSpec:
    return spec.model_copy(update={"data": spec.data.model_copy(update={"augment": True})})


def test_augmented_runs_are_paired_with_augmented_ones() -> None:
    plain = [run_spec(100, norm) for norm in ("none", "batch")]  # type: ignore[arg-type]
    shifted = [_augmented(spec) for spec in plain]
    runs = runs_of(*((spec, []) for spec in (*plain, *shifted)))
    for augment, specs in ((False, plain), (True, shifted)):
        found = paired(runs, "none", "batch", 0.1, lambda runs, a, b: 1.0, "why", augment)
        assert found.runs == tuple(spec.run_id for spec in specs)
    only_plain = runs_of(*((spec, []) for spec in plain))
    assert paired(only_plain, "none", "batch", 0.1, lambda runs, a, b: 1.0, "why", True).runs == ()


def test_alone_is_one_value_per_seed_of_one_norm() -> None:
    specs = {seed: run_spec(seed, "batch") for seed in (103, 100, 101, 102)}
    others = [run_spec(100, "none"), run_spec(100, "batch", 0.5), _augmented(specs[100])]
    runs = runs_of(*((spec, []) for spec in (*specs.values(), *others)))
    values: dict[str, float | None] = {
        specs[100].run_id: 1.5, specs[101].run_id: None, specs[102].run_id: math.nan, specs[103].run_id: -2.0,
    }  # fmt: skip
    found = alone(runs, "batch", 0.1, lambda runs, run: values[run], "no value")
    assert dict(found.values) == {100: 1.5, 103: -2.0}
    assert found.runs == tuple(specs[seed].run_id for seed in (100, 101, 102, 103))
    assert found.reason == "2 of 4 seeds left out: no value"
    assert alone(runs, "l1", 0.1, lambda runs, run: 1.0, "why") == type(found)({}, (), "")


@pytest.mark.parametrize(
    ("values", "expected"),
    [([3.0, 2.0, 1.0], 1.0), ([3.0, 2.0, math.nan], None), ([math.nan, 2.0], 2.0), ([3.0, math.inf], None), ([], None)],
)
def test_the_last_value_is_that_of_the_last_step(values: list[float], expected: float | None) -> None:
    spec = run_spec()
    rows = [row(10 * step, "test_accuracy", value) for step, value in enumerate(values)]
    runs = runs_of((spec, [*reversed(rows), row(99, "test_loss", 7.0)]))
    assert last_value(runs, spec.run_id, "test_accuracy") == expected


SHIFT = "covariate_shift_l2"


def _shifts(values: list[tuple[float, str]], layer: str = "conv5", first_step: int = 4) -> list[dict[str, object]]:
    return [row(first_step + k, SHIFT, value, layer=layer, status=status) for k, (value, status) in enumerate(values)]


def _median(rows: list[dict[str, object]], **options: object) -> float | None:
    spec = run_spec(steps=STEPS)
    return median_over_probes(runs_of((spec, rows)), spec.run_id, SHIFT, **options)  # type: ignore[arg-type]


def test_a_median_is_of_one_layer_or_of_all_after_the_first_tenth() -> None:
    five = _shifts([(3.0, "ok"), (1.0, "ok"), (2.0, "ok")])
    ten = _shifts([(30.0, "ok"), (10.0, "ok")], layer="conv10")
    early = _shifts([(1e6, "ok")] * 4, first_step=0)
    assert _median(five + ten + early, layer="conv5") == 2.0
    assert _median(five + ten + early, layer="conv10") == 20.0
    assert _median(five + ten + early) == 3.0
    assert _median(five + ten + early, layer="conv7") is None
    assert _median([]) is None


def test_what_is_below_its_resolution_keeps_its_rank() -> None:
    """Without the small ones the median would be 5: a shift that is lost in rounding would look like a large one."""
    rows = _shifts([(1e-9, "below_resolution"), (2e-9, "below_resolution"), (4.0, "ok"), (5.0, "ok"), (6.0, "ok")])
    assert _median(rows) == 4.0


@pytest.mark.parametrize("status", ["below_resolution", "non_finite", "undefined"])
def test_a_median_needs_half_of_the_probes(status: str) -> None:
    value = 1.0 if status == "below_resolution" else math.nan
    half = [(2.0, "ok"), (4.0, "ok"), (value, status), (value, status)]
    assert _median(_shifts(half)) == (1.5 if status == "below_resolution" else 3.0)
    assert _median(_shifts([*half, (value, status)])) is None


def test_a_median_at_one_step_size() -> None:
    rows = [row(10 + k, SHIFT, 10.0 * k + size, size) for k in range(3) for size in (0.0, 0.1, 0.2)]
    assert _median(rows, step_size=0.1) == 10.1
    assert _median(rows, step_size=0.0) == 10.0
    assert _median(rows, step_size=0.1 * (1 + 1e-13)) == 10.1
    assert _median(rows, step_size=0.3) is None


def test_a_mean_over_probes_is_of_all_ok_numbers() -> None:
    spec = run_spec(steps=STEPS)
    rows = [row(step, "x", value, layer=layer) for step, value, layer in ((0, 1.0, "a"), (5, 2.0, "b"), (9, 9.0, "a"))]
    runs = runs_of((spec, [*rows, row(7, "x", 100.0, status="non_finite"), row(7, "y", 50.0)]))
    assert mean_over_probes(runs, spec.run_id, "x") == 4.0
    expected = (math.log(1) + math.log(2) + math.log(9)) / 3
    assert mean_over_probes(runs, spec.run_id, "x", geometric=True) == pytest.approx(expected, rel=1e-15)
    assert mean_over_probes(runs, spec.run_id, "z") is None


@pytest.mark.parametrize(("lost", "expected"), [(2, 3.0), (3, None)])
def test_the_few_probes_before_a_divergence_do_not_speak_for_a_run(lost: int, expected: float | None) -> None:
    spec = run_spec(steps=STEPS)
    found = [row(step, "x", 3.0) for step in range(2)]
    gone = [row(10 + step, "x", math.nan, status="undefined") for step in range(lost)]
    assert mean_over_probes(runs_of((spec, [*found, *gone])), spec.run_id, "x") == expected


@pytest.mark.parametrize(("values", "expected"), [([0.0, -1.0], None), ([0.0, math.e], 1.0)])
def test_a_geometric_mean_is_of_positive_numbers(values: list[float], expected: float | None) -> None:
    spec = run_spec()
    runs = runs_of((spec, [row(step, "x", value) for step, value in enumerate(values)]))
    assert mean_over_probes(runs, spec.run_id, "x", geometric=True) == expected


def test_a_mean_over_layers_refuses_holes() -> None:
    spec = run_spec()
    rows = [row(5, "x", 1.0, layer="a"), row(5, "x", 4.0, layer="b")]
    assert mean_over_layers(runs_of((spec, rows)), spec.run_id, "x") == 2.5
    rows.append(row(6, "x", math.nan, layer="a", status="non_finite"))
    assert mean_over_layers(runs_of((spec, rows)), spec.run_id, "x") is None


def test_a_deep_linear_network_has_a_list_of_its_own() -> None:
    """Its band is over 1/100 to 10^1.5 learning rates, and other step sizes do not count."""
    sizes = paper_step_sizes(1e-6, "deep_linear")
    specs = [linear_spec(norm=norm, steps=STEPS) for norm in ("none", "batch")]

    def rows(width: float) -> list[dict[str, object]]:
        band = [row(step, "loss", width * k, size) for step in range(0, STEPS, 2) for k, size in enumerate(sizes)]
        return [*band, *(row(step, "loss", 1e9, 5e-7) for step in range(0, STEPS, 2))]

    runs = runs_of(*zip(specs, (rows(6.0), rows(2.0)), strict=True))
    found = paired(runs, "none", "batch", 1e-6, band_log_ratio(WIDTH, equal_loss=False), "why")
    assert found.values[100] == pytest.approx(math.log(3), rel=1e-13)


def test_rows_are_those_of_the_run_and_of_no_other() -> None:
    first, second, third = (run_spec(seed) for seed in (100, 101, 102))
    runs = runs_of((first, [row(0, "x", 1.0), row(1, "x", 2.0)]), (second, [row(0, "x", 3.0)]), (third, []))
    assert runs.of(first.run_id, "x")["value"].to_list() == [1.0, 2.0]
    assert runs.of(second.run_id, "x")["value"].to_list() == [3.0]
    for run, quantity in ((third.run_id, "x"), ("no such run", "x"), (first.run_id, "y")):
        assert runs.of(run, quantity).is_empty()
        assert runs.of(run, quantity).columns == runs.frame.columns


@pytest.mark.parametrize(("end", "stuck"), [(2.0, True), (1.61, True), (1.59, False), (0.1, False), (math.nan, False)])
def test_untrained_is_a_loss_that_ends_where_it_began(end: float, stuck: bool) -> None:
    """The median of the first tenth is 2, its spikes aside; four fifths of it are 1.6."""
    spec = run_spec(steps=STEPS)
    losses = [2.0, 2.0, 50.0, 2.0] + [1.0] * (STEPS - 8) + [end] * 4
    runs = runs_of((spec, [row(step, "train_loss", loss) for step, loss in enumerate(losses)]))
    assert untrained(runs, spec.run_id) is stuck
