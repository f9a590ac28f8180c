"""The command line. Exit codes: 0 done (a refuted claim is a result), 1 the work failed, 2 the call is wrong."""

from __future__ import annotations

import atexit
import json
import math
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from alidade.core.errors import AlidadeError, CallError, WorkError

if TYPE_CHECKING:
    from alidade.claims.claim import Verdict
    from alidade.core.spec import PlannedRun
    from alidade.experiments.experiment import Experiment, Settings

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)

#: What typer raises for a wrong call; newer versions carry their own click, so it is found, not imported.
_UsageError: type[Exception] = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")  # type: ignore[assignment]

INTERRUPTED = 130  # 128 + SIGINT, as shells expect


class Scale(StrEnum):
    """How large a reproduction is."""

    quick = "quick"
    paper = "paper"


class Data(StrEnum):
    """Known data sets."""

    digits = "digits"
    cifar10 = "cifar10"


class Init(StrEnum):
    """Known initializations."""

    he = "he"
    glorot = "glorot"


class Device(StrEnum):
    """Where to compute."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Format(StrEnum):
    """Known table formats."""

    parquet = "parquet"
    csv = "csv"


def _finite(value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"expected a finite number, got {value}")
    return value


Out = Annotated[Path, typer.Option("--out", help="Folder of the study: runs, and report.html.")]
Seeds = Annotated[int, typer.Option("--seeds", min=1, help="Seeds per network, numbered from 100.")]
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a study.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@app.command()
def demo(out: Out = Path("runs/demo"), seeds: Seeds = 5) -> None:
    """The paper in miniature, on data that comes with the program; ends with DIR/report.html."""
    from alidade.experiments import DEMO
    from alidade.experiments.experiment import Settings

    _run_study(DEMO, Settings(data="digits", seeds=seeds), out)


@app.command()
def reproduce(
    name: Annotated[str, typer.Argument(metavar="NAME", help="An experiment, or all.")],
    scale: Annotated[Scale, typer.Option(help="quick takes minutes; paper is the paper's own setting.")] = Scale.quick,
    seeds: Seeds = 5,
    data: Annotated[Data, typer.Option(help="What the networks learn.")] = Data.cifar10,
    data_dir: Annotated[Path | None, typer.Option(help="CIFAR-10 in its binary layout; downloaded without it.")] = None,
    init: Annotated[Init | None, typer.Option(help="Default: he at quick scale, glorot at paper scale.")] = None,
    l2: Annotated[
        float, typer.Option("--l2", min=0.0, callback=_finite, help="Adds (L2 / 2) ||theta||^2 to the loss.")
    ] = 0.0,
    device: Annotated[Device, typer.Option(help="auto takes a GPU where there is one.")] = Device.auto,
    max_minutes: Annotated[
        float | None, typer.Option(min=0.0, callback=_finite, help="Stop then; finished runs are kept.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Default: runs/NAME.")] = None,
) -> None:
    """Repeat an experiment of the paper and judge its claims; ends with DIR/report.html."""
    from alidade.experiments import experiments_named
    from alidade.experiments.experiment import Settings

    experiments = experiments_named(name)
    settings = Settings(scale=scale.value, data=data.value, seeds=seeds, init=init.value if init else None, l2=l2)
    _run_study(experiments, settings, out or Path("runs") / name, data_dir, device.value, max_minutes)


@app.command()
def claims(folder: Folder, as_json: AsJson = False) -> None:
    """The verdict on each claim, with its interval."""
    from alidade.experiments import judge_study
    from alidade.store import open_study

    verdicts = judge_study(open_study(folder))
    if as_json:
        print(json.dumps([verdict.to_json() for verdict in verdicts], indent=1))
    else:
        _print_verdicts(verdicts)


@app.command()
def report(
    folder: Folder,
    out: Annotated[Path | None, typer.Option("--out", help="Default: DIR/report.html.")] = None,
) -> None:
    """Write the page: one HTML file that needs no network."""
    print(_write_report(folder, out or folder / "report.html"))


@app.command()
def export(
    folder: Folder,
    to: Annotated[Format, typer.Option("--to", help="Format of the table.")],
    out: Annotated[Path | None, typer.Option("--out", help="Default: stdout (csv), DIR/export.parquet.")] = None,
) -> None:
    """All measurements as one tidy table."""
    from alidade import store

    frame = store.load(folder)
    if to is Format.csv and out is None:
        sys.stdout.write(frame.write_csv())
        return
    target = out or folder / "export.parquet"
    store.export(frame, to.value, target)
    print(target)


def _run_study(
    experiments: Sequence[Experiment],
    settings: Settings,
    out: Path,
    data_dir: Path | None = None,
    device: str = "cpu",
    max_minutes: float | None = None,
) -> None:
    from rich.console import Console

    from alidade.core.spec import DataSpec
    from alidade.experiments.experiment import size_of
    from alidade.store import write_manifest
    from alidade.sweeps import local, plan, worker
    from alidade.sweeps.progress import StudyProgress

    console = Console(stderr=True, soft_wrap=True)
    device = _resolve(device)
    data = DataSpec(name=settings.data, train_examples=size_of(settings).train_examples)
    fixed = settings.model_copy(update={"fingerprint": worker.data_spec(data, data_dir).fingerprint})
    by_experiment = {experiment.name: experiment.runs(fixed) for experiment in experiments}
    runs = plan.union(run for planned in by_experiment.values() for run in planned)
    write_manifest(out, _manifest(fixed, by_experiment))
    todo = [part for run in runs if (part := plan.missing(out, run))]
    console.print(f"{len(runs)} runs: {len(runs) - len(todo)} finished before are reused, {len(todo)} to do")
    job = worker.Job(out, data, data_dir, device)
    try:
        with StudyProgress(todo, console) as progress:
            local.execute(todo, job, progress, max_minutes and max_minutes * 60)
    except KeyboardInterrupt:
        kept = len(runs) - sum(plan.missing(out, run) is not None for run in runs)
        raise _InterruptedError(f"{kept} of {len(runs)} runs are finished and kept in {out}") from None
    except WorkError:
        with suppress(AlidadeError, OSError):  # what stopped the runs may stop the report too
            path = _write_report(out, out / "report.html")
            console.print(f"a report of the finished runs: {path}", markup=False, highlight=False)
        raise
    print(f"report: {_write_report(out, out / 'report.html')}")


class _InterruptedError(AlidadeError):
    """Ctrl-C; the message says what is kept."""


def _manifest(settings: Settings, runs: dict[str, list[PlannedRun]]) -> dict[str, object]:
    return {
        "command": shlex.join(["alidade", *sys.argv[1:]]),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "settings": settings.model_dump(mode="json", exclude={"seeds"}),
        "experiments": {name: [run.spec.run_id for run in planned] for name, planned in runs.items()},
    }


def _resolve(device: str) -> str:
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise CallError("--device: expected a CUDA device for 'cuda', found none; use cpu or auto")
    return "cuda" if device == "auto" and torch.cuda.is_available() else device.replace("auto", "cpu")


def _write_report(folder: Path, out: Path) -> Path:
    from alidade.experiments import judge_study
    from alidade.report.page import write_page
    from alidade.store import open_study

    study = open_study(folder)
    return write_page(out, study, judge_study(study))


def _print_verdicts(verdicts: Sequence[Verdict]) -> None:
    from rich.console import Console
    from rich.table import Column, Table

    names = Column("claim", overflow="fold")  # two of them may differ in their last letters only
    table = Table(names, "verdict", "estimate", "95 % interval", "threshold", "n", box=None)
    for verdict in verdicts:
        interval = "-" if verdict.interval is None else "{:.3g} to {:.3g}".format(*verdict.interval)
        estimate = "-" if verdict.estimate is None else f"{verdict.estimate:.3g}"
        table.add_row(verdict.claim, verdict.verdict, estimate, interval, f"{verdict.threshold:g}", str(verdict.n))
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def main() -> None:
    """Run the command line; every error becomes one line on standard error."""
    atexit.register(_skip_teardown)  # the first to be registered is the last to be called
    try:
        code = app(sys.argv[1:] or ["--help"], standalone_mode=False)
        sys.stdout.flush()
        if code == INTERRUPTED:  # what typer makes of Ctrl-C
            raise KeyboardInterrupt
        sys.exit(code or 0)
    except (KeyboardInterrupt, typer.Abort):
        _fail("interrupted; repeat the command to go on", INTERRUPTED)
    except _InterruptedError as error:
        _fail(f"interrupted: {error}; to go on, repeat: {shlex.join(['alidade', *sys.argv[1:]])}", INTERRUPTED)
    except _UsageError as error:
        _fail(_explain(error), 2)
    except CallError as error:
        _fail(str(error), 2)
    except AlidadeError as error:
        _fail(str(error), 1)
    except BrokenPipeError:  # the reader of our output has gone, as with `| head`
        _leave_output()
        sys.exit(1)
    except OSError as error:
        _leave_output()
        _fail(f"{error.filename or 'file'}: {error.strerror or error}; check the path and the free space", 1)
    except Exception as error:
        if "ALIDADE_TRACEBACK" in os.environ:
            raise
        _fail(f"unexpected {type(error).__name__}: {error}; for a report of it set ALIDADE_TRACEBACK=1 and repeat", 1)


def _explain(error: Exception) -> str:
    message: str = error.format_message()  # type: ignore[attr-defined]
    known = ", ".join(command.callback.__name__ for command in app.registered_commands if command.callback)
    hint = f"known: {known}" if message.startswith("No such command") else "see 'alidade --help'"
    return f"{message.rstrip('.')}; {hint}"


def _leave_output() -> None:
    """What is still buffered for standard output cannot be written: do not try again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


_left: list[int] = []  # the exit code after Ctrl-C


def _skip_teardown() -> None:
    """After Ctrl-C nobody waits for torch to be taken apart, which lasts up to a second on a busy core."""
    if _left:
        os._exit(_left[0])


def _fail(message: str, code: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an impatient second Ctrl-C has nothing more to stop
    if code == INTERRUPTED:
        _left.append(code)
    print(f"error: {' '.join(message.split())}", file=sys.stderr, flush=True)
    sys.exit(code)
