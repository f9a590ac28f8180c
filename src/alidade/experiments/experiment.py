"""An experiment is pure data: which runs, which probes along them, which claims they decide."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from alidade.claims.claim import Claim
from alidade.core.probes import AnyProbe, PlannedRun
from alidade.core.spec import (
    DataSpec,
    DeepLinearSpec,
    ImagesName,
    InitName,
    ModelSpec,
    NormName,
    OptimizerSpec,
    RunSpec,
    Spec,
)

Scale = Literal["quick", "paper"]

#: Seeds are numbered from here: those below were used in try-outs that chose settings, so they may not confirm.
FIRST_SEED = 100

#: The paper's default learning rates: VGG, and deep linear network.
LEARNING_RATE, LINEAR_LEARNING_RATE = 0.1, 1e-6


class Settings(Spec):
    """What a user chooses; everything else is fixed by the scale."""

    scale: Scale = "quick"
    data: ImagesName = "cifar10"
    fingerprint: str | None = None
    seeds: int = Field(default=5, ge=1)
    init: InitName | None = None  # None: He at quick scale, Glorot at paper scale
    l2: float = Field(default=0.0, ge=0)


@dataclass(frozen=True)
class Size:
    """How large the runs of a scale are."""

    conv_layers: Literal[8, 13]
    width: float
    init: InitName
    batch_size: int
    steps: int
    probe_every: int
    evaluate_every: int
    evaluation_examples: int | None
    train_examples: int | None


@dataclass(frozen=True)
class LinearSize:
    """How large the deep linear network's runs of a scale are: the network is the paper's at every scale."""

    steps: int
    probe_every: int


PAPER = Size(13, 1.0, "glorot", 128, 15_000, 100, 1_000, None, None)
QUICK_CIFAR10 = Size(8, 0.125, "he", 64, 250, 5, 50, 2_000, 10_000)
QUICK_DIGITS = Size(8, 0.125, "he", 64, 120, 2, 20, None, None)
LINEAR_PAPER = LinearSize(10_000, 50)
LINEAR_QUICK = LinearSize(1_000, 20)
LINEAR_EXAMPLES = 1_000


def size_of(settings: Settings) -> Size:
    """The sizes behind a scale: the paper's own, or a narrow network that shows the effect in seconds."""
    if settings.scale == "paper":
        return PAPER
    return QUICK_DIGITS if settings.data == "digits" else QUICK_CIFAR10


def linear_size_of(settings: Settings) -> LinearSize:
    """The sizes of the deep linear network's runs."""
    return LINEAR_PAPER if settings.scale == "paper" else LINEAR_QUICK


def seeds_of(settings: Settings) -> range:
    """The seeds of a study."""
    return range(FIRST_SEED, FIRST_SEED + settings.seeds)


@dataclass(frozen=True)
class Network:
    """One network of an experiment: all that its runs share but the seed."""

    norm: NormName
    learning_rate: float = LEARNING_RATE
    init: InitName | None = None  # None: the study's
    augment: bool = False

    def run(self, settings: Settings, seed: int) -> RunSpec:
        """The training run of one seed."""
        size = size_of(settings)
        return RunSpec(
            model=ModelSpec(
                conv_layers=size.conv_layers,
                width=size.width,
                norm=self.norm,
                init=self.init or settings.init or size.init,
            ),
            data=DataSpec(
                name=settings.data,
                train_examples=size.train_examples,
                fingerprint=settings.fingerprint,
                augment=self.augment,
            ),
            optimizer=OptimizerSpec(learning_rate=self.learning_rate),
            batch_size=size.batch_size,
            steps=size.steps,
            seed=seed,
            l2=settings.l2,
        )


@dataclass(frozen=True)
class LinearNetwork:
    """A deep linear network of an experiment: 25 layers of 10, the whole data set at every step, float64."""

    norm: NormName
    learning_rate: float = LINEAR_LEARNING_RATE

    def run(self, settings: Settings, seed: int) -> RunSpec:
        """The training run of one seed; a penalty belongs to the VGG networks of the paper only."""
        return RunSpec(
            model=DeepLinearSpec(norm=self.norm),
            data=DataSpec(name="gaussian", train_examples=LINEAR_EXAMPLES),
            optimizer=OptimizerSpec(learning_rate=self.learning_rate),
            batch_size=LINEAR_EXAMPLES,
            steps=linear_size_of(settings).steps,
            seed=seed,
            dtype="float64",
        )


AnyNetwork = Network | LinearNetwork
Probes = Callable[[Settings, AnyNetwork], Sequence[AnyProbe]]


def planned(settings: Settings, networks: Sequence[AnyNetwork], probes: Probes) -> list[PlannedRun]:
    """One run per seed and network, seed by seed, so that an early stop leaves whole pairs."""
    return [
        PlannedRun(spec=network.run(settings, seed), probes=tuple(probes(settings, network)))
        for seed in seeds_of(settings)
        for network in networks
    ]


@dataclass(frozen=True)
class Experiment:
    """One figure of the paper: its runs and its claims."""

    name: str
    paper: str  # where in the paper
    question: str
    runs: Callable[[Settings], list[PlannedRun]]
    claims: tuple[Claim, ...]
