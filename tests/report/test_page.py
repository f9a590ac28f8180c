import json
import re
from html.parser import HTMLParser

import pytest

from alidade.core.errors import WorkError
from alidade.report.page import write_page

HOSTILE = "alidade demo --out '</script><img src=x onerror=alert(1)>{{ 7 * 7 }}'"


class Tags(HTMLParser):
    """Collects tags and their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))


def charts_of(html: str):
    return json.loads(re.search(r'<script type="application/json" id="charts">(.*?)</script>', html, re.S)[1])


@pytest.fixture(scope="module")
def page(tmp_path_factory, study, verdicts):
    return write_page(tmp_path_factory.mktemp("page") / "report.html", study, verdicts)


def test_the_same_study_gives_the_same_bytes(page, tmp_path, synthetic, verdicts):
    again = write_page(tmp_path / "again.html", synthetic.study(), verdicts)
    assert again.read_bytes() == page.read_bytes()


def test_nothing_is_fetched_from_anywhere(page):
    html = page.read_text()
    parser = Tags()
    parser.feed(html)
    for tag, attributes in parser.tags:
        assert tag not in ("iframe", "object", "embed", "img", "base")
        assert not (tag == "script" and "src" in attributes)
        for name in ("href", "src", "action"):
            assert (attributes.get(name) or "#").startswith(("#", "data:"))
    assert "default-src 'none'" in html
    for host in ("jsdelivr", "unpkg", "cdnjs", "googleapis", "registry"):
        assert host not in html
    assert html.count("window.vegaEmbed=") + html.count("window.vegaEmbed =") == 1


def test_the_page_stays_small(page):
    assert page.stat().st_size < 4_000_000


def test_every_panel_of_the_page_has_a_chart_and_a_text_alternative(page):
    parser = Tags()
    parser.feed(page.read_text())
    panels = [attributes for _, attributes in parser.tags if "data-panel" in attributes]
    assert {attributes["data-panel"] for attributes in panels} == set(charts_of(page.read_text())["panels"])
    assert all(attributes["role"] == "img" and attributes["aria-label"] for attributes in panels)


def test_the_page_tells_command_versions_seeds_machine_and_time(page, study):
    html = page.read_text()
    for text in ("alidade demo --out runs/demo", "torch 2.13.0", "100–104", "AMD EPYC", "training 146 s"):
        assert text in html
    assert all(run in html for run in study.specs)


def test_hostile_strings_are_text(tmp_path, synthetic, verdicts):
    study = synthetic.study(seeds=[100], norms=("none", "batch"), command=HOSTILE)
    bad = synthetic.verdict("loss_band", 2.0, (1.5, 3.0), statistic="ratio <b>x</b></script>", reason="<i>why</i>")
    html = write_page(tmp_path / "report.html", study, [bad, *verdicts]).read_text()
    assert "<img src=x" not in html
    assert "<b>x</b>" not in html
    assert "<i>why</i>" not in html
    assert "{{ 7 * 7 }}" in html
    assert len(re.findall(r"</script>", html)) == 3
    assert charts_of(html)["panels"]


def test_the_bundle_cannot_end_its_own_script(page):
    scripts = re.findall(r"<script>(.*?)</script>", page.read_text(), re.S)
    assert len(scripts) == 2
    assert "<!--" not in scripts[0]


def test_unfinished_runs_make_the_page_preliminary(tmp_path, study, verdicts):
    from dataclasses import replace

    html = write_page(tmp_path / "report.html", replace(study, unfinished=("a", "b")), verdicts).read_text()
    assert "2 planned runs are not finished" in html


def test_damage_and_failures_stand_on_the_page(tmp_path, study, verdicts):
    from dataclasses import replace

    from alidade.store.failures import Failure

    known = replace(study, damage=("x/DONE: <damaged>",), failures={"abc": Failure("batch seed 1", "out of memory")})
    html = write_page(tmp_path / "report.html", known, verdicts).read_text()
    assert "x/DONE: &lt;damaged&gt;" in html
    assert "run abc (batch seed 1) failed: out of memory" in html
    many = replace(study, damage=tuple(f"x/{k}: damaged" for k in range(11)))
    html = write_page(tmp_path / "report.html", many, verdicts).read_text()
    assert "x/7: damaged" in html
    assert "x/8: damaged" not in html
    assert "And 3 more like these" in html


@pytest.mark.parametrize("case", ["undecided", "no verdicts", "survey", "bare"])
def test_every_kind_of_study_has_its_page(tmp_path, synthetic, study, case):
    made = {"survey": synthetic.survey(), "bare": synthetic.study(seeds=[3], norms=("batch",), every=10_000)}
    verdicts = synthetic.undecided() if case == "undecided" else []
    html = write_page(tmp_path / "report.html", made.get(case, study), verdicts).read_text()
    assert "<h1>" in html
    assert "None" not in re.sub(r"<script.*?</script>", "", html, flags=re.S)


def test_nothing_to_report_is_said_in_one_line(tmp_path, synthetic, study):
    with pytest.raises(WorkError, match="expected measurements to draw, found none"):
        write_page(tmp_path / "report.html", synthetic.replaced(study, study.frame.clear()), [])


def test_a_page_that_cannot_be_written_leaves_nothing_behind(tmp_path, study, verdicts):
    taken = tmp_path / "report.html"
    taken.mkdir()
    with pytest.raises(WorkError, match="expected a file that can be written"):
        write_page(taken, study, verdicts)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
