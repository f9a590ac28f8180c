"""The paper's curves behind ours: the right ones, at the right place, and only while they are shown."""

from __future__ import annotations

import io
import json

import polars as pl
import pytest
from tests.report import synthetic

from alidade.core.spec import DataSpec, DeepLinearSpec, ModelSpec, OptimizerSpec, RunSpec
from alidade.report.paper_backdrop import (
    Behind,
    beside_the_paper,
    caption,
    curves_behind,
    shown_at_first,
)
from alidade.report.paper_curves import paper_curves
from alidade.report.sections import planned
from alidade.report.variants import variants


def variants_of(*specs: RunSpec):
    return variants({spec.run_id: spec for spec in specs})


def vgg(norm="none", rate=0.1, steps=15_000, layers=13, augment=False) -> RunSpec:
    return RunSpec(
        model=ModelSpec(conv_layers=layers, norm=norm), data=DataSpec(name="cifar10", augment=augment),
        optimizer=OptimizerSpec(learning_rate=rate), batch_size=128, steps=steps, seed=100,
    )  # fmt: skip


def linear(norm="none", rate=1e-6, steps=10_000) -> RunSpec:
    return RunSpec(
        model=DeepLinearSpec(norm=norm), data=DataSpec(name="gaussian"),
        optimizer=OptimizerSpec(learning_rate=rate), batch_size=1000, steps=steps, seed=100, dtype="float64",
    )  # fmt: skip


def drawn(figures) -> dict[str, tuple[dict, pl.DataFrame]]:
    """Chart and points of the paper, by panel."""
    panels = [panel for figure in figures for panel in figure.charts if "paper" in panel.spec["datasets"]]
    return {p.id: (p.spec, pl.read_csv(io.StringIO(p.spec["datasets"]["paper"]))) for p in panels}


@pytest.fixture(scope="module")
def quick():
    """All figures of a short study, with the paper behind them."""
    study = synthetic.study(norms=("none", "batch"), seeds=[100, 101])
    made = [(plan.section, plan.draw()) for plan in planned(study)]
    return [beside_the_paper(figure, section) for section, figure in made if figure]


def test_at_the_papers_length_steps_and_values_are_its_own():
    rows = curves_behind(Behind("loss", "band"), variants_of(vgg("none"), vgg("batch")))
    assert rows.columns == ["v", "x", "low", "high"]
    plain = rows.filter(v="v0", x=1000.0)
    assert (plain["low"].item(), plain["high"].item()) == pytest.approx((2.7025, 8.1328))
    assert rows["x"].max() == 15_000


def test_a_shorter_vgg_maps_the_steps_by_fraction_of_training():
    rows = curves_behind(Behind("effective_smoothness"), variants_of(vgg(steps=150)))
    theirs = paper_curves().filter(figure=4, quantity="effective_smoothness", norm="none").sort("step")
    assert rows["x"].to_list() == pytest.approx((theirs["step"] / 100).to_list())
    assert rows["y"].to_list() == theirs["value"].to_list()


def test_the_deep_linear_network_shares_its_steps_at_every_scale():
    rows = curves_behind(Behind("train_loss"), variants_of(linear("batch", steps=1_000)), prefer=(13,))
    assert rows["x"].to_list() == list(range(0, 1_001, 50))
    assert rows.filter(x=1000.0)["y"].item() == pytest.approx(1408, rel=1e-3)


def test_only_the_same_network_norm_and_learning_rate_without_augmentation():
    wanted = Behind("train_accuracy")
    others = [vgg(rate=0.2), vgg(augment=True), vgg("layer"), vgg("noise"), linear(rate=1e-5)]
    for spec in others:
        assert curves_behind(wanted, variants_of(spec)).is_empty(), spec
    both = curves_behind(wanted, variants_of(vgg("batch", 0.1), vgg("batch", 0.5)))
    ends = {row["v"]: row["y"] for row in both.filter(x=15_000.0).to_dicts()}
    assert ends == pytest.approx({"v0": 0.977, "v1": 0.953}, abs=1e-3)


def test_a_section_may_prefer_the_figure_that_shows_its_own_run():
    wanted, who = Behind("train_accuracy"), variants_of(vgg())
    first, third = (curves_behind(wanted, who, prefer) for prefer in ((), (3,)))
    assert first["y"].to_list() != third["y"].to_list()
    kept = paper_curves().filter(figure=3, norm="none", quantity="train_accuracy", learning_rate=0.1).sort("step")
    assert third["y"].to_list() == kept["value"].to_list()


