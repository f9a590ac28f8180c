"""What is measured along a run: each probe is a frozen specification with an id of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, field_validator, model_validator

from alidade.core.errors import CallError, brief
from alidade.core.schedule import Every, Schedule
from alidade.core.spec import RunSpec, Spec


class _Probe(Spec):
    """One kind of measurement and its schedule."""

    kind: Any

    @property
    def probe_id(self) -> str:
        """Name of the probe's segment in the run's folder."""
        return f"{self.kind}-{self.digest()}"


class LineProfileProbe(_Probe):
    """A line profile on the batch that the next step is taken on, from where that step starts.

    ``step_sizes`` along the gradient are in units of the learning rate's own scale, along the optimizer's update
    1 is the step really taken; in relative coordinates they are root-mean-square relative changes of a filter.
    """

    kind: Literal["line_profile"] = "line_profile"
    direction: Literal["gradient", "update", "random"] = "gradient"
    coordinates: Literal["raw", "relative"] = "raw"
    step_sizes: tuple[float, ...] = Field(min_length=1)
    schedule: Schedule = Every(interval=10)

    @field_validator("step_sizes")
    @classmethod
    def _distinct(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if len(set(value)) != len(value):
            raise ValueError(f"step sizes must differ, got {value}")
        return value

    @property
    def probe_id(self) -> str:
        """Name of the probe's segment in the run's folder."""
        along = "" if self.direction == "gradient" else f"{self.direction}_"
        return f"{self.kind}_{along}{self.coordinates}-{self.digest()}"


class RescalingProbe(_Probe):
    """Line profiles, raw and relative, of the same function with the weights before each norm times a factor.

    A norm makes the network's outputs, and so its loss, independent of these factors: whatever changes with them
    is a matter of units (Dinh et al. 2017; van Laarhoven 2017).
    """

    kind: Literal["rescaling"] = "rescaling"
    factors: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0, 4.0)
    step_sizes: tuple[float, ...] = Field(min_length=1)
    relative_step_sizes: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3)
    schedule: Schedule = Every(interval=10)

    @field_validator("factors")
    @classmethod
    def _positive(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not value or min(value) <= 0 or len(set(value)) != len(value):
            raise ValueError(f"factors must be positive and differ, got {value}")
        return value


class EvaluationProbe(_Probe):
    """Loss and accuracy in eval mode on the first ``examples`` of the test set (None: on all of it)."""

    kind: Literal["evaluation"] = "evaluation"
    examples: int | None = Field(default=None, ge=1)
    schedule: Schedule = Every(interval=50)


class LayerScalarsProbe(_Probe):
    """Norms of weights and gradients, update-to-weight ratio, effective learning rate, per layer."""

    kind: Literal["layer_scalars"] = "layer_scalars"
    schedule: Schedule = Every(interval=10)


class ActivationsProbe(_Probe):
    """Moments, quantiles and histograms of activations per layer (None: every layer with parameters)."""

    kind: Literal["activations"] = "activations"
    layers: tuple[str, ...] | None = None
    schedule: Schedule = Every(interval=10)


class CovariateShiftProbe(_Probe):
    """Internal covariate shift across the optimizer's real step (Santurkar et al. 2018, Definition 2.1).

    ``groups`` takes several modules as one layer, under a name; ``layers`` single ones; None is every layer.
    """

    kind: Literal["covariate_shift"] = "covariate_shift"
    layers: tuple[str, ...] | None = None
    groups: dict[str, tuple[str, ...]] | None = None

    @model_validator(mode="after")
    def _one_of_the_two(self) -> CovariateShiftProbe:
        if self.layers is not None and self.groups is not None:
            raise ValueError("expected layers or groups, got both")
        return self

    schedule: Schedule = Every(interval=10)


class TheoremProbe(_Probe):
    """The terms of Theorem 4.1 for BatchNorm layers (None: every one with batch statistics)."""

    kind: Literal["theorem_4_1"] = "theorem_4_1"
    layers: tuple[str, ...] | None = None
    schedule: Schedule = Every(interval=10)


#: What a curvature probe can look at; the last two need the optimizer's own step, so a Survey.
Look = Literal[
    "eigenvalues", "batch_sharpness", "gradient_overlap", "trace", "density", "step_sharpness", "preconditioned"
]
ACROSS_THE_STEP = frozenset({"step_sharpness", "preconditioned"})


class CurvatureProbe(_Probe):
    """Second derivatives of the loss of the step's batch, tracked along the run.

    ``looks``: the ``k`` eigenvalues at the end of the spectrum that ``which`` names, started from the last
    eigenvectors; curvature along the gradient (batch sharpness) and along the optimizer's update (step sharpness); the
    gradient's share in the eigenvectors' span; trace; density of the spectrum; eigenvalues as the adaptive optimizer
    sees them. ``statistics``: "own" is as the step computes, "batch" and "running" switch the layers that keep running
    statistics; a mode that makes no difference to the network is measured once.
    """

    kind: Literal["curvature"] = "curvature"
    looks: tuple[Look, ...] = Field(default=("eigenvalues", "batch_sharpness"), min_length=1)
    statistics: tuple[Literal["own", "batch", "running"], ...] = Field(default=("own", "running"), min_length=1)
    matrix: Literal["hessian", "gauss_newton"] = "hessian"
    which: Literal["largest", "smallest", "magnitude"] = "largest"
    k: int = Field(default=1, ge=1)
    rtol: float = Field(default=1e-2, gt=0)
    max_matvecs: int = Field(default=200, ge=2)
    trace_rtol: float = Field(default=0.1, gt=0)
    density_vectors: int = Field(default=2, ge=2)
    density_steps: int = Field(default=40, ge=1)
    density_points: int = Field(default=256, ge=2)
    schedule: Schedule = Every(interval=10)

    @model_validator(mode="after")
    def _possible(self) -> CurvatureProbe:
        for name, values in (("looks", self.looks), ("statistics", self.statistics)):
            if len(set(values)) != len(values):
                raise ValueError(f"{name} must differ, got {values}")
        if "gradient_overlap" in self.looks and "eigenvalues" not in self.looks:
            raise ValueError("gradient_overlap needs eigenvalues among the looks")
        if self.max_matvecs < self.k:
            raise ValueError(f"max_matvecs must be at least k = {self.k}, got {self.max_matvecs}")
        return self

    @property
    def needs_the_step(self) -> bool:
        """Whether it can look only once the optimizer's step is known."""
        return not ACROSS_THE_STEP.isdisjoint(self.looks)


