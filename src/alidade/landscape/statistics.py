"""Which statistics the normalization layers use: those of the batch, or the running ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor, nn

from alidade.core.errors import CallError, brief
from alidade.core.records import Statistics

MODES = (None, "batch", "running")


def _normalizers(model: nn.Module) -> Iterator[nn.Module]:
    """Layers that normalize with statistics over the batch: those with a running mean, or that could keep one.

    Instance normalization is one of them only where it keeps running statistics.
    """
    for module in model.modules():
        if module._buffers.get("running_mean") is not None or isinstance(module, nn.modules.batchnorm._BatchNorm):
            yield module


def _keeps_running(module: nn.Module) -> bool:
    return module._buffers.get("running_mean") is not None


def describe_statistics(model: nn.Module) -> Statistics:
    """What the normalization layers use as their modes stand: batch, running, mixed, or none where there are none."""
    uses = {"batch" if m.training or not _keeps_running(m) else "running" for m in _normalizers(model)}
    if not uses:
        return "none"
    if len(uses) == 2:
        return "mixed"
    return "batch" if "batch" in uses else "running"


def check_statistics(model: nn.Module, statistics: str | None, buffers: Mapping[str, Tensor] | None = None) -> None:
    """Refuse an unknown mode, and running statistics that no batch has ever moved.

    ``buffers``: those that the layers are going to have; None is the live ones.

    Raises:
        CallError: with the layer's name and what to do.
    """
    if not isinstance(statistics, str | None) or statistics not in MODES:
        raise CallError(f"statistics: expected None, 'batch' or 'running', got {brief(statistics)}")
    if statistics != "running":
        return
    for name, module in model.named_modules():
        tracked = (buffers or {}).get(f"{name}.num_batches_tracked", module._buffers.get("num_batches_tracked"))
        if _keeps_running(module) and tracked is not None and int(tracked) == 0:
            raise CallError(
                f"statistics='running': expected running statistics, but layer {name!r} has tracked no batch; "
                "train a step first or use statistics='batch'"
            )


def switch_statistics(model: nn.Module, statistics: str | None) -> None:
    """Set the mode of the layers that keep running statistics, and of no other (dropout keeps its own)."""
    if statistics is None:
        return
    for module in _normalizers(model):
        if _keeps_running(module):
            module.training = statistics == "batch"
