"""The digitized curves that the package carries: the whole table, and numbers that are known from the figures."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from alidade.report.paper_curves import PATH, SCHEMA, STEPS, paper_curves
from alidade.report.paper_numbers import series

DIGITIZED = Path(__file__).resolve().parents[3] / "shared" / "reference" / "paper_curves.csv"


def test_the_package_holds_every_digitized_point():
    if not DIGITIZED.exists():
        pytest.skip("the digitized series as CSV do not lie beside the project")
    read = pl.read_csv(DIGITIZED, schema_overrides=SCHEMA).select(list(SCHEMA))
    assert_frame_equal(paper_curves(), read, check_row_order=False, check_exact=True)


def test_the_table_is_small_and_complete():
    assert PATH.stat().st_size < 150_000
    counts = dict(paper_curves().group_by("figure").len().iter_rows())
    assert counts == {1: 668, 2: 453, 3: 5620, 4: 1510, 5: 1760, 8: 5400, 10: 2010, 11: 918, 12: 4530, 13: 6030}
    assert dict(paper_curves().group_by("network").agg(pl.col("step").max()).iter_rows()) == STEPS
    assert paper_curves()["value"].is_finite().all()


def test_it_reads_the_columns_that_it_promises():
    assert dict(paper_curves().schema) == SCHEMA


# Read off the figures independently of the file, to three digits.
KNOWN = [
    ("loss_min", "none", 0.1, None, 4, 1_000, 2.70),
    ("loss_max", "none", 0.1, None, 4, 1_000, 8.13),
    ("loss_min", "batch", 0.1, None, 4, 5_000, 1.36),
    ("gradient_distance_max", "none", 0.1, None, 4, 2_500, 254.9),
    ("effective_smoothness", "batch", 0.1, None, 4, 0, 25.3),
    ("test_accuracy", "batch", 0.1, None, 1, 15_000, 0.829),
    ("train_loss", "l1", 1e-6, None, 5, 7_000, 307.0),
    ("train_loss", "batch", 1e-6, None, 3, 0, 55_835.0),
    ("loss_max", "none", 1e-6, None, 10, 100, 6.2e14),
]


@pytest.mark.parametrize(("quantity", "norm", "rate", "layer", "figure", "step", "value"), KNOWN)
def test_known_numbers_of_the_figures(quantity, norm, rate, layer, figure, step, value):
    curve = series(quantity, norm, rate, layer, figure)
    assert curve.filter(step=step)["value"].item() == pytest.approx(value, rel=0.005)


def test_a_run_that_two_figures_show_is_the_same_in_both():
    # 0.5 % of an axis: VGG bands agree to 1e-4 relative or 1e-3 absolute.
    for quantity in ("loss_min", "loss_max", "effective_smoothness"):
        first, second = (series(quantity, "batch", figure=figure) for figure in (4, 12))
        both = first.join(second, on="step")
        assert both.height == 151
        worst = ((both["value"] - both["value_right"]).abs() / both["value"]).max()
        assert worst < (5e-3 if quantity == "effective_smoothness" else 1e-3)
