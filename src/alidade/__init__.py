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
    from alidade.landscape.curvature.density import spectral_density as spectral_density
    from alidade.landscape.curvature.directional import batch_sharpness as batch_sharpness
    from alidade.landscape.curvature.directional import directional_curvature as directional_curvature
    from alidade.landscape.curvature.directional import gradient_overlap as gradient_overlap
    from alidade.landscape.curvature.directional import step_sharpness as step_sharpness
    from alidade.landscape.curvature.eigenvalues import top_eigenvalues as top_eigenvalues
    from alidade.landscape.curvature.operator import CurvatureOperator as CurvatureOperator
    from alidade.landscape.curvature.scaled import preconditioned_sharpness as preconditioned_sharpness
    from alidade.landscape.curvature.scaled import spherical_sharpness as spherical_sharpness
    from alidade.landscape.curvature.trace import hessian_trace as hessian_trace
    from alidade.landscape.loader import Batches as Batches
    from alidade.landscape.objective import Objective as Objective
    from alidade.probes.activations import activation_statistics as activation_statistics
    from alidade.probes.covariate_shift import covariate_shift as covariate_shift
    from alidade.probes.interpolation import interpolate as interpolate
    from alidade.probes.layer_scalars import layer_scalars as layer_scalars
    from alidade.probes.line import line_profile as line_profile
    from alidade.probes.surface import loss_surface as loss_surface
    from alidade.report.plot import plot as plot
    from alidade.store import load as load
    from alidade.survey import Survey as Survey

#: Where each public name lives; None: it is a module of its own.
_HOMES = {
    "Batches": "alidade.landscape.loader",
    "Objective": "alidade.landscape.objective",
    "CurvatureOperator": "alidade.landscape.curvature.operator",
    "batch_sharpness": "alidade.landscape.curvature.directional",
    "directional_curvature": "alidade.landscape.curvature.directional",
    "gradient_overlap": "alidade.landscape.curvature.directional",
    "hessian_trace": "alidade.landscape.curvature.trace",
    "preconditioned_sharpness": "alidade.landscape.curvature.scaled",
    "spectral_density": "alidade.landscape.curvature.density",
    "spherical_sharpness": "alidade.landscape.curvature.scaled",
    "step_sharpness": "alidade.landscape.curvature.directional",
    "top_eigenvalues": "alidade.landscape.curvature.eigenvalues",
    "activation_statistics": "alidade.probes.activations",
    "covariate_shift": "alidade.probes.covariate_shift",
    "interpolate": "alidade.probes.interpolation",
    "layer_scalars": "alidade.probes.layer_scalars",
    "line_profile": "alidade.probes.line",
    "loss_surface": "alidade.probes.surface",
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
