"""What a run is: frozen specifications with a content hash as identity.

The run id is the hash of everything that decides the weights (model, data, optimizer, batch, steps, seed).
What is measured is not part of it: each probe has an id of its own, so that a new probe on an old run
retrains bit-identically and adds its segment.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter

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
