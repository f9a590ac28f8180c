"""What the plateau at 2 / learning rate is: on profiles whose answer is known, and against a transcription."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import polars as pl
import pytest
from tests.claims.tables import linear_spec, row, runs_of
from tests.studies import run_spec

from alidade.claims.claim import Runs
from alidade.claims.plateaus import EDGE, FEWEST_PROBES, GONE, edge_share, saturation_log_ratio, smoothness_share
from alidade.core.spec import RunSpec
from alidade.store.segments import COMPACT

RATE, STEPS, EVERY = 0.1, 100, 5
SIZES = (RATE / 100, RATE / 10, RATE / 2, RATE, 2 * RATE, 4 * RATE)
VGG = run_spec(learning_rate=RATE, steps=STEPS)
PROBES = range(0, STEPS + 1, EVERY)
LATE = [step for step in PROBES if step >= 10]

Rows = list[dict[str, object]]


def _profile(step: int, sizes: tuple[float, ...], gradient_at: Callable[[float], float], loss: float = 1.0) -> Rows:
    """Along one coordinate: g(eta) at theta - eta g(0), with the estimators' own definitions."""
    g = gradient_at(0.0)
    rows = [row(step, "loss", loss, 0.0), row(step, "gradient_norm", abs(g), 0.0)]
    for eta in sizes:
        change = g - gradient_at(eta)
        rows += [
            row(step, "gradient_distance", abs(change), eta),
            row(step, "effective_smoothness", abs(change) / (eta * abs(g)), eta),
            row(step, "directional_curvature", g * change / (eta * g * g), eta),
        ]
    return rows


def _quadratic(curvature: float, gradient: float = 3.0) -> Callable[[float], float]:
    """The gradient of curvature x^2 / 2 along its own direction."""
    return lambda eta: gradient * (1 - eta * curvature)


def _run(gradient_at: Callable[[float], float], sizes: tuple[float, ...] = SIZES) -> tuple[Runs, str]:
    rows = [entry for step in PROBES for entry in _profile(step, sizes, gradient_at)]
    return runs_of((VGG, rows)), VGG.run_id


def test_a_quadratic_of_curvature_2_over_lr_is_at_the_edge() -> None:
    runs, run = _run(_quadratic(2 / RATE))
    assert edge_share(runs, run) == 1.0
    # Its gradient is gone after half a step, and no step is smoother than another. 1 - eta * curvature loses at most
    # the last digit, at the smallest step of a change of 1/50: 50 roundings.
    assert saturation_log_ratio(runs, run) == pytest.approx(0.0, abs=100 * np.finfo(float).eps)


def test_text_that_a_study_keeps_as_categories_reads_as_text_does() -> None:
    runs, run = _run(_quadratic(2 / RATE))
    texts = [name for name, kind in runs.frame.schema.items() if kind == pl.String]
    kept = Runs(runs.frame.with_columns(pl.col(name).cast(COMPACT[name]) for name in texts), runs.specs)
    for value in (edge_share, smoothness_share, saturation_log_ratio):
        assert value(kept, run) == value(runs, run) is not None


def test_the_share_of_the_papers_smoothness_takes_the_largest_over_its_list() -> None:
    """Saturation: 1 / eta, so at half a learning rate, the smallest of the list, it is exactly 2 / learning rate."""
    runs, run = _run(lambda eta: 3.0 if eta == 0 else 0.0)
    assert smoothness_share(runs, run) == 1.0
    assert edge_share(runs, run) == 0.0
    runs, run = _run(_quadratic(1.8 / RATE))
    assert smoothness_share(runs, run) == 0.0


@pytest.mark.parametrize(
    ("factor", "share"), [(1.89, 0.0), (1.91, 1.0), (2.09, 1.0), (2.11, 0.0), (-2.0, 0.0), (0.5, 0.0)]
)
def test_the_edge_has_two_sides_and_a_sign(factor: float, share: float) -> None:
    runs, run = _run(_quadratic(factor / RATE))
    assert edge_share(runs, run) == share


