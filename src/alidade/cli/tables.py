"""Tables for a terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alidade.claims.claim import Verdict


def print_verdicts(verdicts: Sequence[Verdict]) -> None:
    """One row per claim."""
    from rich.table import Column, Table

    names = Column("claim", overflow="fold")  # two of them may differ in their last letters only
    table = Table(names, "verdict", "estimate", "95 % interval", "threshold", "n", box=None)
    for verdict in verdicts:
        interval = "-" if verdict.interval is None else "{:.3g} to {:.3g}".format(*verdict.interval)
        estimate = "-" if verdict.estimate is None else f"{verdict.estimate:.3g}"
        table.add_row(verdict.claim, verdict.verdict, estimate, interval, f"{verdict.threshold:g}", str(verdict.n))
    _print(table)


def print_theory(rows: Sequence[dict[str, Any]]) -> None:
    """One row per statement and form: largest relative error of an identity, smallest relative slack of a bound."""
    from rich.table import Column, Table

    names = (
        Column("statement", overflow="fold"),
        "form",
        "kind",
        "instances",
        "violations",
        "error or slack",
        "verdict",
    )
    table = Table(*names, Column("hypotheses", overflow="fold"), box=None)
    for row in rows:
        number = row["max_relative_error"] if row["kind"] == "identity" else row["min_slack"]
        table.add_row(
            row["statement"], row["form"], row["kind"], str(row["instances"]), str(row["violations"]),
            f"{number:.1e}", row["verdict"], row["hypotheses"],
        )  # fmt: skip
    _print(table)


def _print(table: Any) -> None:
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 160).print(table)
