"""Claims judged on the paper's own plots: the claim's code, against the statistic written out."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from alidade.experiments import EXPERIMENTS
from alidade.experiments.paper import as_markdown, plotted
from alidade.report.paper_curves import paper_curves
from alidade.report.paper_numbers import band_mean
from alidade.report.paper_runs import paper_runs


def values(figure, quantity, norm, **more):
    rows = paper_curves().filter(figure=figure, quantity=quantity, norm=norm, **more).sort("step")
    return rows["step"].to_numpy(), rows["value"].to_numpy()


def late_mean(figure, quantity, norm, steps, fraction=0.1, **more):
    step, value = values(figure, quantity, norm, **more)
    return value[step >= fraction * steps].mean()


def test_the_bands_of_figure_4_written_out():
    width = {
        norm: late_mean(4, "loss_max", norm, 15_000) - late_mean(4, "loss_min", norm, 15_000)
        for norm in ("none", "batch")
    }
    found = plotted()
    # Fig. 4 and Fig. 12 show the same runs, digitized to 1e-4 relative or 1e-3 absolute: 0.5 % of a mean width of 0.2.
    assert found["loss_band"] == pytest.approx(width["none"] / width["batch"], rel=0.01)
    distance = [late_mean(4, "gradient_distance_max", norm, 15_000) for norm in ("none", "batch")]
    assert found["gradient_band"] == pytest.approx(distance[0] / distance[1], rel=0.01)


@pytest.mark.parametrize(
    ("claim", "quantity"),
    [
        ("loss_band", "loss"),
        ("gradient_band", "gradient_distance"),
        ("effective_smoothness", "effective_smoothness"),
    ],
)
def test_the_numbers_in_words_are_those_of_the_claims(claim, quantity):
    ratio = band_mean(quantity, "none") / band_mean(quantity, "batch")
    assert plotted()[claim] == pytest.approx(ratio, rel=0.01)


def test_noisy_norms_share_of_the_gap_written_out():
    none, noisy, batch = (values(2, "train_accuracy", norm)[1].mean() for norm in ("none", "noisy", "batch"))
    assert plotted()["noisy_norm_trains"] == pytest.approx((noisy - none) / (batch - none), rel=0.02)


def test_ends_of_the_deep_linear_network_written_out():
    ends = {norm: values(13, "train_loss", norm)[1][-1] for norm in ("none", "batch", "l1", "linf")}
    found = plotted()
    assert found["deep_linear_l1"] == pytest.approx(ends["batch"] / ends["l1"])
    assert found["deep_linear_linf"] == pytest.approx(ends["none"] / ends["linf"])


def test_the_covariate_shift_of_one_layer_written_out():
    medians = []
    for norm in ("batch", "none"):
        step, value = values(3, "ics_l2", norm, layer=5, learning_rate=0.01)
        medians.append(np.median(value[step >= 1_500]))
    assert plotted()["covariate_shift_not_reduced_l2_early_lr0.01"] == pytest.approx(medians[0] / medians[1])


def test_what_no_plot_shows_has_no_estimate():
    found = plotted()
    for claim in ("faster_training", "loss_band_equal_loss", "loss_band_scale_free", "noise_without_norm"):
        assert claim not in found
    assert not [claim for claim in found if claim.startswith(("plateau", "rescaling", "theorem"))]
    assert all(math.isfinite(value) for value in found.values())


def test_estimates_belong_to_claims_that_exist():
    known = {claim.id for experiment in EXPERIMENTS.values() for claim in experiment.claims}
    assert plotted().keys() <= known


def test_every_network_that_the_paper_drew_is_a_run():
    drawn = paper_curves().select("network", "norm", "learning_rate").unique().height
    runs = paper_runs()
    assert len(runs.specs) == drawn == runs.frame["run"].n_unique()
    keys = ["run", "step", "quantity", "layer", "step_size"]
    assert runs.frame.select(keys).is_duplicated().sum() == 0


def test_the_table_in_the_documents_is_the_one_that_is_computed():
    document = Path(__file__).resolve().parents[2] / "docs" / "reference" / "paper-curves.md"
    assert document.read_text(encoding="utf-8").endswith("<!-- python tools/paper_table.py -->\n" + as_markdown())
