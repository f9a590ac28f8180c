"""A study on paper: every figure as an SVG with the paper's curves behind it, and every table as Markdown and CSV."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from alidade.core.errors import WorkError
from alidade.report.composed import ON_THE_PAGE, composed_figures
from alidade.report.paper_backdrop import beside_the_paper
from alidade.report.paper_table import markdown, paper_rows
from alidade.report.plot import Chart
from alidade.report.sections import planned
from alidade.report.verdict_table import verdict_groups
from alidade.store.files import write_atomically

if TYPE_CHECKING:
    from alidade.claims.claim import Verdict
    from alidade.report.figure import Figure
    from alidade.store import Study

CAPTIONS, VERDICTS, BESIDE = "figures.md", "verdicts", "beside-the-paper.md"


def write_stills(
    folder: Path, study: Study, verdicts: Sequence[Verdict], plotted: Mapping[str, float] | None = None
) -> list[Path]:
    """Write ``section.figure.svg`` for every figure, their captions, and the tables; the files in the order written.

    Raises:
        WorkError: the study holds no measurement to draw, or a file cannot be written.
    """
    drawn = list(_figures(study))
    if not drawn:
        raise WorkError(f"{study.root}: expected measurements to draw, found none; run 'alidade demo' first")
    texts = {
        CAPTIONS: captions(drawn),
        f"{VERDICTS}.md": verdicts_as_markdown(verdicts),
        f"{VERDICTS}.csv": verdicts_as_csv(verdicts),
        BESIDE: markdown(paper_rows(verdicts, plotted or {})),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        pictures = {file_of(figure): slim(Chart(composed_figures([figure])).svg()) for figure in drawn}
        for name, text in {**pictures, **texts}.items():
            write_atomically(folder / name, text.encode())
    except OSError as error:
        raise WorkError(f"{folder}: expected a folder that can be written, got: {error.strerror}") from error
    return [folder / name for name in (*pictures, *texts)]


def file_of(figure: Figure) -> str:
    """The name of a figure's picture.

    An experiment's section and the figure: ``landscape.loss-band.svg``.
    """
    return f"{figure.id.replace('--', '.')}.svg"


def slim(svg: str) -> str:
    """The same picture in fewer bytes: tenths of a pixel, and one text alternative instead of one per mark.

    Clips are numbered anew: Vega counts on from picture to picture, and the same study gives the same bytes.

    >>> slim('<path aria-label="x: 0; y: 46880" role="graphics-symbol" d="M0,180.3749L1.5,98.4"/>')
    '<path d="M0,180.4L1.5,98.4"/>'
    """
    names: dict[str, str] = {}
    svg = re.sub(r"\bclip\d+\b", lambda found: names.setdefault(found[0], f"clip{len(names)}"), svg)
    bare = re.sub(r' (?:aria-[a-z]+|role)="[^"]*"', "", svg)
    return re.sub(r"\d+\.\d{2,}(?=[^<>]*>)", lambda found: f"{float(found[0]):.1f}", bare)


def _figures(study: Study) -> Iterator[Figure]:
    for plan in planned(study):
        if plan.name not in ON_THE_PAGE and (figure := plan.draw()):
            yield beside_the_paper(figure, plan.section)


def captions(drawn: Sequence[Figure]) -> str:
    """All figures with their numbers, how to read them, and under which conditions they were measured."""
    return "\n".join(line for figure in drawn for line in _caption(figure))


def _caption(figure: Figure) -> Iterator[str]:
    yield f"## {figure.title}{f': {figure.setting}' if figure.setting else ''}\n"
    yield f"![{figure.lead.text}]({file_of(figure)})\n"
    yield f"{figure.lead.text}\n"
    yield from (f"> {remark}\n" for remark in figure.remarks)
    yield f"**How to read this.** {figure.how_to_read}\n"
    behind = f" · the paper's curves: {figure.backdrop.caption}" if figure.backdrop else ""
    yield f"*{figure.note}{behind}*\n"


def verdicts_as_markdown(verdicts: Sequence[Verdict]) -> str:
    """One row per claim, as the page writes it."""
    lines = ["| claim | statistic | estimate | 95 % interval | n | verdict |", "| --- | --- | --- | --- | --- | --- |"]
    for group in verdict_groups(verdicts):
        for line in group.lines:
            why = f": {line.reason}" if line.reason else ""
            lines.append(
                f"| `{line.claim}` | {line.statistic} | {line.estimate} | {line.interval or '–'} | {line.n} | "
                f"**{line.verdict}**{why} |"
            )
    return "\n".join(lines) + "\n"


def verdicts_as_csv(verdicts: Sequence[Verdict]) -> str:
    """The fields of ``alidade claims --json``, the interval in two columns, run ids joined by spaces."""
    rows = []
    for verdict in verdicts:
        fields = verdict.to_json()
        low, high = fields.pop("interval") or (None, None)
        rows.append({**fields, "runs": " ".join(verdict.runs), "interval_low": low, "interval_high": high})
    return pl.DataFrame(rows, infer_schema_length=None).write_csv()
