"""The table beside the paper: which verdict stands beside which sentence, and that its numbers are computed."""

from __future__ import annotations

import re

import polars as pl
import pytest
from tests.report import synthetic

from alidade.experiments import EXPERIMENTS
from alidade.experiments.paper import plotted
from alidade.report import paper_curves as curves
from alidade.report import paper_numbers
from alidade.report.paper_table import SAYS, markdown, paper_rows

CLAIMS = [claim for experiment in EXPERIMENTS.values() for claim in experiment.claims]


@pytest.fixture(scope="module")
def rows():
    return paper_rows(synthetic.verdicts(), plotted())


def test_one_row_per_claim_of_the_paper_the_plainest_form_first(rows):
    assert [row.forms[0].line.claim for row in rows] == [
        "faster_training", "noisy_norm_trains", "loss_band", "gradient_band", "effective_smoothness",
    ]  # fmt: skip
    assert [len(row.forms) for row in rows] == [1, 1, 4, 4, 4]
    assert rows[2].rest == "3 supported"
    assert rows[4].rest == "1 supported, 1 refuted and 1 undecided"


def test_what_we_measured_comes_from_the_verdicts(rows):
    line = rows[2].forms[0].line
    assert (line.estimate, line.interval, line.n, line.verdict) == ("7.3", "4.1 to 13", 5, "supported")
    assert [form.plotted for form in rows[2].forms] == ["7.7", "", "", ""]


def test_every_claim_that_we_judge_stands_in_a_row():
    verdicts = [synthetic.verdict(claim.id, 2.0, (1.5, 3.0), paper=claim.paper) for claim in CLAIMS]
    placed = {form.line.claim for row in paper_rows(verdicts, {}) for form in row.forms}
    assert placed == {claim.id for claim in CLAIMS}


def test_missing_and_unknown_claims_are_no_trouble():
    assert paper_rows([], {}) == []
    assert paper_rows([synthetic.verdict("of_tomorrow", 2.0, (1.5, 3.0))], {}) == []


def test_what_the_plot_shows_follows_the_curves(monkeypatch):
    before = {said.ids: said.shows() for said in SAYS if said.shows}
    factors = pl.col("norm").replace_strict({"batch": 3.0, "noisy": 2.0}, default=1.0)
    other = curves.paper_curves().with_columns((factors * pl.col("value")).alias("value"))
    monkeypatch.setattr(paper_numbers, "paper_curves", lambda: other)
    after = {said.ids: said.shows() for said in SAYS if said.shows}
    assert [ids for ids in before if before[ids] == after[ids]] == []


def test_every_plotted_number_is_finite():
    for said in SAYS:
        if said.shows:
            assert not re.search("nan|inf|not finite|None", said.shows()), said.ids


def test_as_a_table_in_a_document(rows):
    lines = markdown(rows).splitlines()
    assert lines[0] == "| the paper says | its plot shows | we measured |"
    assert len(lines) == 2 + len(rows)
    assert "`loss_band` 7.3 (4.1 to 13), n = 5, **supported**; plot: 7.7<br>" in lines[4]
    assert all(line.count(" | ") >= 2 for line in lines)
