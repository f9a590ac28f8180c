import json

import polars as pl
import pytest

from alidade.report.figures import FIGURES, figures

STUDIES = {
    "the demo": {},
    "one seed": {"seeds": [100]},
    "one norm": {"norms": ("batch",)},
    "no noisy norm": {"norms": ("none", "batch")},
    "two learning rates": {"rates": (0.1, 0.5), "seeds": [100, 101]},
    "no relative profiles": {"relative": False, "seeds": [100, 101]},
    "losses only": {"gradients": False, "seeds": [100, 101]},
    "no probes at all": {"every": 10_000, "seeds": [100, 101]},
}


@pytest.fixture(scope="module", params=STUDIES)
def drawn(request, synthetic):
    """All figures of one kind of study."""
    return figures(synthetic.study(**STUDIES[request.param]))


def test_every_figure_says_how_to_read_it_and_under_which_conditions(drawn):
    assert drawn
    for figure in drawn:
        assert len(figure.how_to_read) > 100
        assert "init He" in figure.note
        assert "batch size 64" in figure.note
        assert "learning rate 0.1" in figure.note
        assert "float32" in figure.note
        assert "seed" in figure.note
        assert all(panel.alt.endswith(".") for panel in figure.charts)


def test_nothing_that_is_not_a_number_reaches_a_chart(drawn):
    for figure in drawn:
        for panel in figure.charts:
            text = json.dumps(panel.spec)
            assert "NaN" not in text
            assert "Infinity" not in text
            assert ",inf" not in text
            assert "nan" not in text


def test_the_demo_has_every_figure_and_each_smoothness_has_its_loss(study):
    drawn = {figure.id: figure for figure in figures(study)}
    assert list(drawn) == ["training", "stepper", "loss-band", "gradient-band", "smoothness", "scale-free", "noisy"]
    assert [p.id for p in drawn["smoothness"].charts] == [
        "smoothness", "smoothness-at-loss", "smoothness-by-size", "smoothness-by-size-at-loss",
    ]  # fmt: skip
    twins = [p.id for p in drawn["scale-free"].charts]
    assert [f"{name}-at-loss" for name in twins[:3]] == twins[3:]


@pytest.mark.parametrize(
    ("options", "missing"),
    [
        ({"relative": False}, "scale_free"),
        ({"norms": ("none", "batch")}, "noisy"),
        ({"gradients": False}, "smoothness"),
        ({"every": 10_000, "norms": ("none",)}, "noisy"),
    ],
)
def test_a_figure_without_its_data_is_left_out(synthetic, options, missing):
    from alidade.report.series import Readings

    assert FIGURES[missing](Readings(synthetic.study(seeds=[100, 101], **options))) is None


def test_a_run_that_diverges_ends_and_is_marked(synthetic, study):
    late = (pl.col("step") >= 60) & (pl.col("run") == study.frame["run"][0])
    diverged = study.frame.with_columns(
        pl.when(late).then(float("nan")).otherwise("value").alias("value"),
        pl.when(late).then(pl.lit("non_finite")).otherwise("status").alias("status"),
    )
    drawn = {figure.id: figure for figure in figures(synthetic.replaced(study, diverged))}
    shapes = [layer["mark"].get("shape") for layer in drawn["training"].charts[0].spec["layer"]]
    assert "cross" in shapes


def test_band_panels_share_their_axes(study):
    bands = next(figure for figure in figures(study) if figure.id == "loss-band").rows[0]
    domains = {json.dumps(panel.spec["layer"][0]["encoding"]["y"]["scale"]["domain"]) for panel in bands}
    assert len(bands) == 3
    assert len(domains) == 1


def test_the_edge_of_stability_is_left_out_along_an_optimizers_update(synthetic):
    drawn = {figure.id: figure for figure in figures(synthetic.survey())}
    assert set(drawn) == {"training", "stepper", "loss-band", "gradient-band", "smoothness", "scale-free"}
    assert "edge of stability" not in drawn["smoothness"].how_to_read
    assert "1 is the step really taken" in drawn["loss-band"].note
    assert "AdamW" in drawn["loss-band"].note


def test_the_sliders_steps_are_the_probed_ones(study):
    stepper = next(figure for figure in figures(study) if figure.id == "stepper").stepper
    assert stepper["steps"] == list(range(0, 121, 4))
    assert all(len(cells) == len(stepper["steps"]) for cells in stepper["cells"].values())


def test_an_empty_table_makes_no_figure(synthetic, study):
    assert figures(synthetic.replaced(study, study.frame.clear())) == []


def test_runs_that_did_not_train_are_named(synthetic, study):
    first = study.frame["run"][0]
    flat = study.frame.with_columns(
        pl.when((pl.col("run") == first) & (pl.col("quantity") == "train_loss"))
        .then(2.3)
        .otherwise("value")
        .alias("value")
    )
    training = figures(synthetic.replaced(study, flat))[0]
    assert training.how_to_read.startswith(
        "Untrained: 1 of 5 runs of “No norm”, whose loss ended above 80 % of the median"
    )
    assert not figures(study)[0].how_to_read.startswith("Untrained")
