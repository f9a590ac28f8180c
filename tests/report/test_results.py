"""The results page: written from studies alone, and as committed in step with the tables beside it."""

from __future__ import annotations

import csv
import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
from tests.report.paper_study import paper_study

from alidade.experiments import judge_study

PROJECT = Path(__file__).resolve().parents[2]
RESULTS = PROJECT / "docs" / "results"
#: A row of a table: what was asked and the claim's id, ..., the verdict.
ROW = re.compile(r"^\|[^|]* `(\w+)` \|.*\| \*\*(\w+)\*\*[^|]*\|$", re.MULTILINE)


def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("results", PROJECT / "tools" / "results.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    study = paper_study()
    target = tmp_path_factory.mktemp("results")
    tool().write_page(study, study, target)
    return target / "README.md"


def test_every_picture_is_there_and_every_verdict_is_the_studys(page):
    text = page.read_text(encoding="utf-8")
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]*)\)", text)
    assert len(pictures) >= 20
    assert all((page.parent / picture).stat().st_size > 1000 for picture in pictures)
    verdicts = {verdict.claim: verdict for verdict in judge_study(paper_study())}
    rows = dict(ROW.findall(text))
    assert len(rows) >= 50
    assert rows == {claim: verdicts[claim].verdict for claim in rows}
    assert "no run of this study bears on it" not in text
    assert "{{" not in text


def test_the_prose_holds_no_result():
    """Numbers and verdicts come from the runs: the template has no decimal number of its own but settings."""
    prose = (PROJECT / "tools" / "results.md.jinja").read_text(encoding="utf-8")
    prose = re.sub(r"\{\{.*?\}\}|\{%.*?%\}|^```.*?^```", "", prose, flags=re.DOTALL | re.MULTILINE)
    decimals = set(re.findall(r"\d+\.\d+", prose))
    assert decimals <= {"0.1", "0.01", "0.5", "1805.11604", "2.1"}
    assert not re.search(r"\b(is|was|are|were) (supported|refuted|undecided)\b", prose)


@pytest.mark.skipif(not (RESULTS / "README.md").exists(), reason="no results are committed")
def test_the_committed_page_agrees_with_the_tables_beside_it():
    text = (RESULTS / "README.md").read_text(encoding="utf-8")
    tables: dict[str, str] = {}
    for folder in ("cifar10", "deep_linear"):
        with (RESULTS / folder / "verdicts.csv").open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                tables[row["claim"]] = row["verdict"]  # of claims in both studies the paper's scale comes last
    rows = dict(ROW.findall(text))
    assert len(rows) >= 50
    assert {claim: tables[claim] for claim in rows} == rows
