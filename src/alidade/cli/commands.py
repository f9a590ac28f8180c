"""The commands."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from alidade.cli.options import (
    AsJson,
    Data,
    Device,
    ExecutorName,
    Folder,
    Format,
    Gpus,
    Init,
    Out,
    RayAddress,
    Scale,
    Seeds,
    finite,
    out_option,
)
from alidade.cli.study import check_statements, keep_theory, opened, run_study, write_figures, write_report
from alidade.cli.tables import print_theory, print_verdicts

#: Networks on which the demo checks each statement of the paper: every false one shows.
DEMO_NETWORKS = 200

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


@app.command()
def demo(out: Out = Path("runs/demo"), seeds: Seeds = 5) -> None:
    """The paper in miniature, on data that comes with the program; ends with DIR/report.html."""
    from alidade.experiments import DEMO
    from alidade.experiments.experiment import Settings

    run_study(DEMO, Settings(data="digits", seeds=seeds), out, networks=DEMO_NETWORKS)


@app.command()
def reproduce(
    name: Annotated[str, typer.Argument(metavar="NAME", help="An experiment, or all.")],
    scale: Annotated[Scale, typer.Option(help="quick takes minutes; paper is the paper's own setting.")] = Scale.quick,
    seeds: Seeds = 5,
    data: Annotated[Data | None, typer.Option(help="Default: digits at quick scale, cifar10 at paper scale.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="CIFAR-10 in its binary layout; downloaded without it.")] = None,
    init: Annotated[Init | None, typer.Option(help="Default: he at quick scale, glorot at paper scale.")] = None,
    l2: Annotated[
        float, typer.Option("--l2", min=0.0, callback=finite, help="Adds (L2 / 2) ||theta||^2 to the loss.")
    ] = 0.0,
    device: Annotated[Device, typer.Option(help="auto takes a GPU where there is one.")] = Device.auto,
    executor: Annotated[
        ExecutorName, typer.Option(help="local: processes of this machine; ray: a Ray cluster.")
    ] = ExecutorName.local,
    ray_address: RayAddress = None,
    gpus_per_run: Gpus = None,
    max_minutes: Annotated[
        float | None, typer.Option(min=0.0, callback=finite, help="Stop then; the same command goes on there.")
    ] = None,
    checkpoint_seconds: Annotated[
        float | None,
        typer.Option(
            min=0.0, callback=finite, help="Between two; default: 10, or more so that they cost 1 % of the time."
        ),
    ] = None,
    out: Annotated[Path | None, out_option("Default: runs/NAME.")] = None,
) -> None:
    """Repeat an experiment of the paper and judge its claims; ends with DIR/report.html."""
    from alidade.experiments import experiments_named
    from alidade.experiments.experiment import Settings
    from alidade.sweeps.executor import Execution

    experiments = experiments_named(name)
    learned = data or (Data.digits if scale is Scale.quick else Data.cifar10)
    settings = Settings(scale=scale.value, data=learned.value, seeds=seeds, init=init.value if init else None, l2=l2)
    networks = DEMO_NETWORKS if name in ("all", "theorems") else 0
    where, execution = out or Path("runs") / name, Execution(executor.value, ray_address, gpus_per_run)
    run_study(
        experiments, settings, where, data_dir, device.value, max_minutes, networks, checkpoint_seconds, execution
    )  # fmt: skip


@app.command()
def theory(
    instances: Annotated[int, typer.Option("--instances", min=1, help="Networks per statement.")] = 2000,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of all random numbers.")] = 0,
    as_json: AsJson = False,
    out: Annotated[Path | None, out_option("A study's folder: adds the table to its report.")] = None,
) -> None:
    """Check every statement of the paper, as printed and corrected, on random and adversarial networks."""
    rows = check_statements(instances, seed)
    if out is not None:
        keep_theory(out, rows, instances, seed)
    shown = [{name: value for name, value in row.items() if name != "quantiles"} for row in rows]
    if as_json:
        print(json.dumps(shown, indent=1))
    else:
        print_theory(shown)
    if out is not None:
        print(f"report: {write_report(out, out / 'report.html')}")


@app.command()
def claims(folder: Folder, as_json: AsJson = False) -> None:
    """The verdict on each claim, with its interval."""
    from alidade.experiments import judge_study

    verdicts = judge_study(opened(folder))
    if as_json:
        print(json.dumps([verdict.to_json() for verdict in verdicts], indent=1))
    else:
        print_verdicts(verdicts)


@app.command()
def report(
    folder: Folder,
    out: Annotated[Path | None, out_option("Default: DIR/report.html.")] = None,
    figures: Annotated[
        Path | None, typer.Option("--figures", help="Also every figure as SVG and every table, into this folder.")
    ] = None,
) -> None:
    """Write the page: one HTML file that needs no network."""
    print(write_report(folder, out or folder / "report.html"))
    if figures is not None:
        for path in write_figures(folder, figures):
            print(path)


@app.command()
def export(
    folder: Folder,
    to: Annotated[Format, typer.Option("--to", help="Format of the table.")],
    out: Annotated[Path | None, out_option("Default: stdout (csv), DIR/export.parquet.")] = None,
) -> None:
    """All measurements as one tidy table."""
    from alidade import store

    frame = opened(folder, as_recorded=True).table
    if to is Format.csv and out is None:
        sys.stdout.write(frame.write_csv())
        return
    target = out or folder / "export.parquet"
    store.export(frame, to.value, target)
    print(target)