@pytest.mark.parametrize("smallest", [RATE / 1000, RATE / 100, RATE / 10])
def test_a_gradient_that_is_gone_at_once_shows_the_ratio_of_the_step_sizes(smallest: float) -> None:
    runs, run = _run(lambda eta: 3.0 if eta == 0 else 0.0, (smallest, RATE / 2, RATE))
    ratio = saturation_log_ratio(runs, run)
    assert ratio == pytest.approx(math.log(RATE / 2 / smallest), rel=1e-14)  # the logarithm of a quotient
    assert edge_share(runs, run) == 0.0  # the curvature is 1 / smallest


@pytest.mark.parametrize("left", [0.19, 0.21, -0.24, -0.26])
def test_a_gradient_that_half_a_step_leaves_is_no_saturation(left: float) -> None:
    """distance / norm = 1 - left counts from 0.8 to 1.25."""
    runs, run = _run(lambda eta: 3.0 if eta == 0 else 3.0 * left)
    found = saturation_log_ratio(runs, run)
    assert (found is None) == (not 0.8 <= 1 - left <= 1.25)


def test_sign_of_the_gradient_and_its_size_do_not_matter() -> None:
    for gradient in (-7.0, 1e-9, 1e9):
        runs, run = _run(_quadratic(2 / RATE, gradient))
        assert edge_share(runs, run) == 1.0


def _random_rows(seed: int, spec: RunSpec, sizes: tuple[float, ...]) -> Rows:
    """Curvatures about 2 / lr, gradients that half a step leaves more or less of, some numbers not ok."""
    random, rate, rows = np.random.default_rng(seed), spec.optimizer.learning_rate, []
    status = ["ok"] * 8 + ["below_resolution", "non_finite"]
    for step in range(0, spec.steps + 1, 5):
        rows += [row(step, "loss", float(random.uniform(1, 2)), 0.0)]
        rows += [row(step, "gradient_norm", float(random.uniform(0.8, 1.2)), 0.0)]
        for size in sizes:
            for name, value in (
                ("gradient_distance", random.uniform(0.7, 1.3)),
                ("effective_smoothness", random.lognormal(np.log(2 / rate))),
                ("directional_curvature", random.normal(2 / rate, 0.1 / rate)),
            ):
                rows.append(row(step, name, float(value), size, status=str(random.choice(status))))
    return rows


def _table(rows: Rows, quantity: str, size: float) -> dict[int, float]:
    """By step, what is ok after the first tenth."""
    return {
        int(entry["step"]): float(entry["value"])  # type: ignore[call-overload]
        for entry in rows
        if entry["quantity"] == quantity and entry["step_size"] == size and entry["status"] == "ok"
        if int(entry["step"]) >= STEPS / 10  # type: ignore[call-overload]
    }


@pytest.mark.parametrize("seed", range(5))
def test_the_share_is_its_definition(seed: int) -> None:
    rows = _random_rows(seed, VGG, SIZES)
    curvature = _table(rows, "directional_curvature", SIZES[0])
    inside = [EDGE[0] <= value * RATE <= EDGE[1] for value in curvature.values()]
    found = edge_share(runs_of((VGG, rows)), VGG.run_id)
    assert 0 < sum(inside) < len(inside)
    assert found == sum(inside) / len(inside)


@pytest.mark.parametrize("seed", range(5))
def test_the_ratio_is_its_definition(seed: int) -> None:
    rows = _random_rows(seed, VGG, SIZES)
    small, large = (_table(rows, "effective_smoothness", size) for size in (SIZES[0], RATE / 2))
    distance, norm = _table(rows, "gradient_distance", RATE / 2), _table(rows, "gradient_norm", 0.0)
    steps = [
        step
        for step in LATE
        if step in small and step in large and step in distance
        if GONE[0] <= distance[step] / norm[step] <= GONE[1]
    ]
    found = saturation_log_ratio(runs_of((VGG, rows)), VGG.run_id)
    if len(steps) < FEWEST_PROBES:
        assert found is None
    else:
        assert found == pytest.approx(np.median([np.log(small[s] / large[s]) for s in steps]), rel=1e-12)


