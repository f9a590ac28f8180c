"""Alidade: a sighting arm for the loss of a neural network.

Point it along the direction that the optimizer is about to move, and read how loss and gradient change on the
way, without disturbing the run by one bit. Names load on first use: ``import alidade`` alone imports neither
torch nor a plotting library.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alidade import errors as errors
    from alidade import nn as nn
    from alidade import theory as theory
    from alidade.landscape.objective import Objective as Objective
    from alidade.probes.activations import activation_statistics as activation_statistics
    from alidade.probes.covariate_shift import covariate_shift as covariate_shift
    from alidade.probes.layer_scalars import layer_scalars as layer_scalars
    from alidade.probes.line import line_profile as line_profile
    from alidade.report.plot import plot as plot
    from alidade.store import load as load
    from alidade.survey import Survey as Survey

#: Where each public name lives; None: it is a module of its own.
_HOMES = {
    "Objective": "alidade.landscape.objective",
    "activation_statistics": "alidade.probes.activations",
    "covariate_shift": "alidade.probes.covariate_shift",
    "layer_scalars": "alidade.probes.layer_scalars",
    "line_profile": "alidade.probes.line",
    "Survey": "alidade.survey",
    "load": "alidade.store",
    "plot": "alidade.report.plot",
    "errors": None,
    "nn": None,
    "theory": None,
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'alidade' has no attribute {name!r}; it has {', '.join(sorted(_HOMES))}")
    home = _HOMES[name]
    value = import_module(f"alidade.{name}") if home is None else getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
