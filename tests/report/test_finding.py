import pytest

from alidade.report.finding import finding, key_numbers
from alidade.report.verdict_table import verdict_groups


def plain(text: str) -> str:
    return text.replace("\u00a0", " ")


def test_the_finding_carries_number_interval_seeds_and_the_scale_free_twin(verdicts):
    assert plain(finding(verdicts).sentence) == (
        "With BatchNorm the same network stood on smoother ground: its loss band was 7.3 times narrower "
        "(95 % interval 4.1 to 13, 5 seeds), and, with the scale of the weights taken out, 31 times narrower "
        "(9 to 110)."
    )
    assert "At equal training loss it was 2.2 times narrower (1.4 to 3.5)" in plain(finding(verdicts).qualifications)
    assert "Of 14 claims, 11 supported, 1 refuted and 2 undecided." in plain(finding(verdicts).qualifications)


def test_where_only_the_raw_form_holds_it_depends_on_the_scale_of_the_weights(synthetic):
    raw = synthetic.verdict("loss_band", 7.3, (4.1, 13.0))
    twin = synthetic.verdict("loss_band_scale_free", 0.5, (0.3, 0.8))
    sentence = plain(finding([raw, twin]).sentence)
    assert "but it depends on the scale of the weights" in sentence
    assert "2 times wider (1.2 to 3.3)" in sentence
    assert key_numbers([raw, twin])[0].remark == "depends on weight scale"


def test_an_undecided_twin_is_called_undecided(synthetic):
    raw = synthetic.verdict("loss_band", 7.3, (4.1, 13.0))
    twin = synthetic.verdict("loss_band_scale_free", 1.2, (0.7, 2.1))
    assert "with the scale of the weights taken out this is undecided: 1.2 times narrower (0.7 to 2.1)" in (
        plain(finding([raw, twin]).sentence)
    )


def test_the_tally_is_a_sentence(synthetic):
    raw, twin = synthetic.verdict("loss_band", 7.3, (4.1, 13.0)), synthetic.verdict("loss_band_scale_free", 3, (2, 4))
    assert finding([raw, twin]).qualifications == "All 2 claims are supported."
    assert finding([raw]).qualifications == "The only claim is supported."


def test_fewer_seeds_at_equal_loss_are_said(synthetic):
    pair = [synthetic.verdict("loss_band", 7.3, (4, 13)), synthetic.verdict("loss_band_equal_loss", 3, (1.4, 6), n=4)]
    assert "3 times narrower (1.4 to 6, 4 seeds)" in plain(finding(pair).qualifications)


def test_a_missing_twin_is_mentioned(synthetic):
    assert (
        "its scale-free twin was not measured" in finding([synthetic.verdict("loss_band", 7.3, (4.1, 13.0))]).sentence
    )


def test_one_seed_decides_nothing(synthetic):
    sentence = plain(finding(synthetic.undecided()).sentence)
    assert sentence.startswith("A single draw, so nothing is decided: with BatchNorm the loss band was 7.3 times")
    assert "no interval, 1 seed" in sentence


def test_an_undecided_interval_is_not_sold_as_a_difference(synthetic):
    sentence = plain(finding([synthetic.verdict("loss_band", 1.3, (0.7, 2.4))]).sentence)
    assert sentence.startswith(
        "Undecided: with BatchNorm the loss band was 1.3 times narrower, but the interval holds no"
    )


def test_a_refuted_claim_is_told_as_what_was_found(synthetic):
    sentence = plain(finding([synthetic.verdict("loss_band", 0.4, (0.2, 0.5))]).sentence)
    assert sentence.startswith(
        "Here BatchNorm did not do what the paper reports: with it the loss band was 2.5 times wider"
    )
    assert "interval 2 to 5" in sentence


@pytest.mark.parametrize("verdicts", [[], "other"])
def test_without_a_claim_about_batchnorm_nothing_is_claimed(synthetic, verdicts):
    given = [synthetic.verdict("plateau_is_edge", 1.0, (0.9, 1.1))] if verdicts else []
    said = "The only claim is undecided." if verdicts else "These runs were measured; no claim bears on them."
    assert finding(given).sentence == said


def test_a_verdict_without_a_number_says_why(synthetic):
    nothing = synthetic.verdict("loss_band", None, None, n=0, reason="no loss that both runs visit")
    assert finding([nothing]).sentence == (
        "Whether BatchNorm changes the loss band could not be decided: no loss that both runs visit."
    )
    assert key_numbers([nothing])[0].value == "–"


def test_key_numbers_show_their_other_forms_and_turned_directions(verdicts):
    keys = {key.claim: key for key in key_numbers(verdicts)}
    assert list(keys) == ["loss_band", "gradient_band", "effective_smoothness", "faster_training"]
    forms = {form.label: form for form in keys["effective_smoothness"].forms}
    assert forms["at equal loss"].value == "1.4 × higher"
    assert forms["at equal loss"].verdict == "refuted"


def test_the_table_groups_verdicts_by_what_the_paper_says(verdicts):
    groups = verdict_groups(verdicts)
    assert [(group.figure, len(group.lines)) for group in groups] == [("Fig. 1a", 1), ("Fig. 4a", 12), ("Fig. 2", 1)]


def test_glyphs_keep_order_and_stay_inside(verdicts):
    for group in verdict_groups(verdicts):
        for line in group.lines:
            glyph = line.glyph
            assert 0 <= glyph.low <= glyph.estimate <= glyph.high <= 100
            assert (glyph.low > glyph.threshold) == (line.verdict == "supported")


def test_differences_are_written_with_their_sign(verdicts):
    line = verdict_groups(verdicts)[-1].lines[0]
    assert (line.estimate, line.interval) == ("+0.12", "+0.04 to +0.20")


@pytest.mark.parametrize("interval", [(0.0, 2.0), (-1.0, 2.0), (0.5, float("inf")), (1.0, 1.0)])
def test_extreme_intervals_still_have_a_glyph(synthetic, interval):
    line = verdict_groups([synthetic.verdict("loss_band", 1.0, interval)])[0].lines[0]
    assert 0 <= line.glyph.low <= line.glyph.high <= 100


def test_without_a_vgg_the_finding_is_that_of_the_deep_linear_network(synthetic):
    end = synthetic.verdict("deep_linear_batch", 3.4, (1.2, 9.8), experiment="deep_linear")
    said = finding([end]).sentence
    assert said.startswith("With BatchNorm the same network learned faster: its final loss on the deep linear network ")
    assert "3.4 times lower (95\u00a0% interval 1.2\u00a0to\u00a09.8, 5\u00a0seeds)." in said
    assert [key.claim for key in key_numbers([end])] == ["deep_linear_batch"]


def test_a_ratio_of_one_has_no_direction(synthetic):
    tie = synthetic.verdict("loss_band_equal_loss", 0.9996, (0.9, 1.1))
    assert "At equal training loss it was the same (" in finding([synthetic.verdicts()[1], tie]).qualifications


@pytest.mark.parametrize(
    ("statistic", "value", "text"),
    [
        ("ratio none / batch of the loss", 0.98, "0.98"),
        ("share of probes at the edge", 0.98, "0.98"),
        ("share of probes at the edge", 0.00452, "0.0045"),
        ("test accuracy, batch minus none", 0.98, "+0.98"),
        ("test accuracy, batch minus none", -0.02, "−0.02"),
    ],
)
def test_only_a_difference_carries_a_sign(synthetic, statistic, value, text):
    (group,) = verdict_groups([synthetic.verdict("plateau_is_edge", value, (-1.0, 1.05), statistic=statistic)])
    assert group.lines[0].estimate == text
