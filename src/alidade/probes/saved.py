"""The state of a survey: plain tensors, numbers and text, as ``torch.load(weights_only=True)`` wants them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alidade.core.activations import ActivationStatistics, LayerActivations
from alidade.core.errors import CallError, brief
from alidade.core.records import Provenance
from alidade.core.sketch import Histogram, Moments

#: Raised where an earlier version could not read a state.
STATE_FORMAT = 1


def check_state(state: Any, run: str) -> None:
    """Refuse what is no survey's state, or that of another run.

    Raises:
        CallError: it says what came.
    """
    expected = "state: expected what Survey.state_dict() returned"
    version = state.get("format") if isinstance(state, Mapping) else None
    if isinstance(version, int) and version > STATE_FORMAT:
        raise CallError(f"state: expected format {STATE_FORMAT}, got {version} of a newer version; update alidade")
    if version != STATE_FORMAT:
        raise CallError(f"{expected}, got {brief(state)}")
    if state.get("run") != run:
        raise CallError(
            f"state: expected that of run {run}, got that of {state.get('run')}; "
            "give the survey the same name, config, model and optimizer as before"
        )
    step = state.get("step")
    if not isinstance(step, int) or step < 0:
        raise CallError(f"{expected}, with the number of steps taken, got step {brief(step)}")


def plain_statistics(statistics: ActivationStatistics) -> dict[str, Any]:
    """A dictionary that ``statistics_of`` turns back into the same statistics.

    >>> layer = LayerActivations(Moments.of([[1.0, 3.0]]), Histogram.of([1.0, 3.0]), unit_axis=1)
    >>> there = plain_statistics(ActivationStatistics({"0": layer}, Provenance("none", "float32", 2)))
    >>> there["layers"]["0"]["units"]["mean"], statistics_of(there)["0"].units.mean
    (tensor([2.], dtype=torch.float64), array([2.]))
    """
    layers = {
        name: {
            "units": _plain(layer.units),
            "histogram": _plain(layer.histogram),
            "unit_axis": layer.unit_axis,
            "calls": layer.calls,
        }
        for name, layer in statistics.by_layer.items()
    }
    return {"layers": layers, "provenance": asdict(statistics.provenance)}


def statistics_of(plain: Mapping[str, Any]) -> ActivationStatistics:
    """What ``plain_statistics`` was given."""
    layers = {
        name: LayerActivations(
            Moments(**_arrays(layer["units"])),
            Histogram(**_arrays(layer["histogram"])),
            layer["unit_axis"],
            layer["calls"],
        )
        for name, layer in plain["layers"].items()
    }
    return ActivationStatistics(layers, Provenance(**plain["provenance"]))


def _plain(value: Moments | Histogram) -> dict[str, Any]:
    there = {field.name: getattr(value, field.name) for field in fields(value)}
    return {name: torch.from_numpy(v.copy()) if isinstance(v, np.ndarray) else v for name, v in there.items()}


def _arrays(there: Mapping[str, Any]) -> dict[str, Any]:
    return {name: v.numpy(force=True).copy() if isinstance(v, Tensor) else v for name, v in there.items()}
