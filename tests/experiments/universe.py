"""Studies without training: every run that the experiments plan, with the rows that its probes would record.

A ``World`` says whether the effects that the paper reports are there (1), reversed (-1) or absent (0). What a seed
adds sums to zero over the seeds of a network, and differs from network to network: without an effect the mean of the
paired differences is 0, whichever claim is asked, while their spread is that of a noisy measurement.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from alidade.core.probes import (
    ActivationsProbe,
    CovariateShiftProbe,
    CurvatureProbe,
    EvaluationProbe,
    LineProfileProbe,
    PlannedRun,
    RescalingProbe,
    TheoremProbe,
)
from alidade.core.records import COLUMNS, OK
from alidade.core.spec import RunSpec
from alidade.experiments import EXPERIMENTS
from alidade.experiments.experiment import Settings
from alidade.store import SCHEMA, Study
from alidade.sweeps.plan import union

Floats = NDArray[np.float64]

SEED_NOISE, PROBE_NOISE = 0.1, 0.05  # standard deviations of logarithms
NORMS = ("none", "batch", "noisy", "noise", "l1", "l2", "linf")

# Logarithms in units of the effect, by norm; what is not named is at 0.
SLOW = {"none": 0.7}  # time constant of the loss of a VGG
ROUGH = {"none": 1.0}  # width of the loss band
FINAL = {"none": 2.0, "linf": 1.0, "l1": -1.5}  # last loss of a deep linear network
MOVES = {"none": 1.0, "noisy": 2.0}  # change of a unit's mean
VARIES = {"none": 1.0, "l1": 1.0, "l2": 1.0, "linf": 1.0}  # change of a unit's variance


@dataclass(frozen=True)
class World:
    """``effect``: 1, -1 or 0. ``plateau``: what holds the smoothness at 2 / learning rate, if anything does."""

    effect: int
    plateau: str  # "edge", "saturation" or "neither"


@dataclass
class Book:
    """Collects the rows of one run."""

    spec: RunSpec
    world: World
    parts: list[tuple[str, str | None, float | None, str, Floats, Floats]] = field(default_factory=list)

    def __post_init__(self) -> None:
        label = [*map(ord, self.spec.model_dump_json(include={"model", "optimizer", "data"}))]
        self.random = np.random.default_rng([self.spec.seed, *label])

    def add(
        self,
        steps: Floats,
        quantity: str,
        values: Floats | float,
        layer: str | None = None,
        size: float | None = None,
        statistics: str = "none",
    ) -> None:
        value = np.broadcast_to(np.asarray(values, dtype=float), steps.shape)
        self.parts.append((quantity, layer, size, statistics, steps, value))

    def level(self, table: Mapping[str, float], sign: float = 1.0) -> float:
        """exp of the norm's entry times the effect, and of what the seed adds."""
        return float(np.exp(sign * self.world.effect * table.get(self.spec.model.norm, 0.0) + self.of_seed()))

    def of_seed(self) -> float:
        return SEED_NOISE * _balanced(self.spec.model.norm, self.spec.seed)

    def noise(self, steps: Floats) -> Floats:
        return np.exp(PROBE_NOISE * self.random.standard_normal(steps.shape))

    def frame(self) -> pl.DataFrame:
        names, layers, sizes, modes, steps, values = zip(*self.parts, strict=True)
        lengths = [len(part) for part in steps]

        def repeated(items: Sequence[object], name: str) -> pl.Series:
            each = pl.Series(name, items, dtype=SCHEMA[name])
            return each.gather(np.repeat(np.arange(len(lengths)), lengths))

        columns = [
            repeated(names, "quantity"),
            repeated(layers, "layer"),
            repeated(sizes, "step_size"),
            repeated(modes, "statistics"),
        ]
        spec = self.spec
        constants = {
            "run": spec.run_id, "seed": spec.seed, "unit": "1", "dtype": spec.dtype, "status": OK,
        }  # fmt: skip
        frame = pl.DataFrame(columns).with_columns(
            pl.Series("step", np.concatenate(steps).astype(np.int64)),
            pl.Series("value", np.concatenate(values)),
            *(pl.lit(value, dtype=SCHEMA[name]).alias(name) for name, value in constants.items()),
        )
        return frame.select(COLUMNS)


def _balanced(norm: str, seed: int, seeds: int = 5) -> float:
    """Numbers of mean 0 and variance 1 over any five successive seeds, in another order for each norm."""
    order = list(permutations(range(seeds)))[17 * NORMS.index(norm)]
    numbers = np.linspace(-1, 1, seeds)
    return float(numbers[order[seed % seeds]] / numbers.std())


