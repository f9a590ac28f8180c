"""What the commands' options may be."""

from __future__ import annotations

import math
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from alidade.core.errors import CallError


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


class ExecutorName(StrEnum):
    """Where runs are executed."""

    local = "local"
    ray = "ray"


class Format(StrEnum):
    """Known table formats."""

    parquet = "parquet"
    csv = "csv"


def finite(value: float | None) -> float | None:
    """Refuse NaN and infinity, which no range check catches."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"expected a finite number, got {value}")
    return value


def located(where: str | Path) -> Path:
    """A path, or a URL of a file system that fsspec knows."""
    from alidade.store import place

    try:
        return place(where)
    except CallError as error:
        raise typer.BadParameter(str(error).removeprefix("out: ")) from error


def out_option(help: str) -> Any:
    """Where to write."""
    return typer.Option("--out", parser=located, metavar="PATH", help=help)


Out = Annotated[Path, out_option("Folder of the study: runs, and report.html.")]
RayAddress = Annotated[
    str | None, typer.Option("--ray-address", metavar="ADDRESS", help="host:port, ray://host:port, auto or local.")
]
Gpus = Annotated[
    float | None, typer.Option("--gpus-per-run", callback=finite, help="Ray: a share of a GPU; by size without it.")
]
Seeds = Annotated[int, typer.Option("--seeds", min=1, help="Seeds per network, numbered from 100.")]
Folder = Annotated[Path, typer.Argument(parser=located, metavar="DIR", help="Folder of a study, or its URL.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
