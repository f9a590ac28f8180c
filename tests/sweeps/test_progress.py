from __future__ import annotations

import io

from rich.console import Console
from tests.studies import run_spec

from alidade.core.probes import PlannedRun
from alidade.sweeps.progress import StudyProgress

RUNS = [PlannedRun(spec=run_spec(seed, steps=10)) for seed in (100, 101)]


def _said(terminal: bool) -> str:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=100)
    with StudyProgress(RUNS, console) as progress:
        progress.advanced(RUNS[0].spec.run_id, 5, 1.25, 0.5)
        progress.advanced(RUNS[0].spec.run_id, 10, 0.5, 1.0)
        progress.finished(RUNS[0].spec.run_id)
        progress.advanced(RUNS[0].spec.run_id, 9, 9.0, 0.0)  # a late message changes nothing
        progress.failed(RUNS[1].spec.run_id, "[Errno 28] in [/tmp/x]: " + "no space left " * 12)
    return stream.getvalue()


def test_without_a_terminal_each_run_is_one_plain_line() -> None:
    first, second, rest = _said(terminal=False).split("\n")
    assert first.startswith("[1/2] none lr 0.1 seed 100  loss 0.500  accuracy 1.00  ")
    assert first.endswith(" min left")
    assert second.startswith("[2/2] none lr 0.1 seed 101  FAILED: [Errno 28] in [/tmp/x]: no space left no space")
    assert rest == ""
    assert "\x1b" not in first + second


def test_in_a_terminal_there_are_bars() -> None:
    said = _said(terminal=True)
    assert "\x1b[" in said
    assert "all runs" in said
    assert "20" in said  # steps in all
