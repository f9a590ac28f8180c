"""The page of `alidade reproduce all`: each experiment tells its own story, with its own runs."""

import io
import json
import re
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from tests.report.paper_study import chapters, paper_study

from alidade.core.activations import PROBABILITIES
from alidade.experiments import EXPERIMENTS, judge_study
from alidade.report.activation_figures import _density
from alidade.report.page import write_page
from alidade.report.sections import SECTIONS, planned


@pytest.fixture(scope="module")
def drawn():
    """Every figure by id."""
    made = [figure for plan in planned(paper_study()) if (figure := plan.draw())]
    return {figure.id: figure for figure in made}


def panel_of(figure, end):
    return next(panel for panel in figure.charts if panel.id.endswith("--" + end))


def table_of(panel, column):
    """The first data set of a panel with this column."""
    tables = [pl.read_csv(io.StringIO(text)) for text in panel.spec["datasets"].values()]
    return next(table for table in tables if column in table.columns)


def test_every_experiment_has_a_section_of_its_own_order(drawn):
    assert set(EXPERIMENTS) <= set(SECTIONS)
    told = list(dict.fromkeys(id_.split("--")[0].rstrip("-234") for id_ in drawn))
    assert told == [name for name in SECTIONS if name in EXPERIMENTS]


def test_ids_are_unique_on_the_page(drawn):
    panels = [panel.id for figure in drawn.values() for panel in figure.charts]
    assert len(panels) == len(set(panels))
    hovers = [
        parameter["name"]
        for figure in drawn.values()
        for panel in figure.charts
        for layer in panel.spec["layer"]
        for parameter in layer.get("params", ())
    ]
    assert len(hovers) == len(set(hovers)) > 50


@pytest.mark.parametrize(
    ("figure", "networks"),
    [
        ("landscape--loss-band", ["No norm", "BatchNorm"]),
        ("noisy_norm--training", ["No norm", "BatchNorm", "Noisy BatchNorm", "Noise without a norm"]),
        ("lp_norms--smoothness", ["No norm", "BatchNorm", "L1 norm", "L2 norm", "L∞ norm"]),
        ("rescaling_control--rescaling", ["BatchNorm"]),
        (
            "training_speed--training",
            ["No norm, lr 0.1", "No norm, lr 0.5", "BatchNorm, lr 0.1", "BatchNorm, lr 0.5"],
        ),
    ],
)
def test_a_section_compares_only_the_networks_that_its_experiment_planned(drawn, figure, networks):
    assert [variant.label for variant in drawn[figure].variants] == networks


def test_networks_under_other_conditions_have_figures_of_their_own(drawn):
    shifts = [figure for id_, figure in drawn.items() if id_.endswith("--covariate-shift")]
    assert [figure.setting for figure in shifts] == [
        "VGG, lr 0.1", "VGG, lr 0.01", "deep linear network, lr 10⁻⁶", "deep linear network, lr 10⁻⁷",
    ]  # fmt: skip
    assert all(len(figure.variants) == 2 for figure in shifts)


def test_the_deep_linear_network_is_counted_in_its_own_unit_and_has_no_accuracy(drawn):
    words = [
        text
        for id_, figure in drawn.items()
        if id_.startswith("deep_linear")
        for text in (figure.lead.about, *(panel.spec["title"]["subtitle"] for panel in figure.charts))
    ]
    assert not [text for text in words if re.search(r"\bnat\b", text)]
    assert [panel.title for panel in drawn["deep_linear--training"].charts] == ["Training loss"]


def test_no_chart_holds_what_is_no_number(drawn):
    for figure in drawn.values():
        text = json.dumps([dict(panel.spec) for panel in figure.charts])
        assert not re.search(r"NaN|Infinity|,inf|nan\b", text)


def test_under_rescaling_the_loss_is_flat_and_raw_numbers_are_not(drawn):
    figure = drawn["rescaling_control--rescaling"]
    flat = table_of(panel_of(figure, "rescaling-loss-where-it-stands"), "m")
    assert flat["x"].to_list() == [0.25, 0.5, 1.0, 2.0, 4.0]
    assert flat["m"].to_list() == pytest.approx([1.0] * 5)
    free = table_of(panel_of(figure, "rescaling-effective-smoothness-scale-free"), "m")
    assert free["m"].to_list() == pytest.approx([1.0] * 5)
    raw = table_of(panel_of(figure, "rescaling-effective-smoothness-raw"), "m")["m"]
    assert raw.max() / raw.min() > 5
    domains = {json.dumps(p.spec["layer"][-1]["encoding"]["y"]["scale"]["domain"]) for p in figure.charts}
    assert len(domains) == 1


