"""What a run is and what is measured along it: frozen specifications with a content hash as identity.

The run id is the hash of everything that decides the weights (model, data, optimizer, batch, steps, seed).
What is measured is not part of it: each probe has an id of its own, so that a new probe on an old run
retrains bit-identically and adds its segment.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from alidade.core.schedule import Every, Schedule

NormName = Literal["none", "batch", "noisy"]
InitName = Literal["he", "glorot"]
DataName = Literal["digits", "cifar10"]


class Spec(BaseModel):
    """A frozen value with canonical JSON; equal values have equal digests on every machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

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


class LineProfileProbe(Spec):
    """A line profile along the gradient of the batch that the next step is taken on.

    ``step_sizes`` are along that gradient (raw coordinates: in units of the learning rate's own scale;
    relative coordinates: root-mean-square relative change of a filter).
    """

    kind: Literal["line_profile"] = "line_profile"
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
        return f"{self.kind}_{self.coordinates}-{self.digest()}"


class EvaluationProbe(Spec):
    """Loss and accuracy in eval mode on the first ``examples`` of the test set (None: on all of it)."""

    kind: Literal["evaluation"] = "evaluation"
    examples: int | None = Field(default=None, ge=1)
    schedule: Schedule = Every(interval=50)

    @property
    def probe_id(self) -> str:
        """Name of the probe's segment in the run's folder."""
        return f"{self.kind}-{self.digest()}"


AnyProbe = LineProfileProbe | EvaluationProbe
ProbeSpec = Annotated[AnyProbe, Field(discriminator="kind")]


class PlannedRun(Spec):
    """A run and the probes that are wanted along it."""

    spec: RunSpec
    probes: tuple[ProbeSpec, ...] = ()