AnyProbe = (
    RescalingProbe
    | CurvatureProbe
    | TheoremProbe
    | LineProfileProbe
    | EvaluationProbe
    | LayerScalarsProbe
    | ActivationsProbe
    | CovariateShiftProbe
)
ProbeSpec = Annotated[AnyProbe, Field(discriminator="kind")]

#: Probes by name, with the options that suit a training loop of one's own.
_NAMED: dict[str, dict[str, Any]] = {
    "update_profile": {"kind": "line_profile", "direction": "update", "step_sizes": (0.1, 0.5, 1.0, 2.0)},
    "gradient_profile": {"kind": "line_profile", "step_sizes": (1e-3, 1e-2, 1e-1)},
    "relative_profile": {"kind": "line_profile", "coordinates": "relative", "step_sizes": (0.01, 0.03, 0.1, 0.3)},
    "layer_scalars": {"kind": "layer_scalars"},
    "activations": {"kind": "activations"},
    "covariate_shift": {"kind": "covariate_shift"},
    "theorem_4_1": {"kind": "theorem_4_1"},
    "curvature": {"kind": "curvature", "looks": ("eigenvalues", "batch_sharpness", "step_sharpness")},
}


def probe_named(probe: str | AnyProbe, schedule: Schedule) -> AnyProbe:
    """A probe by name, on ``schedule``; a specification is returned as it is.

    Raises:
        CallError: an unknown name; the message lists the known ones.
    """
    if isinstance(probe, _Probe):
        return probe
    if not isinstance(probe, str) or probe not in _NAMED:
        raise CallError(f"probes: expected one of {', '.join(_NAMED)} or a probe specification, got {brief(probe)}")
    return TypeAdapter[AnyProbe](ProbeSpec).validate_python(_NAMED[probe] | {"schedule": schedule})


def probes_named(probes: Any, schedule: Schedule) -> list[AnyProbe]:
    """Probes by name or as they are: a list of them, or a single one.

    Raises:
        CallError: something else, or an unknown name.
    """
    one = isinstance(probes, str | _Probe)
    if not one and not (isinstance(probes, Iterable) and not isinstance(probes, bytes | Mapping)):
        raise CallError(f"probes: expected a list of names or probe specifications, got {brief(probes)}")
    return [probe_named(probe, schedule) for probe in ([probes] if one else probes)]


class PlannedRun(Spec):
    """A run and the probes that are wanted along it."""

    spec: RunSpec
    probes: tuple[ProbeSpec, ...] = ()
