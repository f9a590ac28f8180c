import json

import polars as pl
import pytest

from alidade.report.figures import FIGURES
from alidade.report.sections import planned


def figures(study):
    """Every figure that the study has the data for."""
    return [figure for plan in planned(study) if (figure := plan.draw())]


def training_of(study):
    return next(figure for figure in figures(study) if figure.id.endswith("--training"))


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
        assert "learning rate 0." in figure.note
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
    assert list(drawn) == [
        "training_speed--training", "noisy_norm--training", "noisy_norm--noisy", "landscape--stepper",
        "landscape--loss-band", "landscape--gradient-band", "landscape--smoothness", "landscape--edge",
        "landscape--scale-free",
    ]  # fmt: skip
    smoothness = ["smoothness", "smoothness-at-loss", "smoothness-by-size", "smoothness-by-size-at-loss"]
    assert [p.id for p in drawn["landscape--smoothness"].charts] == [f"landscape--{name}" for name in smoothness]
    twins = [p.id for p in drawn["landscape--scale-free"].charts]
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
    training = training_of(synthetic.replaced(study, diverged))
    shapes = [layer["mark"].get("shape") for layer in training.charts[0].spec["layer"]]
    assert "cross" in shapes
    (crosses,) = [layer for layer in training.charts[0].spec["layer"] if layer["mark"].get("shape") == "cross"]
    rows = training.charts[0].spec["datasets"][crosses["data"]["name"]].splitlines()[1:]
    # Of the 60 steps that are lost, one in every fortieth of the axis: 120 / 40 steps apart, and the first of them.
    assert rows[0].split(",")[1] == "60"
    assert len(rows) == 20


def test_band_panels_share_their_axes(study):
    bands = next(figure for figure in figures(study) if figure.id == "landscape--loss-band").rows[0]
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
    stepper = next(figure for figure in figures(study) if figure.id == "landscape--stepper").stepper
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
    remarks = training_of(synthetic.replaced(study, flat)).remarks
    assert remarks == (
        "Untrained: 1 of 5 runs of “No norm”. The loss ended above 80 % of the median of its first tenth.",
    )
    assert training_of(study).remarks == ()


def test_a_chart_is_what_vega_lite_takes(study):
    import altair as alt

    for figure in figures(study):
        for panel in figure.charts:
            alt.Chart.from_dict(dict(panel.spec), validate=True)
