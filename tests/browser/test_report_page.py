"""The report in a real browser: nothing is fetched, everything is drawn, the slider moves, both widths fit."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.report import synthetic

from alidade.report.page import write_page

pytestmark = pytest.mark.browser
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WIDTHS = (1280, 390)


@pytest.fixture(scope="module", params=["demo", "synthetic", "one seed", "survey"])
def report(request, tmp_path_factory) -> Path:
    """The page under test: that of a real demo, and of studies made up to be difficult."""
    if request.param == "demo":
        return request.getfixturevalue("demo_dir") / "report.html"
    studies = {
        "synthetic": lambda: (synthetic.study(), synthetic.verdicts()),
        "one seed": lambda: (
            synthetic.study(seeds=[100], norms=("none", "batch"), rates=(0.1, 0.5)),
            synthetic.undecided(),
        ),
        "survey": lambda: (synthetic.survey(), []),
    }
    study, verdicts = studies[request.param]()
    return write_page(tmp_path_factory.mktemp("page") / "report.html", study, verdicts)


@pytest.fixture(scope="module")
def browser():
    """Debian's Chromium; skips where it or playwright is missing."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    with api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


class Visit:
    """A page that was opened, and all that went wrong on it."""

    def __init__(self, browser, report: Path, width: int, scheme: str = "light") -> None:
        self.page = browser.new_page(viewport={"width": width, "height": 860}, color_scheme=scheme)
        self.trouble: list[str] = []
        self.requests: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda m: m.type in ("error", "warning") and self.trouble.append(m.text))
        self.page.on("pageerror", lambda error: self.trouble.append(str(error)))
        self.page.goto(report.resolve().as_uri())
        self.page.wait_for_selector("body[data-ready]", timeout=30_000)


@pytest.fixture(params=WIDTHS)
def visit(request, browser, report):
    """The page at one width."""
    opened = Visit(browser, report, request.param)
    yield opened
    opened.page.close()


def test_no_request_leaves_the_page_and_nothing_complains(visit, report):
    visit.page.mouse.wheel(0, 4000)
    visit.page.wait_for_timeout(100)
    assert [url for url in visit.requests if not url.startswith("data:")] == [report.resolve().as_uri()]
    assert visit.trouble == []


def test_every_chart_is_drawn_with_numbers_only(visit):
    drawn = visit.page.eval_on_selector_all(
        "[data-panel]",
        """boxes => boxes.map(box => ({
            id: box.dataset.panel,
            marks: box.querySelectorAll('svg .mark-line path, svg .mark-area path, svg .mark-symbol path').length,
            bad: [...box.querySelectorAll('svg *')].some(
                e => [...e.attributes].some(a => /NaN|Infinity/.test(a.value))),
            width: box.querySelector('svg').getBoundingClientRect().width,
            room: box.getBoundingClientRect().width,
        }))""",
    )
    assert drawn
    for chart in drawn:
        assert chart["marks"] > 0, chart["id"]
        assert not chart["bad"], chart["id"]
        assert chart["width"] <= chart["room"] + 1, chart["id"]


def test_the_page_never_scrolls_sideways(visit):
    widths = visit.page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert widths[0] <= widths[1]


def test_no_labels_of_an_axis_overlap(visit):
    crowded = visit.page.eval_on_selector_all(
        "[data-panel] .mark-text.role-axis-label",
        """groups => groups.filter(group => {
            const boxes = [...group.querySelectorAll('text')].filter(t => t.textContent && t.style.opacity !== '0'
                && getComputedStyle(t).opacity !== '0').map(t => t.getBoundingClientRect());
            return boxes.some((a, i) => boxes.slice(i + 1).some(b =>
                a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 2 && b.top < a.bottom - 2));
        }).map(group => group.textContent)""",
    )
    assert crowded == []


def test_the_slider_moves_curves_and_numbers(visit):
    shapes = (
        "() => [...document.querySelectorAll('[data-stepper] .mark-line path')].map(p => p.getAttribute('d')).join()"
    )
    numbers = "() => [...document.querySelectorAll('[data-stepper] [data-variant]')].map(p => p.textContent).join()"
    before = visit.page.evaluate(shapes), visit.page.evaluate(numbers)
    visit.page.focus(".slider")
    visit.page.keyboard.press("End")
    visit.page.wait_for_timeout(200)
    after = visit.page.evaluate(shapes), visit.page.evaluate(numbers)
    assert before[0] != after[0]
    assert before[1] != after[1]
    step = visit.page.inner_text("[data-stepper] output b")
    assert visit.page.get_attribute(".slider", "aria-valuetext") == f"step {step}"


def test_play_runs_from_the_keyboard_and_pauses(visit):
    visit.page.evaluate("document.querySelector('.slider').value = 0")
    visit.page.focus(".play")
    visit.page.keyboard.press("Space")
    visit.page.wait_for_function("Number(document.querySelector('.slider').value) >= 2", timeout=10_000)
    assert visit.page.get_attribute(".play", "aria-label") == "Pause"
    visit.page.keyboard.press("Space")
    assert visit.page.get_attribute(".play", "aria-label") == "Play through training"
    assert visit.trouble == []


def test_the_theme_follows_the_system_and_the_button(browser, report):
    ground = "getComputedStyle(document.body).backgroundColor"
    line = "getComputedStyle(document.querySelector('[data-panel] .mark-line path')).stroke"
    seen = {}
    for scheme in ("light", "dark"):
        visit = Visit(browser, report, 1280, scheme)
        seen[scheme] = visit.page.evaluate(ground), visit.page.evaluate(line)
        visit.page.click("#theme")
        seen[f"{scheme}, switched"] = visit.page.evaluate(ground), visit.page.evaluate(line)
        assert visit.trouble == []
        visit.page.close()
    assert seen["light"] == seen["dark, switched"]
    assert seen["dark"] == seen["light, switched"]
    assert seen["light"][0] != seen["dark"][0]
    assert seen["light"][1] != seen["dark"][1]
