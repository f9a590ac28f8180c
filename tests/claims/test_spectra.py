"""What claims read of a run's Hessian, on tables where the answer is known by hand."""

from __future__ import annotations

from math import log

import polars as pl
import pytest
from tests.claims.tables import SCHEMA, linear_spec, row

from alidade.claims import spectra
from alidade.claims.claim import Runs

SPEC = linear_spec(norm="batch", learning_rate=0.1, steps=100)
RUN = SPEC.run_id


def runs_of(*entries):
    """Entries are (statistics, row); the warm-up of this run ends at step 10."""
    rows = [{"run": RUN, "statistics": statistics, **entry} for statistics, entry in entries]
    return Runs(pl.DataFrame(rows, schema={**SCHEMA, "statistics": str}), {RUN: SPEC})


def eigenvalues(first, last, statistics="batch", steps=(20, 40, 60, 80)):
    for step in steps:
        yield statistics, row(step, "top_eigenvalue", first)
        yield statistics, row(step, "eigenvalue_10", last)


def test_the_outlier_ratio_is_that_of_the_first_and_the_tenth():
    runs = runs_of(*eigenvalues(40.0, 5.0), *eigenvalues(1e9, 1.0, steps=(0, 5)))  # steps 0 and 5: before the warm-up
    assert spectra.outlier_log_ratio(runs, RUN) == pytest.approx(log(8))


def test_running_statistics_are_another_series():
    runs = runs_of(*eigenvalues(40.0, 5.0), *eigenvalues(96.0, 4.0, "running"))
    assert spectra.running_over_batch(runs, RUN) == pytest.approx(log(24 / 8))
    assert spectra.running_over_batch(runs_of(*eigenvalues(40.0, 5.0)), RUN) is None


def test_too_few_usable_probes_say_nothing():
    negative = [("batch", row(step, "eigenvalue_10", -1.0)) for step in (20, 40, 60)]
    top = [("batch", row(step, "top_eigenvalue", 8.0)) for step in (20, 40, 60, 80)]
    runs = runs_of(*top, *negative, ("batch", row(80, "eigenvalue_10", 1.0)))
    assert spectra.outlier_log_ratio(runs, RUN) is None


def test_what_did_not_converge_is_no_eigenvalue():
    stuck = ("batch", row(90, "top_eigenvalue", 1e6, status="not_converged"))
    runs = runs_of(*eigenvalues(30.0, 5.0), stuck)
    assert spectra.sharpness_log(runs, RUN) == pytest.approx(log(30.0 * 0.1))


def test_the_share_at_the_edge_counts_1_8_to_2_2():
    values = (17.0, 18.0, 20.0, 22.0, 23.0)  # times the learning rate of 0.1
    runs = runs_of(*(("batch", row(20 + i, "top_eigenvalue", value)) for i, value in enumerate(values)))
    assert spectra.share_at_the_edge(runs, RUN) == pytest.approx(3 / 5)
    assert spectra.share_at_the_edge(runs_of(*eigenvalues(20.0, 1.0)), RUN) is None  # four probes only
