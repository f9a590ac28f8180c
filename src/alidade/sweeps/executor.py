"""Where a study's runs are executed: on this machine, or on a Ray cluster."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal, Protocol

from alidade.core.errors import CallError

if TYPE_CHECKING:
    from alidade.core.probes import PlannedRun
    from alidade.sweeps.local import Listener
    from alidade.sweeps.worker import Job


class Executor(Protocol):
    """Trains planned runs, wherever that is; the numbers are the same."""

    def device(self, wanted: str) -> str:
        """What "auto", "cpu" or "cuda" comes to here."""

    def execute(
        self, runs: Sequence[PlannedRun], job: Job, listener: Listener, max_seconds: float | None = None
    ) -> None:
        """Train all runs."""


@dataclass(frozen=True)
class Execution:
    """Which executor a caller asks for."""

    name: Literal["local", "ray"] = "local"
    address: str | None = None  # of a Ray cluster
    gpus_per_run: float | None = None  # None: by the size of the network


class Local:
    """Processes side by side on this machine."""

    def device(self, wanted: str) -> str:
        """What "auto", "cpu" or "cuda" comes to on this machine.

        Raises:
            CallError: "cuda" where there is none.
        """
        import torch

        if wanted == "cuda" and not torch.cuda.is_available():
            raise CallError("--device: expected a CUDA device for 'cuda', found none; use cpu or auto")
        return "cuda" if wanted == "auto" and torch.cuda.is_available() else wanted.replace("auto", "cpu")

    def execute(
        self, runs: Sequence[PlannedRun], job: Job, listener: Listener, max_seconds: float | None = None
    ) -> None:
        """Train all runs (see sweeps.local)."""
        from alidade.sweeps import local

        local.execute(runs, job, listener, max_seconds)


@contextmanager
def executor_for(execution: Execution) -> Iterator[Executor]:
    """The executor that is asked for, ready; it is closed again afterwards.

    Raises:
        CallError: Ray is not installed, or an option of Ray's comes without it or is impossible.
        WorkError: the Ray cluster cannot be reached.
    """
    if execution.name == "local":
        _require_no_options(execution)
        yield Local()
        return
    _require_share(execution.gpus_per_run)
    if find_spec("ray") is None:
        raise CallError(
            "--executor ray: expected the package ray, found none; install it with: pip install 'alidade[ray]'"
        )
    from alidade.sweeps.ray_address import found

    address = found(execution.address)  # before torch and Ray are loaded: a wrong address is told at once
    from alidade.sweeps.ray import connected

    with connected(address, execution.gpus_per_run) as cluster:
        yield cluster


def _require_no_options(execution: Execution) -> None:
    for option, value in (("--ray-address", execution.address), ("--gpus-per-run", execution.gpus_per_run)):
        if value is not None:
            raise CallError(f"{option}: expected it with --executor ray only, got {value}; add that or leave this out")


def _require_share(gpus: float | None) -> None:
    if gpus is not None and (gpus <= 0 or (gpus > 1 and not gpus.is_integer())):
        raise CallError(
            f"--gpus-per-run: expected a share of a GPU between 0 and 1, or a whole number of them, got {gpus:g}"
        )
