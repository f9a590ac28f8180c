"""Figures and tables as files: each is there, shows the paper, says how to read it, and agrees with the verdicts."""

from __future__ import annotations

import csv
import io
import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest
from tests.report.paper_study import paper_study

from alidade.core.errors import WorkError
from alidade.experiments import judge_study
from alidade.experiments.paper import plotted
from alidade.report.sections import part_of
from alidade.report.stills import slim, verdicts_as_csv, verdicts_as_markdown, write_stills

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def small():
    """Two sections of the study: a network that the paper drew on the same steps, and one on others."""
    whole = paper_study()
    named = {name: list(whole.runs_of(name)) for name in ("rescaling_control", "deep_linear")}
    part = part_of(whole, [run for runs in named.values() for run in runs])
    return replace(part, manifest={**whole.manifest, "experiments": named})


@pytest.fixture(scope="module")
def written(small, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stills") / "new" / "folder"
    verdicts = judge_study(small)
    return folder, write_stills(folder, small, verdicts, plotted()), verdicts


def test_every_figure_is_a_picture_with_its_caption(written):
    folder, files, _ = written
    assert all(path.parent == folder and path.stat().st_size > 0 for path in files)
    pictures = [path.name for path in files if path.suffix == ".svg"]
    assert pictures[:3] == ["rescaling_control.rescaling.svg", "deep_linear.training.svg", "deep_linear.ends.svg"]
    text = (folder / "figures.md").read_text(encoding="utf-8")
    assert re.findall(r"\]\((.*?\.svg)\)", text) == pictures
    assert text.count("**How to read this.**") == len(pictures)
    assert len(pictures) == len(set(pictures)) == 8


def test_the_papers_curves_show_on_paper(written):
    """Pale strokes of the paper, at the opacity that nothing else has; there are none of the rescaling control."""
    _, files, _ = written
    pale = {path.name: path.read_text(encoding="utf-8").count('opacity="0.4"') for path in files[:-4]}
    assert pale["deep_linear.training.svg"] >= 5  # one for every norm
    assert pale["rescaling_control.rescaling.svg"] == 0


def test_pictures_have_one_legend_with_every_network(written):
    folder, _, _ = written
    drawn = ET.parse(folder / "deep_linear.training.svg").getroot()
    words = [element.text for element in drawn.iter(f"{SVG}text")]
    for name in ("No norm", "BatchNorm", "L1 norm", "L2 norm", "L∞ norm", "pale: the paper’s curves"):
        assert words.count(name) == 1


def test_tables_hold_every_verdict(written):
    folder, _, verdicts = written
    rows = list(csv.DictReader(io.StringIO((folder / "verdicts.csv").read_text(encoding="utf-8"))))
    assert [row["claim"] for row in rows] == [verdict.claim for verdict in verdicts]
    for row, verdict in zip(rows, verdicts, strict=True):
        assert row["verdict"] == verdict.verdict
        assert row["runs"].split() == list(verdict.runs)
        if verdict.interval is not None:
            assert [float(row[f"interval_{end}"]) for end in ("low", "high")] == list(verdict.interval)
    table = (folder / "verdicts.md").read_text(encoding="utf-8").splitlines()[2:]
    assert [re.match(r"\| `(\w+)` ", line)[1] for line in table] == [verdict.claim for verdict in verdicts]
    assert {line.count(" | ") for line in table} == {5}
    assert "| the paper says | its plot shows | we measured |" in (folder / "beside-the-paper.md").read_text()


def test_tables_of_nothing_are_empty() -> None:
    assert verdicts_as_markdown([]).count("\n") == 2
    assert verdicts_as_csv([]).strip() == ""


def test_the_same_study_gives_the_same_bytes(small, written, tmp_path):
    _, files, verdicts = written
    again = write_stills(tmp_path, small, verdicts, plotted())
    assert [path.read_bytes() for path in again] == [path.read_bytes() for path in files]


def test_numbers_in_words_stay_as_they_are():
    assert slim('<text x="1.234">0.12345</text>') == '<text x="1.2">0.12345</text>'


def test_nothing_to_draw_and_a_folder_that_cannot_be(small, tmp_path):
    with pytest.raises(WorkError, match="expected measurements to draw, found none"):
        write_stills(tmp_path / "none", replace(small, frame=small.frame.clear()), [])
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(WorkError, match="expected a folder that can be written, got: "):
        write_stills(blocked, small, [])