def test_the_ring_marks_the_learning_rate_with_the_lowest_mean_loss(drawn):
    study = paper_study()
    runs = study.runs_of("training_speed")
    losses: dict[tuple[str, float], list[float]] = {}
    for run, spec in runs.items():
        rows = study.frame.filter(run=run, quantity="train_loss", status="ok")
        if not spec.data.augment:
            losses.setdefault((spec.model.norm, spec.optimizer.learning_rate), []).append(rows["value"].mean())
    means = {key: sum(values) / len(values) for key, values in losses.items()}
    best = {norm: min((m, rate) for (n, rate), m in means.items() if n == norm)[1] for norm in ("none", "batch")}
    panel = panel_of(drawn["training_speed--learning-rates"], "rate-train")
    rings = [pl.read_csv(io.StringIO(text)) for text in panel.spec["datasets"].values()][-1]
    assert dict(zip(rings["v"], rings["x"], strict=True)) == best
    titles = [panel.title for panel in drawn["training_speed--learning-rates"].charts]
    assert titles == ["Training accuracy at the end", "Test accuracy at the end", "Test accuracy, augmented images"]


def test_runs_that_diverged_or_stand_still_are_said(drawn):
    diverged = "Diverged: 1 of 2 runs of “No norm, lr 0.5” (step 40). Its loss was not finite or above 1000 times"
    assert drawn["training_speed--training"].remarks[0].startswith(diverged)
    assert drawn["training_speed--learning-rates"].remarks[0].startswith(diverged)
    assert drawn["deep_linear--training"].remarks[0].startswith("At a stationary point at the end: 1 of 2 runs of “No")


def test_the_ends_of_the_deep_linear_network_stand_seed_by_seed(drawn):
    figure = drawn["deep_linear--ends"]
    study = paper_study()
    shown = table_of(panel_of(figure, "ends-loss"), "seed")
    keys = {variant.key: variant.norm for variant in figure.variants}
    assert shown.height == 10
    runs = study.runs_of("deep_linear")
    for key, seed, loss in shown.select("v", "seed", "y").iter_rows():
        (run,) = [r for r, spec in runs.items() if (spec.model.norm, spec.seed) == (keys[key], seed)]
        last = study.frame.filter(run=run, quantity="train_loss").sort("step")["value"].last()
        assert loss == pytest.approx(last, rel=1e-3)
    # The synthetic losses end in this order, at distances that their noise does not close.
    assert figure.remarks[0].endswith("on 2 of 2 seeds (within 1 % counts as a tie).")
    assert panel_of(figure, "ends-edge").spec["title"]["subtitle"] == "share of probes while the loss falls"


def test_ends_out_of_the_papers_order_are_counted_out():
    study = paper_study()
    runs = study.runs_of("deep_linear")
    (worst,) = [run for run, spec in runs.items() if (spec.model.norm, spec.seed) == ("linf", 101)]
    hit = (pl.col("run") == worst) & (pl.col("quantity") == "train_loss")
    frame = study.frame.with_columns(pl.when(hit).then(1e9).otherwise(pl.col("value")).alias("value"))
    plans = [plan for plan in planned(replace(study, frame=frame)) if plan.address == "deep_linear.ends"]
    figure = plans[0].draw()
    assert figure.remarks[0].endswith("on 1 of 2 seeds (within 1 % counts as a tie).")


def test_the_penalized_loss_stands_beside_the_loss_where_there_is_one():
    study = paper_study()
    runs = study.runs_of("landscape")
    plain = study.frame.filter(pl.col("run").is_in(list(runs)))
    rows = plain.filter(quantity="train_loss").with_columns(
        pl.lit("train_objective").cast(pl.Categorical).alias("quantity"), pl.col("value") + 1.97
    )
    penalized = replace(study, frame=pl.concat([study.frame, rows]))
    figures = {p.address: p.draw() for p in planned(penalized) if p.section in ("noisy_norm", "landscape")}
    training, band = figures["landscape.training"], figures["landscape.loss_band"]
    assert not [plan for plan in planned(study) if plan.address == "landscape.training"]
    assert [panel.title for panel in training.charts][:2] == ["Training loss", "The same with the L2 penalty"]
    both = [pl.read_csv(io.StringIO(next(iter(panel.spec["datasets"].values())))) for panel in training.charts[:2]]
    assert both[1]["m"].min() > 1.97 > both[0]["m"].min()
    assert "The loss here contains the L2 penalty" in band.how_to_read
    assert "L2 penalty" not in next(p.draw() for p in planned(study) if p.address == "landscape.loss_band").how_to_read