def study(world: World, settings: Settings, training_every: int = 1) -> Study:
    """A finished study of all experiments in that world."""
    planned = {name: experiment.runs(settings) for name, experiment in EXPERIMENTS.items()}
    runs = union(run for experiment in planned.values() for run in experiment)
    manifest = {"experiments": {name: [run.spec.run_id for run in part] for name, part in planned.items()}}
    frames = [measured(run, world, training_every) for run in runs]
    return Study(Path("synthetic"), pl.concat(frames), {run.spec.run_id: run.spec for run in runs}, manifest)


def measured(run: PlannedRun, world: World, training_every: int = 1) -> pl.DataFrame:
    """The tidy rows of one run."""
    book = Book(run.spec, world)
    _train(book, np.arange(0, run.spec.steps, training_every, dtype=float))
    for probe in run.probes:
        steps = np.array([step for step in range(run.spec.steps + 1) if probe.schedule.due(step)], dtype=float)
        MEASURES[type(probe)](book, probe, steps)
    return book.frame()


def _train(book: Book, steps: Floats) -> None:
    book.add(steps, "train_loss", _loss(book, steps))
    if book.spec.model.kind == "vgg":
        book.add(steps, "train_accuracy", _accuracy(book) + 0.01 * book.random.standard_normal(steps.shape))


def _loss(book: Book, steps: Floats) -> Floats:
    """It falls from a common start, more slowly far from the learning rate 0.1; a deep linear one without noise."""
    spec = book.spec
    if spec.model.kind == "deep_linear":
        final = 1e3 * book.level(FINAL)
        return final + 3e4 * np.exp(-5 * steps / spec.steps)
    if spec.model.init == "glorot" and spec.model.norm == "none" and spec.steps < 1000:  # it does not train
        return 2.3 * np.exp(0.01 * book.random.standard_normal(steps.shape))
    slow = book.level(SLOW) * (1 + abs(np.log(spec.optimizer.learning_rate / 0.1)))
    return (2.3 * np.exp(-4 * steps / (spec.steps * slow)) + 0.05) * book.noise(steps)


def _accuracy(book: Book) -> float:
    """Training accuracy, the same at every step."""
    effect, norm, noise = book.world.effect, book.spec.model.norm, 0.1 * book.of_seed()
    if book.spec.optimizer.learning_rate > 0.4:  # only one of the two trains
        return 0.5 + 0.3 * effect * (1 if norm == "batch" else -1) + noise
    if effect == 0:
        return 0.6 + noise
    noisy, without = (0.88, 0.12) if effect == 1 else (0.65, 0.58)
    return {"batch": 0.9, "noisy": noisy, "noise": without}.get(norm, 0.6) + noise


def _evaluation(book: Book, probe: EvaluationProbe, steps: Floats) -> None:
    ahead = 0.05 * book.world.effect * (1 if book.spec.model.norm == "batch" else -1)
    book.add(steps, "test_accuracy", 0.7 + ahead + 0.1 * book.of_seed())
    book.add(steps, "test_loss", 1.0 * book.noise(steps))


def _lines(book: Book, probe: LineProfileProbe, steps: Floats) -> None:
    prefix = "random_" if probe.direction == "random" else ""
    prefix += "relative_" if probe.coordinates == "relative" else ""
    _profile(book, steps, prefix, probe.step_sizes)


def _profile(book: Book, steps: Floats, prefix: str, sizes: Sequence[float]) -> None:
    """Losses rise over the list; smoothness is 2 / learning rate up to that rate, and depends on the norm beyond."""
    untrained = book.spec.model.kind == "vgg" and book.spec.model.init == "glorot" and book.spec.steps < 1000
    rough, rate = book.level(ROUGH, -1 if untrained else 1), book.spec.optimizer.learning_rate
    unit, base = (0.1 if "relative" in prefix else rate), _loss(book, steps)
    book.add(steps, f"{prefix}loss", base, size=0.0)
    book.add(steps, f"{prefix}gradient_norm", 1.0, size=0.0)
    for size in sizes:
        width = rough * size / max(sizes)
        smooth, aligned = _smoothness(book.world.plateau, size, unit)
        smooth = smooth * (np.exp(5) * rough if size > 0.99 * unit else 1.0) * book.noise(steps)
        book.add(steps, f"{prefix}loss", base + width * book.noise(steps), size=size)
        book.add(steps, f"{prefix}gradient_distance", smooth * size, size=size)
        book.add(steps, f"{prefix}effective_smoothness", smooth, size=size)
        jitter = 1 + 0.01 * book.random.standard_normal(steps.shape)
        book.add(steps, f"{prefix}directional_curvature", aligned * jitter, size=size)


def _smoothness(plateau: str, size: float, unit: float) -> tuple[float, float]:
    """Effective smoothness and directional curvature at a step up to the learning rate ``unit``."""
    if plateau == "saturation":  # the gradient is gone after any step: its distance is its norm
        return 1 / size, 1 / size
    level = 2 / unit if plateau == "edge" else 0.5 / unit
    return level, level


