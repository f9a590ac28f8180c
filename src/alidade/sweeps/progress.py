"""How a study goes, for a person: bars in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from alidade.core.probes import PlannedRun


class StudyProgress:
    """One bar per run at work and an overall one, with loss, accuracy and time left (sweeps.local.Listener)."""

    def __init__(self, runs: Sequence[PlannedRun], console: Console) -> None:
        self._specs = {run.spec.run_id: run.spec for run in runs}
        self._console = console
        self._steps = dict.fromkeys(self._specs, 0)
        self._total = sum(spec.steps for spec in self._specs.values())
        self._metrics: dict[str, str] = {}
        self._ended: set[str] = set()
        self._began = time.monotonic()
        self._tasks: dict[str, TaskID] = {}
        self._bars = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[metrics]}"),
            TimeRemainingColumn(), console=console, disable=not console.is_terminal,
        )  # fmt: skip
        self._overall = self._bars.add_task("all runs", total=self._total, metrics="")

    def __enter__(self) -> StudyProgress:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def advanced(self, run_id: str, step: int, loss: float, accuracy: float | None) -> None:
        """A run has taken ``step`` steps."""
        if run_id in self._ended:  # its last words were late
            return
        self._steps[run_id] = step
        self._metrics[run_id] = f"loss {loss:.3f}" + ("" if accuracy is None else f"  accuracy {accuracy:.2f}")
        spec = self._specs[run_id]
        if run_id not in self._tasks:
            self._tasks[run_id] = self._bars.add_task(spec.label, total=spec.steps, metrics="")
        self._bars.update(self._tasks[run_id], completed=step, metrics=self._metrics[run_id])
        self._bars.update(self._overall, completed=sum(self._steps.values()))

    def noted(self, run_id: str, line: str) -> None:
        """Something about a run that its user should know."""
        text = f"{self._specs[run_id].label}: {line}"
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def finished(self, run_id: str) -> None:
        """A run is written."""
        self._steps[run_id] = self._specs[run_id].steps
        self._end(run_id, self._metrics.get(run_id, ""))

    def failed(self, run_id: str, reason: str) -> None:
        """A run came to nothing; the others go on."""
        self._end(run_id, f"FAILED: {reason}")

    def _end(self, run_id: str, outcome: str) -> None:
        self._ended.add(run_id)
        if run_id in self._tasks:
            self._bars.remove_task(self._tasks.pop(run_id))
        self._bars.update(self._overall, completed=sum(self._steps.values()))
        left = f"{self._minutes_left():.1f} min left"
        self._console.print(
            f"[{len(self._ended)}/{len(self._specs)}] {self._specs[run_id].label}  {outcome}  {left}",
            highlight=False, markup=False, soft_wrap=True,
        )  # fmt: skip

    def _minutes_left(self) -> float:
        done = sum(self._steps.values())
        spent = time.monotonic() - self._began
        return spent * (self._total - done) / max(done, 1) / 60