def test_the_page_opens_with_what_diverged(tmp_path):
    study = paper_study()
    page = write_page(tmp_path / "report.html", study, judge_study(study), chapters()).read_text(encoding="utf-8")
    opening = page[: page.index('id="overview"')]
    assert "Diverged: 1 of 2 runs of “" in opening
    calm = replace(study, frame=study.frame.filter(pl.col("quantity") != "diverged"))
    page = write_page(tmp_path / "report.html", calm, judge_study(calm), chapters()).read_text(encoding="utf-8")
    assert "Diverged: " not in page


def test_ridges_are_drawn_for_every_probed_step_and_every_network(drawn):
    figure = drawn["activations--ridgelines"]
    assert [[panel.title for panel in row] for row in figure.rows] == [
        [variant.label for variant in figure.variants]
    ] * 3
    table = table_of(figure.charts[0], "top")
    assert table["i"].n_unique() == 13  # steps 0, 10, ..., 120
    assert (table["top"] <= table["i"]).all()


def test_a_density_through_the_quantiles_of_a_normal_distribution_is_its_own():
    """Normal scores are then a straight line, so nothing but rounding differs."""
    z = np.array([-2.326347874, -1.644853627, -0.67448975, 0.0, 0.67448975, 1.644853627, 2.326347874])
    assert len(z) == len(PROBABILITIES)
    grid = np.linspace(-10, 16, 400)
    density = _density(3 + 2 * z, grid)
    exact = np.exp(-0.5 * ((grid - 3) / 2) ** 2) / 2
    assert density == pytest.approx(exact, rel=1e-6, abs=1e-9)  # the scores above have ten digits


def test_a_density_through_tied_quantiles_stays_finite():
    density = _density(np.array([0.0, 0.0, 0.0, 0.0, 1.0, 2.0, 3.0]), np.linspace(-1, 4, 50))
    assert np.isfinite(density).all()
    assert (density >= 0).all()


def test_the_shift_of_the_papers_layers_stands_beside_that_of_all(drawn):
    ids = [panel.id.split("--")[1] for panel in drawn["covariate_shift--covariate-shift"].charts]
    assert ids[:3] == ["shift-loss", "shift-layers-relative", "shift-layers-cosine"]
    assert ids[3:] == [f"shift-{kind}-layer{n}" for n in (3, 6) for kind in ("l2", "relative", "cosine")]
    linear = [panel.id for panel in drawn["covariate_shift-3--covariate-shift"].charts]
    assert any(id_.endswith("shift-cosine-layer17") for id_ in linear)


def test_curvature_is_counted_in_units_of_the_learning_rate(drawn):
    study = paper_study()
    panel = panel_of(drawn["deep_linear--edge"], "edge-curvature")
    network = next(v for v in drawn["deep_linear--edge"].variants if v.norm == "batch")
    rows = study.frame.filter(quantity="directional_curvature", step=200, step_size=1e-8)
    expected = rows.filter(pl.col("run").is_in(list(network.runs)))["value"].mean() * 1e-6
    drawn_value = table_of(panel, "m").filter(v=network.key, x=200)["m"][0]
    assert drawn_value == pytest.approx(expected, rel=1e-3)  # charts hold four digits


def test_the_page_tells_each_experiment_with_its_verdicts(tmp_path):
    study = paper_study()
    verdicts = judge_study(study)
    html = write_page(tmp_path / "report.html", study, verdicts, chapters()).read_text()
    for name, experiment in EXPERIMENTS.items():
        assert f'<section class="chapter" id="{name}"' in html
        assert f'<a href="#{name}">' in html
        assert html.count(f">{experiment.question}<") == 2  # in the overview and at the head
        assert f'id="{name}-verdicts"' in html
    places = [html.index(f'<section class="chapter" id="{name}"') for name in SECTIONS if name in EXPERIMENTS]
    assert places == sorted(places)
    at = html.index(">plateau_looks_smooth<", html.index('id="glorot_start-verdicts"'))
    assert at < html.index('<section class="chapter" id="lp_norms"')
    assert 'id="verdicts"' not in html  # every verdict has its section
    assert len(html) < 5_000_000
