"""Print the table "the paper says, its plot shows, we measured" of a study as Markdown.

Without a folder: every claim's own statistic of the paper's plots, as it stands in docs/reference/paper-curves.md.

    python tools/paper_table.py runs/all
"""

from __future__ import annotations

import sys
from pathlib import Path

from alidade.experiments import judge_study
from alidade.experiments.paper import as_markdown, plotted
from alidade.report.paper_table import markdown, paper_rows
from alidade.store import open_study


def main(folder: str | None) -> None:
    """Print one of both tables."""
    if folder is None:
        print(as_markdown(), end="")
    else:
        print(markdown(paper_rows(judge_study(open_study(Path(folder))), plotted())), end="")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
