"""What a run is: frozen specifications with a content hash as identity.

The run id is the hash of everything that decides the weights (model, data, optimizer, batch, steps, seed).
What is measured is not part of it: each probe has an id of its own, so that a new probe on an old run
retrains bit-identically and adds its segment.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Literal

from pydantic import Field, JsonValue, TypeAdapter, model_validator

from alidade.core.value import Value

NormName = Literal["none", "batch", "noisy", "noise", "l1", "l2", "linf", "layer", "group", "rms"]
InitName = Literal["he", "glorot"]
ImagesName = Literal["digits", "cifar10"]
DataName = Literal["digits", "cifar10", "gaussian"]


class Spec(Value):
    """A frozen value with canonical JSON; equal values have equal digests on every machine."""

    def canonical_json(self) -> str:
        """JSON with sorted keys and no white space: the text that is hashed."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))

    def digest(self) -> str:
        """The first 12 hex digits of the SHA-256 of ``canonical_json()``."""
        return hashlib.sha256(self.canonical_json().encode()).hexdigest()[:12]


class ModelSpec(Spec):
    """A VGG-like convolutional network: convolutions 3x3, ReLU, max pooling, one linear head."""

    kind: Literal["vgg"] = "vgg"
    conv_layers: Literal[8, 10, 13, 16] = 8
    width: float = Field(default=0.125, gt=0, le=4)  # factor on the channels 64 ... 512
    norm: NormName = "none"
    init: InitName = "he"


class DeepLinearSpec(Spec):
    """Square linear layers without a non-linearity between them, an optional norm after each (paper, Appendix A)."""

    kind: Literal["deep_linear"] = "deep_linear"
    layers: int = Field(default=25, ge=1)
    width: int = Field(default=10, ge=1)
    norm: NormName = "none"
    init: Literal["glorot"] = "glorot"


AnyModelSpec = Annotated[ModelSpec | DeepLinearSpec, Field(discriminator="kind")]


class DataSpec(Spec):
    """A data set and how much of it.

    "gaussian" is the regression of the deep linear network, drawn from the run's own seed. ``fingerprint`` is the
    hash of the images and labels really used. ``augment`` shifts images by up to 4 pixels at random and, in
    photographs, mirrors half of them.
    """

    name: DataName = "digits"
    train_examples: int | None = Field(default=None, ge=1)  # None: all of them
    fingerprint: str | None = None
    augment: bool = False


class OptimizerSpec(Spec):
    """Plain stochastic gradient descent at a fixed learning rate, as in the paper."""

    name: Literal["sgd"] = "sgd"
    learning_rate: float = Field(gt=0)


class RunSpec(Spec):
    """One training run: all that decides its weights."""

    model: AnyModelSpec
    data: DataSpec
    optimizer: OptimizerSpec
    batch_size: int = Field(ge=2)
    steps: int = Field(ge=1)
    seed: int = Field(ge=0)
    l2: float = Field(default=0.0, ge=0)  # adds (l2 / 2) * sum of squared parameters to the loss
    dtype: Literal["float32", "float64"] = "float32"

    @model_validator(mode="after")
    def _regression_is_for_the_linear_network(self) -> RunSpec:
        if (self.model.kind == "deep_linear") != (self.data.name == "gaussian"):
            raise ValueError(f"a {self.model.kind} network cannot learn {self.data.name}")
        return self

    @property
    def run_id(self) -> str:
        """Content hash: the name of the run's folder."""
        return self.digest()

    @property
    def label(self) -> str:
        """Short name for a person: what differs within a study."""
        network = "" if self.model.kind == "vgg" else "deep linear "
        augmented = " augmented" if self.data.augment else ""
        return f"{network}{self.model.norm} lr {self.optimizer.learning_rate:g}{augmented} seed {self.seed}"


class SurveySpec(Spec):
    """A training run of the user's own, as far as a survey can see it."""

    kind: Literal["survey"] = "survey"
    name: str
    model: str  # class of the network
    parameters: int  # trainable ones
    optimizer: str
    optimizer_defaults: dict[str, JsonValue] = Field(default_factory=dict)
    config: dict[str, JsonValue] = Field(default_factory=dict)

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
_ANY = TypeAdapter[AnyRunSpec](AnyRunSpec)


def parse_run_spec(text: bytes) -> AnyRunSpec:
    """A run's specification from its JSON.

    Raises:
        ValueError: it is not one.
    """
    return _ANY.validate_json(text)