def test_enough_of_the_random_tables_have_a_ratio() -> None:
    found = [saturation_log_ratio(runs_of((VGG, _random_rows(seed, VGG, SIZES))), VGG.run_id) for seed in range(5)]
    assert sum(value is not None for value in found) >= 3


def test_on_the_whole_data_set_only_steps_count_from_which_the_loss_falls() -> None:
    """Every second loss rises, and there the curvature is elsewhere; in a batch of some examples all of them count."""
    falls = dict(zip(PROBES, [2.0, 1.0] * 11, strict=False))

    def rows(rate: float) -> Iterator[dict[str, object]]:
        for step in PROBES:
            curvature = 2 / rate if falls[step] == 2.0 else 1 / rate
            sizes = tuple(factor * rate for factor in (0.01, 0.5, 1.0))
            yield from _profile(step, sizes, _quadratic(curvature), falls[step])

    linear = linear_spec(learning_rate=RATE, steps=STEPS)
    assert edge_share(runs_of((linear, rows(RATE))), linear.run_id) == 1.0
    high = sum(falls[step] == 2.0 for step in LATE)
    assert edge_share(runs_of((VGG, rows(RATE))), VGG.run_id) == pytest.approx(high / len(LATE))


def test_at_a_stationary_point_there_is_no_share() -> None:
    linear = linear_spec(learning_rate=RATE, steps=STEPS)
    rows = [entry for step in PROBES for entry in _profile(step, SIZES, _quadratic(2 / RATE), 1.0 - 1e-9 * step)]
    assert edge_share(runs_of((linear, rows)), linear.run_id) is None


@pytest.mark.parametrize(("probes", "defined"), [(4, False), (5, True)])
def test_five_probes_are_the_fewest(probes: int, defined: bool) -> None:
    rows = [entry for step in LATE[:probes] for entry in _profile(step, SIZES, _quadratic(2 / RATE))]
    runs = runs_of((VGG, rows))
    assert (edge_share(runs, VGG.run_id) is not None) is defined
    assert (saturation_log_ratio(runs, VGG.run_id) is not None) is defined


def test_the_first_tenth_does_not_count() -> None:
    early = [entry for step in (0, 5) for entry in _profile(step, SIZES, _quadratic(9 / RATE))]
    late = [entry for step in LATE for entry in _profile(step, SIZES, _quadratic(2 / RATE))]
    assert edge_share(runs_of((VGG, early + late)), VGG.run_id) == 1.0


def test_a_point_that_two_probes_list_counts_once() -> None:
    rows = [entry for step in LATE[:3] for entry in _profile(step, SIZES, _quadratic(2 / RATE))]
    nearly = [{**e, "step_size": e["step_size"] and float(e["step_size"]) * (1 + 1e-15)} for e in rows]  # type: ignore[arg-type]
    assert edge_share(runs_of((VGG, rows + nearly)), VGG.run_id) is None  # three probes, not six


def test_a_step_size_that_few_probes_resolve_does_not_speak_for_all() -> None:
    """Below the resolution only the largest curvatures would stand out; the next step size is looked at instead."""
    rows = []
    for step in PROBES:
        for entry in _profile(step, SIZES, _quadratic(2 / RATE)):
            tiny = entry["step_size"] == SIZES[0] and entry["quantity"] != "gradient_distance"
            if tiny and step % 15:
                entry = {**entry, "status": "below_resolution"}
            elif tiny:
                entry = {**entry, "value": 100 / RATE}
            rows.append(entry)
    runs = runs_of((VGG, rows))
    assert edge_share(runs, VGG.run_id) == 1.0
    assert saturation_log_ratio(runs, VGG.run_id) == pytest.approx(0.0, abs=1e-13)


def test_a_run_without_profiles_has_neither() -> None:
    runs = runs_of((VGG, [row(0, "train_loss", 1.0)]))
    assert edge_share(runs, VGG.run_id) is None
    assert saturation_log_ratio(runs, VGG.run_id) is None
