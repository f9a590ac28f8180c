"""What a run needs of the node that trains it: a CPU, a share of a GPU, the same software."""

from __future__ import annotations

from importlib.metadata import version

import torch

from alidade.core.errors import WorkError
from alidade.core.spec import DeepLinearSpec, RunSpec

#: Share of a GPU for a network that leaves most of it idle, and up to which width a VGG is one.
SMALL_SHARE, SMALL_WIDTH = 0.25, 0.25


def resources(spec: RunSpec, device: str, gpus_per_run: float | None = None) -> dict[str, float]:
    """What Ray is to reserve for a run: one CPU, and on GPUs a share by the size of the network.

    >>> from alidade.core.spec import DataSpec, ModelSpec, OptimizerSpec
    >>> run = RunSpec(model=ModelSpec(width=1), data=DataSpec(), optimizer=OptimizerSpec(learning_rate=1), batch_size=2,
    ...               steps=1, seed=0)
    >>> resources(run, "cpu"), resources(run, "cuda"), resources(run, "cuda", gpus_per_run=0.1)
    ({'num_cpus': 1}, {'num_cpus': 1, 'num_gpus': 1}, {'num_cpus': 1, 'num_gpus': 0.1})
    """
    if not device.startswith("cuda"):
        return {"num_cpus": 1}
    small = isinstance(spec.model, DeepLinearSpec) or spec.model.width <= SMALL_WIDTH
    return {"num_cpus": 1, "num_gpus": gpus_per_run or (SMALL_SHARE if small else 1)}


def versions() -> dict[str, str]:
    """What decides the numbers; that Python and Ray agree is seen to by Ray."""
    return {"alidade": version("alidade"), "torch": str(torch.__version__)}


def require_same_versions(expected: dict[str, str]) -> None:
    """Refuse to train on a node whose numbers could be others.

    Raises:
        WorkError: other software is installed here.
    """
    if (here := versions()) != expected:
        raise WorkError(f"expected a node with {expected}, as where the command runs, got {here}; install the same")
