"""Write docs/results: the paper's story in figures and numbers of finished studies.

The prose stands in tools/results.md.jinja; every number, verdict and figure in it comes out of the two studies.

    alidade reproduce all --scale quick --data cifar10 --seeds 5 --out runs/cifar10
    alidade reproduce deep_linear --scale paper --seeds 3 --out runs/deep_linear
    python tools/results.py runs/cifar10 runs/deep_linear docs/results
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from alidade.cli.study import write_report
from alidade.core.spec import RunSpec
from alidade.experiments import judge_study
from alidade.experiments.paper import plotted
from alidade.report.composed import composed_figures
from alidade.report.figure import Figure
from alidade.report.finding import written
from alidade.report.paper_backdrop import beside_the_paper
from alidade.report.paper_table import markdown, paper_rows
from alidade.report.plot import Chart
from alidade.report.sections import planned
from alidade.report.stills import file_of, slim, verdicts_as_csv, verdicts_as_markdown
from alidade.report.words import seeds
from alidade.store import Study, open_study

#: Folders beside the page.
IMAGES, LINEAR = "cifar10", "deep_linear"


class Results:
    """One study as the page tells it: what the template may ask."""

    def __init__(self, study: Study, target: Path) -> None:
        self.study = study
        self.verdicts = {verdict.claim: verdict for verdict in judge_study(self.study)}
        self.plotted = plotted()
        self.target = target
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        verdicts = list(self.verdicts.values())
        texts = {
            "verdicts.md": verdicts_as_markdown(verdicts),
            "verdicts.csv": verdicts_as_csv(verdicts),
            "beside-the-paper.md": markdown(paper_rows(verdicts, self.plotted)),
        }
        for name, text in texts.items():
            (target / name).write_text(text, encoding="utf-8")

    @property
    def command(self) -> str:
        """What made the study."""
        return str(self.study.manifest["command"])

    @property
    def seeds(self) -> str:
        """How many, and which."""
        return seeds(spec.seed for spec in self.study.specs.values() if spec.seed is not None)

    @property
    def steps(self) -> str:
        """Of the longest kind of run for images, or of all where there are none."""
        specs = [spec for spec in self.study.specs.values() if isinstance(spec, RunSpec)]
        images = [spec.steps for spec in specs if spec.model.kind == "vgg"]
        return f"{max(images or [spec.steps for spec in specs]):,}".replace(",", "\u202f")

    @property
    def tally(self) -> str:
        """How many claims came out how."""
        found = [verdict.verdict for verdict in self.verdicts.values()]
        return ", ".join(f"{found.count(name)} {name}" for name in ("supported", "refuted", "undecided"))

    @cached_property
    def figures(self) -> dict[str, Figure]:
        """Every figure of the page by id, with the paper's curves behind it."""
        plans = [plan for plan in planned(self.study) if plan.name != "stepper"]
        return {figure.id: beside_the_paper(figure, plan.section) for plan in plans if (figure := plan.draw())}

    def figure(self, id_: str) -> str:
        """A picture of one figure, its numbers, its warnings and how to read it."""
        figure = self.figures[id_]
        name = file_of(figure)
        (self.target / name).write_text(slim(Chart(composed_figures([figure])).svg()), encoding="utf-8")
        lines = [f"![{figure.title}]({self.target.name}/{name})", f"*{figure.lead.text}*"]
        lines += [f"> {remark}" for remark in figure.remarks]
        return "\n\n".join([*lines, f"**How to read it.** {figure.how_to_read}"])

    def verdict(self, claim: str) -> str:
        """One verdict in a few words: "supported: 2.1 (1.7 to 2.6), 3 seeds"."""
        found = self.verdicts[claim]
        if found.estimate is None:
            return f"**{found.verdict}** ({found.reason})"
        interval = f" ({' to '.join(written(found, end) for end in found.interval)})" if found.interval else ""
        return f"**{found.verdict}**: {written(found, found.estimate)}{interval}, n = {found.n}"

    def plot(self, claim: str) -> str:
        """The claim's statistic of the paper's own plot."""
        return written(self.verdicts[claim], self.plotted[claim]) if claim in self.plotted else "–"

    def table(self, claims: Iterable[str]) -> str:
        """Claims in words, with what the paper's own plot gives, what was measured, and the verdict."""
        lines = ["| what was asked | asked for | the paper's plot | measured here | verdict |"]
        lines.append("| --- | --- | --- | --- | --- |")
        for claim in claims:
            found = self.verdicts.get(claim)
            if found is None:
                lines.append(f"| `{claim}` | | | no run of this study bears on it | |")
                continue
            estimate = "–" if found.estimate is None else written(found, found.estimate)
            interval = f" ({' to '.join(written(found, end) for end in found.interval)})" if found.interval else ""
            why = f": {found.reason}" if found.reason else ""
            lines.append(
                f"| {found.hypothesis} `{claim}` | {found.relation} {found.threshold:g} | {self.plot(claim)} | "
                f"{estimate}{interval}, n = {found.n} | **{found.verdict}**{why} |"
            )
        return "\n".join(lines)


def main(images: Path, linear: Path, target: Path) -> None:
    """Write the page and, beside it, a folder with report, figures and tables of each study."""
    write_page(open_study(images), open_study(linear), target)
    for source, name in ((images, IMAGES), (linear, LINEAR)):
        report = target / name / "report.html"
        write_report(source, report)
        report.write_text(_subscripted(report.read_text(encoding="utf-8")), encoding="utf-8")


def _subscripted(page: str) -> str:
    """The same page: one property of the drawing library, read by subscript, no longer looks like a hidden folder."""
    return re.sub(r"(\w)\.library\b", r'\1["library"]', page)


def write_page(images: Study, linear: Study, target: Path) -> None:
    """Everything but the reports."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, keep_trailing_newline=True
    )
    studies = {"vgg": Results(images, target / IMAGES), "dln": Results(linear, target / LINEAR)}
    page = environment.get_template("results.md.jinja").render(studies)
    (target / "README.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
