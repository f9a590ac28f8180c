"""On what a run was measured: versions, machine, device."""

from __future__ import annotations

import math
import os
import platform
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from alidade.core.errors import CallError, brief
from alidade.core.spec import SurveySpec
from alidade.landscape.isolation import unwrap
from alidade.landscape.parallelism import spread_of
from alidade.landscape.shards import sharded_modules

_PACKAGES = ("alidade", "torch", "numpy", "polars", "scikit-learn")


def environment(device: str) -> dict[str, Any]:
    """Versions, machine and device, as a JSON-ready dictionary without host names or paths."""
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu",
        **{package: version(package) for package in _PACKAGES},
    }


def describe_processes(model: nn.Module) -> dict[str, Any]:
    """How a training is spread over processes, and over what its batch statistics are taken; nothing for one."""
    spread = spread_of(model)
    if spread.ranks.size == 1:
        return {}
    norms = [m for m in unwrap(model).modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    kinds = {"all processes" if isinstance(norm, nn.SyncBatchNorm) else "each process" for norm in norms}
    return {
        "processes": spread.ranks.size,
        "parallelism": spread.name,
        "batch_statistics": "mixed" if len(kinds) == 2 else kinds.pop() if kinds else "none",
    }


def describe_training(model: nn.Module, optimizer: torch.optim.Optimizer, config: Any, name: str) -> SurveySpec:
    """A training of the user's own as far as it can be seen.

    Raises:
        CallError: a config that JSON cannot hold.
    """
    plain = unwrap(model)
    defaults: dict[str, Any] = {k: v for k, v in optimizer.defaults.items() if _is_plain(v)}
    if config is not None and not isinstance(config, Mapping):
        raise CallError(f"config: expected a dict of what JSON can hold, got {brief(config)}")
    try:
        return SurveySpec(
            name=name,
            model=_class_of(plain).__name__,
            parameters=sum(p.numel() for p in plain.parameters() if p.requires_grad),
            optimizer=type(optimizer).__name__,
            optimizer_defaults=defaults,
            config=dict(config or {}),
        )
    except (TypeError, ValueError) as error:
        raise CallError(f"config: expected a dict of what JSON can hold, got {brief(config)}") from error


def _class_of(model: nn.Module) -> type:
    """Its own class, before which ``fully_shard`` puts another one."""
    return type(model).__bases__[-1] if model in sharded_modules(model) else type(model)


def _is_plain(value: Any) -> bool:
    return isinstance(value, int | str) or (isinstance(value, float) and math.isfinite(value))


def usable_cores() -> int:
    """How many processes can compute at once: fewer than the machine has where affinity or a container says so."""
    allowed = os.cpu_count() or 1
    if sys.platform == "linux":
        allowed = len(os.sched_getaffinity(0))
    return max(1, min(allowed, _container_cores(Path("/sys/fs/cgroup"))))


def _container_cores(cgroup: Path) -> int:
    """The processor time that a container may use, in whole cores; a very large number without a limit."""
    for files in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):  # versions 2 and 1
        try:
            quota, period = " ".join((cgroup / file).read_text() for file in files).split()
            return math.ceil(int(quota) / int(period)) if int(quota) > 0 else sys.maxsize
        except (OSError, ValueError, ZeroDivisionError):
            continue  # the other version, or "max"
    return sys.maxsize


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
