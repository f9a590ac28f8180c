"""What a run is and what is measured along it: frozen specifications with a content hash as identity.

The run id is the hash of everything that decides the weights (model, data, optimizer, batch, steps, seed).
What is measured is not part of it: each probe has an id of its own, so that a new probe on an old run
retrains bit-identically and adds its segment.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, field_validator

from alidade.core.errors import CallError
from alidade.core.schedule import Every, Schedule

NormName = Literal["none", "batch", "noisy"]
InitName = Literal["he", "glorot"]
DataName = Literal["digits", "cifar10"]


class Spec(BaseModel):
    """A frozen value with canonical JSON; equal values have equal digests on every machine."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def canonical_json(self) -> str:
        """JSON with sorted keys and no white space: the text that is hashed."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))

    def digest(self) -> str:
        """The first 12 hex digits of the SHA-256 of ``canonical_json()``."""
        return hashlib.sha256(self.canonical_json().encode()).hexdigest()[:12]


class ModelSpec(Spec):
    """A VGG-like convolutional network: convolutions 3x3, ReLU, max pooling, one linear head."""

    conv_layers: Literal[8, 13] = 8
    width: float = Field(default=0.125, gt=0, le=4)  # factor on the channels 64 ... 512
    norm: NormName = "none"
    init: InitName = "he"


class DataSpec(Spec):
    """A data set and how much of it; ``fingerprint`` is the hash of the images and labels really used."""

    name: DataName = "digits"
    train_examples: int | None = Field(default=None, ge=1)  # None: all of them
    fingerprint: str | None = None


class OptimizerSpec(Spec):
    """Plain stochastic gradient descent at a fixed learning rate, as in the paper."""

    name: Literal["sgd"] = "sgd"
    learning_rate: float = Field(gt=0)


class RunSpec(Spec):
    """One training run: all that decides its weights."""

    model: ModelSpec
    data: DataSpec
    optimizer: OptimizerSpec
    batch_size: int = Field(ge=2)
    steps: int = Field(ge=1)
    seed: int = Field(ge=0)
    l2: float = Field(default=0.0, ge=0)  # adds (l2 / 2) * sum of squared parameters to the loss

    @property
    def run_id(self) -> str:
        """Content hash: the name of the run's folder."""
        return self.digest()

    @property
    def label(self) -> str:
        """Short name for a person: what differs within a study."""
        return f"{self.model.norm} lr {self.optimizer.learning_rate:g} seed {self.seed}"


class SurveySpec(Spec):
    """A training run of the user's own, as far as a survey can see it."""

    kind: Literal["survey"] = "survey"
    name: str
    model: str  # class of the network
    parameters: int  # trainable ones
    optimizer: str
    optimizer_defaults: dict[str, JsonValue] = {}
    config: dict[str, JsonValue] = {}

    @property
    def run_id(self) -> str:
        """Content hash: the name of the run's folder."""
        return self.digest()

    @property
    def seed(self) -> int | None:
        """What the user's config calls "seed"; None where it has none."""
        seed = self.config.get("seed")
        return seed if isinstance(seed, int) else None

    @property
    def label(self) -> str:
        """Short name for a person."""
        return self.name


AnyRunSpec = RunSpec | SurveySpec


def parse_run_spec(text: bytes) -> AnyRunSpec:
    """A run's specification from its JSON.

    Raises:
        ValueError: it is not one.
    """
    return TypeAdapter[AnyRunSpec](AnyRunSpec).validate_json(text)


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
    """Internal covariate shift across the optimizer's real step (Santurkar et al. 2018, Definition 2.1)."""

    kind: Literal["covariate_shift"] = "covariate_shift"
    layers: tuple[str, ...] | None = None
    schedule: Schedule = Every(interval=10)


class TheoremProbe(_Probe):
    """The terms of Theorem 4.1 for BatchNorm layers (None: every one with batch statistics)."""

    kind: Literal["theorem_4_1"] = "theorem_4_1"
    layers: tuple[str, ...] | None = None
    schedule: Schedule = Every(interval=10)


AnyProbe = (
    TheoremProbe | LineProfileProbe | EvaluationProbe | LayerScalarsProbe | ActivationsProbe | CovariateShiftProbe
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
}


def probe_named(probe: str | AnyProbe, schedule: Schedule) -> AnyProbe:
    """A probe by name, on ``schedule``; a specification is returned as it is.

    Raises:
        CallError: an unknown name; the message lists the known ones.
    """
    if not isinstance(probe, str):
        return probe
    if probe not in _NAMED:
        raise CallError(f"probes: expected one of {', '.join(_NAMED)} or a probe specification, got {probe!r}")
    return TypeAdapter[AnyProbe](ProbeSpec).validate_python(_NAMED[probe] | {"schedule": schedule})


class PlannedRun(Spec):
    """A run and the probes that are wanted along it."""

    spec: RunSpec
    probes: tuple[ProbeSpec, ...] = ()
