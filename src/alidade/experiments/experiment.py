"""An experiment is pure data: which runs, which probes along them, which claims they decide."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from alidade.claims.claim import Claim
from alidade.claims.quantities import RELATIVE_STEPS, paper_step_sizes
from alidade.core.probes import ActivationsProbe, AnyProbe, EvaluationProbe, LineProfileProbe, PlannedRun, TheoremProbe
from alidade.core.schedule import Every
from alidade.core.spec import DataName, DataSpec, InitName, ModelSpec, NormName, OptimizerSpec, RunSpec, Spec

Scale = Literal["quick", "paper"]

#: Seeds are numbered from here: those below were used in try-outs that chose settings, so they may not confirm.
FIRST_SEED = 100


class Settings(Spec):
    """What a user chooses; everything else is fixed by the scale."""

    scale: Scale = "quick"
    data: DataName = "cifar10"
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


PAPER = Size(13, 1.0, "glorot", 128, 15_000, 100, 1_000, None, None)
QUICK_CIFAR10 = Size(8, 0.125, "he", 64, 250, 5, 50, 2_000, 10_000)
QUICK_DIGITS = Size(8, 0.125, "he", 64, 120, 2, 20, None, None)


def size_of(settings: Settings) -> Size:
    """The sizes behind a scale: the paper's own, or a narrow network that shows the effect in seconds."""
    if settings.scale == "paper":
        return PAPER
    return QUICK_DIGITS if settings.data == "digits" else QUICK_CIFAR10


def run_spec(settings: Settings, norm: NormName, learning_rate: float, seed: int) -> RunSpec:
    """The training run of one norm, learning rate and seed."""
    size = size_of(settings)
    init = settings.init or size.init
    return RunSpec(
        model=ModelSpec(conv_layers=size.conv_layers, width=size.width, norm=norm, init=init),
        data=DataSpec(name=settings.data, train_examples=size.train_examples, fingerprint=settings.fingerprint),
        optimizer=OptimizerSpec(learning_rate=learning_rate),
        batch_size=size.batch_size,
        steps=size.steps,
        seed=seed,
        l2=settings.l2,
    )


def line_probes(settings: Settings, learning_rate: float) -> tuple[LineProfileProbe, ...]:
    """The paper's list and two step sizes far below it (raw), and the scale-free twin (relative)."""
    schedule = Every(interval=size_of(settings).probe_every)
    raw = (learning_rate / 100, learning_rate / 10, *paper_step_sizes(learning_rate))
    return (
        LineProfileProbe(step_sizes=raw, schedule=schedule),
        LineProfileProbe(coordinates="relative", step_sizes=RELATIVE_STEPS, schedule=schedule),
    )


def evaluation_probe(settings: Settings) -> EvaluationProbe:
    """Test loss and accuracy along training."""
    size = size_of(settings)
    return EvaluationProbe(examples=size.evaluation_examples, schedule=Every(interval=size.evaluate_every))


def theorem_probe(settings: Settings) -> TheoremProbe:
    """The terms of Theorem 4.1 in every BatchNorm layer, at a fifth of the line profiles' steps."""
    return TheoremProbe(schedule=Every(interval=5 * size_of(settings).probe_every))


def activations_probe(settings: Settings) -> ActivationsProbe:
    """Activations behind the norm (or where it would stand) of an early, a middle and the last layer.

    They are the paper's layers 2, 9 and 13 of 13 (Fig. 2), and 2, 5 and 8 of 8.
    """
    size = size_of(settings)
    numbers = (2, 9, 13) if size.conv_layers == 13 else (2, 5, 8)
    layers = tuple(f"features.norm{number}" for number in numbers)
    return ActivationsProbe(layers=layers, schedule=Every(interval=5 * size.probe_every))


def seeds_of(settings: Settings) -> range:
    """The seeds of a study."""
    return range(FIRST_SEED, FIRST_SEED + settings.seeds)


def planned(
    settings: Settings,
    norms: tuple[NormName, ...],
    learning_rate: float,
    with_lines: bool,
    with_activations: bool = False,
) -> list[PlannedRun]:
    """One run per seed and norm, seed by seed, so that an early stop leaves whole pairs."""

    def probes(norm: NormName) -> tuple[AnyProbe, ...]:
        lines: tuple[AnyProbe, ...] = line_probes(settings, learning_rate) if with_lines else ()
        theorem = (theorem_probe(settings),) if with_lines and norm == "batch" else ()
        activations = (activations_probe(settings),) if with_activations else ()
        return (evaluation_probe(settings), *lines, *theorem, *activations)

    return [
        PlannedRun(spec=run_spec(settings, norm, learning_rate, seed), probes=probes(norm))
        for seed in seeds_of(settings)
        for norm in norms
    ]


@dataclass(frozen=True)
class Experiment:
    """One figure of the paper: its runs and its claims."""

    name: str
    paper: str  # where in the paper
    question: str
    runs: Callable[[Settings], list[PlannedRun]]
    claims: tuple[Claim, ...]