def test_layers_of_the_small_vgg_stand_for_layers_at_the_same_height():
    fifth = curves_behind(Behind("ics_cosine", layer=5), variants_of(vgg(layers=13)))
    third_of_eight = curves_behind(Behind("ics_cosine", layer=3), variants_of(vgg(layers=8)))
    assert fifth["y"].to_list() == third_of_eight["y"].to_list()
    assert curves_behind(Behind("ics_cosine", layer=7), variants_of(vgg(layers=8))).is_empty()


def test_behind_which_panels_the_paper_stands(quick):
    ends = {panel.split("--")[-1] for panel in drawn(quick)}
    assert {
        "train-accuracy", "test-accuracy", "loss-band-v0", "loss-band-v1", "loss-width", "smoothness",
        "gradient-distance-band-v0", "gradient-distance-band-v1", "profile-gradient", "edge-smoothness",
    } <= ends  # fmt: skip
    assert not [end for end in ends if end.endswith("at-loss") or end.startswith("twin")]


def test_each_band_panel_shows_its_own_network_and_all_share_one_axis(quick):
    panels = {id_: chart for id_, chart in drawn(quick).items() if "loss-band-v" in id_}
    assert {id_[-2:]: rows["v"].unique().to_list() for id_, (_, rows) in panels.items()} == {
        "v0": ["v0"], "v1": ["v1"],
    }  # fmt: skip
    domains = {json.dumps(spec["layer"][0]["encoding"]["y"]["scale"]["domain"]) for spec, _ in panels.values()}
    assert len(domains) == 1


def test_nothing_shows_before_the_switch_in_a_short_study(quick):
    for spec, _ in drawn(quick).values():
        assert {"name": "paper", "value": False} in spec["params"]
        behind, *ours = spec["layer"]
        assert behind["data"]["name"] == "paper"
        assert {"filter": "paper"} in behind["transform"]
        assert all(layer.get("data", {}).get("name") != "paper" for layer in ours)


def test_the_axis_widens_with_the_switch_and_is_ours_without_it(quick):
    plain = {
        panel.id: panel.spec
        for plan in planned(synthetic.study(norms=("none", "batch"), seeds=[100, 101]))
        if (figure := plan.draw())
        for panel in figure.charts
    }
    widened = 0
    for id_, (spec, _) in drawn(quick).items():
        ours = plain[id_]["layer"][0]["encoding"]["y"]["scale"]["domain"]
        found = spec["layer"][-1]["encoding"].get("y", spec["layer"][0]["encoding"]["y"])["scale"]["domain"]
        if found == ours:
            continue
        widened += 1
        for end, own in zip(found, ours, strict=True):
            there, here = (float(part) for part in end["expr"].removeprefix("paper ? ").split(" : "))
            assert here == own
            assert there <= here if own == min(ours) else there >= here
    assert widened > 0


def test_fig_11_follows_the_slider(quick):
    spec, rows = next(chart for id_, chart in drawn(quick).items() if id_.endswith("profile-gradient"))
    figure = next(figure for figure in quick if figure.id.endswith("stepper"))
    assert rows["s"].unique().sort().to_list() == sorted(figure.stepper["steps"])
    assert rows["x"].unique().sort().to_list() == [0.05, 0.1, 0.2, 0.4]
    assert {"filter": "datum.s == step"} in spec["layer"][0]["transform"]


def test_the_caption_says_how_steps_relate():
    long, short = variants_of(vgg()), variants_of(vgg(steps=120, layers=8))
    assert shown_at_first(long)
    assert "same steps" in caption(long)
    assert not shown_at_first(short)
    assert "15\u202f000 steps, these 120" in caption(short)
    assert "go on to 10\u202f000, these stop at 1\u202f000" in caption(variants_of(linear(steps=1_000)))


def test_figures_without_a_curve_stay_as_they_are(quick):
    study = synthetic.survey()
    figures = [figure for plan in planned(study) if (figure := plan.draw())]
    assert figures
    for figure in figures:
        assert beside_the_paper(figure, "") is figure
        assert figure.backdrop is None