def _activations(book: Book, probe: ActivationsProbe, steps: Floats) -> None:
    for layer in probe.layers or ():
        book.add(steps, "activation_variance", 2.0 * book.noise(steps), layer)
        later = steps[1:]
        book.add(later, "activation_mean_change", 0.1 * book.level(MOVES) * book.noise(later), layer)
        book.add(later, "activation_variance_change", 0.1 * book.level(VARIES) * book.noise(later), layer)


def _shift(book: Book, probe: CovariateShiftProbe, steps: Floats) -> None:
    """The first layer has none before it: 0 and 1 by definition."""
    steps, effect, batch = steps[steps < book.spec.steps], book.world.effect, book.spec.model.norm == "batch"
    more = {1: 0.5, 0: 0.0, -1: -1.0}[effect] * batch
    for height, layer in enumerate(probe.groups or {}):
        first = layer in ("conv1", "linear1")
        size = 0.0 if first else np.exp(more + book.of_seed()) * (1 + height)
        book.add(steps, "covariate_shift_l2", size * book.noise(steps), layer)
        book.add(steps, "covariate_shift_relative", size / 10 * book.noise(steps), layer)
        cosine = 0.3 * effect * (-1 if batch else 1) + 0.1 * book.of_seed()
        book.add(steps, "covariate_shift_cosine", 1.0 if first else 0.5 + cosine * book.noise(steps), layer)


def _theorem(book: Book, probe: TheoremProbe, steps: Floats) -> None:
    ratio = np.exp(-book.world.effect + book.of_seed())
    removed = 0.2 if book.world.effect == 1 else 0.01
    for layer in ("features.norm1", "features.norm2"):
        book.add(steps, "theorem_4_1_ratio", ratio * book.noise(steps), layer)
        for name in ("mean", "alignment"):
            book.add(steps, f"theorem_4_1_{name}", removed * book.noise(steps), layer)


def _rescaling(book: Book, probe: RescalingProbe, steps: Floats) -> None:
    """Curvature goes with factor^-2 and nothing else does; or the other way round; or nothing does at all."""
    for factor in probe.factors:
        raw = factor ** (-2 * book.world.effect) * np.exp(book.of_seed() * np.log(factor))
        scale_free = factor if book.world.effect == -1 else 1.0
        named = f"rescaled_{factor:g}"
        book.add(steps, f"{named}_loss", scale_free, size=0.0)
        for size in probe.step_sizes:
            book.add(steps, f"{named}_effective_smoothness", raw * book.noise(steps), size=size)
        for size in probe.relative_step_sizes:
            book.add(steps, f"{named}_relative_gradient_distance", scale_free * size, size=size)


def _curvature(book: Book, probe: CurvatureProbe, steps: Floats) -> None:
    """Outliers without a norm and under running statistics; a curvature that is the limit of the profiles', or not."""
    norm, rate, effect = book.spec.model.norm, book.spec.optimizer.learning_rate, book.world.effect
    for mode in ("none",) if norm == "none" else ("batch", "running"):
        seed = SEED_NOISE * _balanced("l1", book.spec.seed) if mode == "running" else book.of_seed()
        apart = np.exp(1 + 0.7 * effect * (mode != "batch") + seed)
        edge = 2 * np.exp(0.5 * effect + book.of_seed()) * book.noise(steps)
        if book.spec.model.kind == "deep_linear":
            edge = (2.0 if effect == 1 else 0.5) * (1 + 0.01 * book.random.standard_normal(steps.shape))
        book.add(steps, "top_eigenvalue", edge / rate, statistics=mode)
        if probe.k > 1:
            book.add(steps, f"eigenvalue_{probe.k}", edge / rate / apart * book.noise(steps), statistics=mode)
        if "batch_sharpness" in probe.looks:
            book.add(steps, "batch_sharpness", (2.0 if effect == 1 else 500.0) / rate, statistics=mode)


MEASURES = {
    CurvatureProbe: _curvature,
    EvaluationProbe: _evaluation,
    LineProfileProbe: _lines,
    ActivationsProbe: _activations,
    CovariateShiftProbe: _shift,
    TheoremProbe: _theorem,
    RescalingProbe: _rescaling,
}


def without(original: Study, runs: set[str]) -> Study:
    """The study as if these runs had not been finished."""
    kept = {run: spec for run, spec in original.specs.items() if run not in runs}
    return Study(original.root, original.frame.filter(~pl.col("run").is_in(runs)), kept, original.manifest)


def broken(original: Study, runs: set[str]) -> Study:
    """The study as if nothing but NaN had come out of these runs."""
    hit = pl.col("run").is_in(runs)
    frame = original.frame.with_columns(
        pl.when(hit).then(float("nan")).otherwise(pl.col("value")).alias("value"),
        pl.when(hit).then(pl.lit("non_finite")).otherwise(pl.col("status")).alias("status"),
    )
    return Study(original.root, frame, original.specs, original.manifest)
