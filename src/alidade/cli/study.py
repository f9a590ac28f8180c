"""From chosen experiments to finished runs and their report: where the measuring and the reading wing meet."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alidade.core.errors import AlidadeError, CallError, WorkError

if TYPE_CHECKING:
    from alidade.core.probes import PlannedRun
    from alidade.experiments.experiment import Experiment, Settings
    from alidade.store import Study
    from alidade.sweeps.executor import Execution, Executor
    from alidade.sweeps.worker import Job


def run_study(
    experiments: Sequence[Experiment],
    settings: Settings,
    out: Path,
    data_dir: Path | None = None,
    device: str = "cpu",
    max_minutes: float | None = None,
    networks: int = 0,
    checkpoint_seconds: float | None = None,
    execution: Execution | None = None,
) -> None:
    """Do what is missing of some experiments' runs, check the theorems on ``networks`` each, and write the report."""
    from alidade.store.places import is_in_memory
    from alidade.sweeps.executor import Execution, executor_for

    if is_in_memory(out):
        raise CallError(f"--out: expected a folder that several processes see, got {out}; name another")
    with executor_for(execution or Execution()) as executor:
        from alidade.sweeps.worker import Job

        job = Job(out, data_dir, executor.device(device), checkpoint_seconds)
        _run_study(executor, job, experiments, settings, max_minutes, networks)


def _run_study(
    executor: Executor,
    job: Job,
    experiments: Sequence[Experiment],
    settings: Settings,
    max_minutes: float | None,
    networks: int,
) -> None:
    from rich.console import Console

    from alidade.experiments.experiment import FIRST_SEED, size_of
    from alidade.store import has_theory, write_manifest
    from alidade.sweeps import plan, worker
    from alidade.sweeps.progress import StudyProgress

    console, out, fixed = Console(stderr=True, soft_wrap=True), job.root, settings
    if any(run.spec.data.name == settings.data for experiment in experiments for run in experiment.runs(settings)):
        found = worker.fingerprint_of(settings.data, job.data_dir, size_of(settings).train_examples)
        fixed = settings.model_copy(update={"fingerprint": found})
    by_experiment = {experiment.name: experiment.runs(fixed) for experiment in experiments}
    runs = plan.union(run for planned in by_experiment.values() for run in planned)
    write_manifest(out, _manifest(fixed, by_experiment), warn)
    todo = plan.remaining(out, runs, warn)
    console.print(f"{len(runs)} runs: {len(runs) - len(todo)} finished before are reused, {len(todo)} to do")
    try:
        with StudyProgress(todo, console) as progress:
            executor.execute(todo, job, progress, max_minutes and max_minutes * 60)
        if networks and not has_theory(out, networks, FIRST_SEED):
            keep_theory(out, check_statements(networks, FIRST_SEED), networks, FIRST_SEED)
    except KeyboardInterrupt:
        kept = len(runs) - sum(plan.missing(out, run) is not None for run in runs)
        raise StudyInterruptedError(f"{kept} of {len(runs)} runs are finished and kept in {out}") from None
    except WorkError:
        with suppress(AlidadeError, OSError):  # what stopped the runs may stop the report too
            path = write_report(out, out / "report.html")
            console.print(f"a report of the finished runs: {path}", markup=False, highlight=False)
        raise
    print(f"report: {write_report(out, out / 'report.html')}")


def warn(line: str) -> None:
    """Something that the user should know, and that stops nothing."""
    print(f"warning: {line}", file=sys.stderr, flush=True)


def opened(folder: Path, as_recorded: bool = False) -> Study:
    """A study; what its reader must know before the numbers goes to standard error."""
    from alidade.store import open_study

    study = open_study(folder, as_recorded)
    for line in study.troubles:
        warn(line)
    return study


class StudyInterruptedError(AlidadeError):
    """Ctrl-C; the message says what is kept."""


def check_statements(networks: int, seed: int) -> list[dict[str, Any]]:
    """The table of alidade.theory with quantiles of left over right side, under a progress bar."""
    import numpy as np
    from rich.console import Console
    from rich.progress import Progress
    from torch import get_num_threads, set_num_threads

    from alidade.theory import check_all

    threads = get_num_threads()
    set_num_threads(1)  # batches of small matrices: a second thread costs more than it brings
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as bars:
        task = bars.add_task(f"theorems on {networks} networks each")
        checks = check_all(networks, seed, lambda done, total: bars.update(task, completed=done, total=total))
    set_num_threads(threads)
    shares = {"p01": 0.01, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p99": 0.99}
    return [
        check.to_json()
        | {
            "quantiles": {n: float(np.quantile(check.ratio, q)) for n, q in shares.items()}
            if check.ratio.size
            else None
        }
        for check in checks
    ]


def keep_theory(out: Path, rows: list[dict[str, Any]], networks: int, seed: int) -> None:
    """Put the table beside a study's runs, where the report finds it."""
    from alidade.store import write_theory

    write_theory(out, {"instances": networks, "seed": seed, "rows": rows})


def _manifest(settings: Settings, runs: dict[str, list[PlannedRun]]) -> dict[str, object]:
    return {
        "command": shlex.join(["alidade", *sys.argv[1:]]),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "settings": settings.model_dump(mode="json", exclude={"seeds"}),
        "experiments": {name: [run.spec.run_id for run in planned] for name, planned in runs.items()},
    }


def write_report(folder: Path, out: Path) -> Path:
    """Judge a study and write its page."""
    from alidade.experiments import EXPERIMENTS, judge_study
    from alidade.experiments.paper import plotted
    from alidade.report.page import Chapter, drawing_library, write_page

    study = opened(folder)
    chapters = {name: Chapter(experiment.question, experiment.paper) for name, experiment in EXPERIMENTS.items()}
    with ThreadPoolExecutor(1) as pool:
        library = pool.submit(drawing_library)  # on another core, while claims are judged
        return write_page(out, study, judge_study(study), chapters, plotted(), library.result)


def write_figures(folder: Path, into: Path) -> list[Path]:
    """Judge a study and write its figures and tables as files."""
    from alidade.experiments import judge_study
    from alidade.experiments.paper import plotted
    from alidade.report.stills import write_stills
    from alidade.store import open_study

    study = open_study(folder)
    return write_stills(into, study, judge_study(study), plotted())
