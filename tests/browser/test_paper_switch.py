"""The switch of the paper's curves in a real browser: off at first in a short study, one choice for every chart."""

from __future__ import annotations

import pytest
from tests.browser.test_report_page import Visit, browser  # noqa: F401
from tests.report import synthetic

from alidade.report.page import write_page

pytestmark = pytest.mark.browser
#: Charts with the paper behind them: how many lines or areas of it each shows, and the words along its axis.
LOOK = """boxes => boxes.map(box => ({
    drawn: [...box.querySelectorAll('svg .layer_0_marks path')].filter(path => path.getAttribute('d')).length,
    labels: [...box.querySelectorAll('svg .role-axis-label text')].map(text => text.textContent).sort().join(' '),
    bad: [...box.querySelectorAll('svg *')].some(e => [...e.attributes].some(a => /NaN|Infinity/.test(a.value))),
}))"""


@pytest.fixture(scope="module")
def page(browser, tmp_path_factory):  # noqa: F811
    study = synthetic.study(norms=("none", "batch"), seeds=[100, 101])
    path = write_page(tmp_path_factory.mktemp("paper") / "report.html", study, synthetic.verdicts())
    visit = Visit(browser, path, 1280)
    yield visit
    visit.page.close()


def look(visit) -> list[dict]:
    panels = visit.page.evaluate(
        "Object.entries(JSON.parse(document.getElementById('charts').textContent).panels)"
        ".filter(([id, spec]) => 'paper' in spec.datasets).map(([id]) => id)"
    )
    selector = ", ".join(f'[data-panel="{panel}"]' for panel in panels)
    return visit.page.eval_on_selector_all(selector, LOOK)


def test_one_switch_shows_and_hides_the_paper_everywhere(page):
    switches = page.page.locator(".paper-switch input")
    assert switches.count() >= 4
    assert not any(switches.nth(i).is_checked() for i in range(switches.count()))
    before = look(page)
    assert [chart["drawn"] for chart in before] == [0] * len(before)
    switches.first.check()
    page.page.wait_for_timeout(1500)
    assert all(switches.nth(i).is_checked() for i in range(switches.count()))
    during = look(page)
    assert all(chart["drawn"] > 0 and not chart["bad"] for chart in during)
    assert any(a["labels"] != b["labels"] for a, b in zip(before, during, strict=True))
    switches.last.uncheck()
    page.page.wait_for_timeout(1500)
    assert look(page) == before
    assert page.trouble == []


def test_the_table_stands_on_the_page(page):
    rows = page.page.locator("#paper tbody tr")
    assert rows.count() == 5
    assert "7.3" in rows.nth(2).inner_text()
    assert page.page.locator('.contents a[href="#paper"]').count() == 1
