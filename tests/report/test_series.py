import math

import polars as pl
import pytest

from alidade.report.series import Readings, binned_by_loss, over_seeds, shared_loss, thinned


def test_variants_are_the_runs_that_differ_in_nothing_but_the_seed(study):
    readings = Readings(study)
    assert [v.label for v in readings.variants] == ["No norm", "BatchNorm", "Noisy BatchNorm"]
    assert all(v.seeds == (100, 101, 102, 103, 104) for v in readings.variants)
    assert len({v.colour for v in readings.variants}) == 3


def test_a_second_learning_rate_is_named_and_dashed_in_the_norms_colour(synthetic):
    readings = Readings(synthetic.study(norms=("none", "batch"), seeds=[100], rates=(0.1, 0.5)))
    assert [v.label for v in readings.variants] == [
        "No norm, lr 0.1", "No norm, lr 0.5", "BatchNorm, lr 0.1", "BatchNorm, lr 0.5",
    ]  # fmt: skip
    first, second = readings.variants[:2]
    assert first.colour == second.colour
    assert first.dash != second.dash


def test_the_band_is_taken_over_the_papers_list_and_not_over_the_small_steps(study):
    readings = Readings(study)
    assert readings.named_list(readings.variants[0]) == (0.05, 0.1, 0.2, 0.4)
    assert readings.sizes(readings.variants[0]) == synthetic_sizes()


def synthetic_sizes():
    return (0.001, 0.01, 0.05, 0.1, 0.2, 0.4)


def test_without_the_papers_list_the_band_is_taken_over_all_that_was_measured(synthetic, study):
    fewer = synthetic.replaced(study, study.frame.filter(pl.col("step_size").fill_null(0) != 0.4))
    readings = Readings(fewer)
    assert readings.named_list(readings.variants[0]) == (0.001, 0.01, 0.05, 0.1, 0.2)


def test_a_band_with_one_number_missing_is_not_drawn_narrower(synthetic, study):
    step, eta = 40, 0.4
    hit = (pl.col("step") == step) & (pl.col("step_size") == eta) & (pl.col("quantity") == "loss")
    broken = study.frame.with_columns(
        pl.when(hit).then(float("inf")).otherwise("value").alias("value"),
        pl.when(hit).then(pl.lit("non_finite")).otherwise("status").alias("status"),
    )
    readings = Readings(synthetic.replaced(study, broken))
    assert step not in readings.band("loss")["x"].to_list()
    assert set(readings.refused_in_list("loss")["x"]) == {step}
    assert set(readings.refused_in_list("loss")["kind"]) == {"infinite"}


def test_numbers_below_their_resolution_are_marks_and_never_values(study):
    readings = Readings(study)
    refused = readings.refused("effective_smoothness")
    assert set(refused["kind"]) == {"small"}
    drawn = readings.ok("effective_smoothness").filter(pl.col("eta") == 0.001)
    everything = study.frame.filter((pl.col("quantity") == "effective_smoothness") & (pl.col("step_size") == 0.001))
    assert drawn.height + refused["count"].sum() == everything.height


def test_the_mean_over_seeds_of_a_positive_quantity_is_geometric():
    values = pl.DataFrame({"v": ["v0"] * 3, "seed": [1, 2, 3], "x": [0, 0, 0], "y": [1.0, 10.0, 100.0]})
    row = over_seeds(values, geometric=True).to_dicts()[0]
    assert row["m"] == pytest.approx(10.0)
    assert (row["lo"], row["hi"], row["n"]) == (1.0, 100.0, 3)
    assert over_seeds(values, geometric=False)["m"][0] == pytest.approx(37.0)


def test_a_value_that_is_not_positive_shows_as_a_smaller_n():
    values = pl.DataFrame({"v": ["v0"] * 2, "seed": [1, 2], "x": [0, 0], "y": [0.0, 4.0]})
    assert over_seeds(values, geometric=True).to_dicts() == [
        {"v": "v0", "x": 0, "m": 4.0, "lo": 4.0, "hi": 4.0, "n": 1}
    ]


def test_equal_loss_takes_the_smoothed_loss_of_the_probes_own_step(study):
    readings = Readings(study)
    probes = readings.against_loss(readings.reduced("loss", "width"))
    loss = readings.training_loss().filter((pl.col("v") == "v1") & (pl.col("seed") == 101) & (pl.col("step") == 40))
    at_40 = readings.reduced("loss", "width").filter(
        (pl.col("v") == "v1") & (pl.col("seed") == 101) & (pl.col("x") == 40)
    )
    found = probes.filter((pl.col("v") == "v1") & (pl.col("seed") == 101) & (pl.col("y") == at_40["y"][0]))
    assert found["x"].to_list() == pytest.approx(loss["loss"].to_list())


def test_bins_need_three_probes():
    sparse = pl.DataFrame({"v": ["v0"] * 4, "x": [1.0, 1.01, 1.02, 9.0], "y": [2.0, 2.0, 2.0, 5.0]})
    assert binned_by_loss(sparse, geometric=True)["m"].to_list() == pytest.approx([2.0])


def test_networks_that_share_no_loss_are_not_compared():
    apart = pl.DataFrame({"v": ["v0"] * 3 + ["v1"] * 3, "x": [1.0, 1.1, 1.2, 3.0, 3.1, 3.2], "y": [1.0] * 6})
    assert shared_loss(apart) is None


def test_long_runs_are_thinned_and_keep_their_end():
    frame = pl.DataFrame({"x": list(range(15_001)), "y": [math.pi] * 15_001})
    few = thinned(frame)
    assert few.height <= 402
    assert few["x"][-1] == 15_000


def test_seeds_that_a_user_did_not_name_stay_apart(synthetic):
    readings = Readings(synthetic.survey())
    assert [v.label for v in readings.variants] == ["mine", "theirs"]
    assert readings.along == "update_"
    assert readings.named_list(readings.variants[0], "update_") == (0.1, 0.5, 1.0, 2.0)
