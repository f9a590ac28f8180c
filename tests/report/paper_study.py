"""A study as `alidade reproduce all` plans it, with made-up numbers: for tests of the sectioned page."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import polars as pl
from tests.report.synthetic import COMMAND

from alidade.core.activations import PROBABILITIES
from alidade.core.records import COLUMNS
from alidade.core.spec import RunSpec
from alidade.experiments import EXPERIMENTS
from alidade.experiments.experiment import Settings
from alidade.report.page import Chapter
from alidade.store import SCHEMA, Study
from alidade.store.segments import COMPACT

#: Per norm: end of the loss as a fraction of its start, growth along the gradient, smoothness.
_CHARACTER = {
    "none": (0.11, 2.6, 24.0), "batch": (0.01, 0.4, 12.0), "noisy": (0.03, 0.6, 13.0), "noise": (1.0, 3.0, 30.0),
    "l1": (0.008, 0.45, 12.5), "l2": (0.012, 0.38, 11.5), "linf": (0.03, 0.5, 14.0),
}  # fmt: skip
_QUANTILES = np.array([-2.33, -1.64, -0.67, 0.0, 0.67, 1.64, 2.33])


class _Book:
    def __init__(self, spec: RunSpec) -> None:
        self.rows: list[tuple[object, ...]] = []
        statistics = "none" if spec.model.norm in ("none", "noise") else "batch"
        self._run, self._end = (spec.run_id, spec.seed), (statistics, spec.dtype)

    def add(self, step, quantity, value, eta=None, layer=None, unit="1", status="ok"):
        status = status if np.isfinite(value) or status != "ok" else "non_finite"
        row = (*self._run, int(step), quantity, layer, eta, float(value), unit, *self._end, status)
        self.rows.append(row)


def _level(spec: RunSpec, rng) -> np.ndarray:
    end, _, _ = _CHARACTER[spec.model.norm]
    start = 4e4 if spec.model.kind == "deep_linear" else 2.4
    usual = 1e-6 if spec.model.kind == "deep_linear" else 0.1
    rate = spec.optimizer.learning_rate / usual
    steps = np.arange(spec.steps + 1)
    pace = spec.steps / 7 / rate**0.5 * rng.lognormal(0, 0.15)
    level = start * (end + (1 - end) * np.exp(-steps / pace))
    if spec.model.norm == "none" and rate > 3:
        level = np.full(level.shape, start)
    noise = 0.02 if spec.model.kind == "deep_linear" else 0.2
    return level * rng.lognormal(0, noise, level.shape)


def _rows(spec: RunSpec, probes) -> list[tuple[object, ...]]:
    rng = np.random.default_rng([spec.seed, *map(ord, spec.model.norm + str(spec.optimizer.learning_rate))])
    book, level = _Book(spec), _level(spec, rng)
    images = spec.model.kind == "vgg"
    if spec.model.norm == "none" and images and spec.optimizer.learning_rate == 0.5 and spec.seed % 2:
        at = spec.steps // 3
        level[at:] = np.nan
        book.add(at, "diverged", 2e3)
    if not images and spec.model.norm == "none" and spec.seed % 2:
        book.add(spec.steps, "stationary", 1e-9)
    for step in range(spec.steps):
        book.add(step, "train_loss", level[step], unit="nat")
        if images:
            book.add(step, "train_accuracy", np.exp(-0.8 * level[step]) if np.isfinite(level[step]) else 0.1)
    for probe in probes:
        for step in range(0, spec.steps + 1, probe.schedule.interval):
            if np.isfinite(level[step]):
                _PROBES[probe.kind](book, spec, probe, step, level[step], rng)
    book.add(spec.steps, "training_seconds", 9.7, unit="s")
    return book.rows


def _evaluate(book, spec, probe, step, level, rng):
    book.add(step, "test_loss", 1.1 * level, unit="nat")
    book.add(step, "test_accuracy", np.exp(-0.9 * level) * (1.02 if spec.data.augment else 0.95))


def _line(book, spec, probe, step, level, rng, prefix="", factor=1.0):
    _, growth, beta = _CHARACTER[spec.model.norm]
    relative = probe.coordinates == "relative" if hasattr(probe, "coordinates") else prefix.endswith("relative_")
    named = prefix + ("random_" if getattr(probe, "direction", "") == "random" else "")
    named += "relative_" if relative and not prefix.endswith("relative_") else ""
    sizes = probe.step_sizes if not prefix.endswith("relative_") else probe.relative_step_sizes
    unit = 0.3 if relative else spec.optimizer.learning_rate
    sharp = 2.0 * rng.lognormal(0, 0.04) * factor**-2 * beta / 13
    norm = (level * rng.lognormal(0, 0.2)) ** 0.5 / factor
    book.add(step, named + "loss", level, 0.0, unit="nat")
    book.add(step, named + "gradient_norm", norm, 0.0)
    for eta in sizes:
        ratio = eta / unit
        along = level * np.exp(-0.12 * np.tanh(ratio) + growth * 0.1 * rng.lognormal(0, 0.2) * min(ratio, 30) ** 2 / 4)
        change = 1 - np.exp(-sharp * ratio / 2) + 0.2 * growth * min(ratio, 20)
        book.add(step, named + "loss", along, eta, unit="nat")
        book.add(step, named + "gradient_distance", norm * change * (1 / norm if relative else 1), eta)
        book.add(step, named + "gradient_cosine", np.cos(min(3.0, 0.6 * ratio)), eta)
        book.add(step, named + "effective_smoothness", change / eta, eta)
        book.add(step, named + "directional_curvature", 0.9 * sharp / (1 + 0.2 * ratio) / unit, eta)


def _rescaled(book, spec, probe, step, level, rng):
    state = rng.bit_generator.state
    for factor in probe.factors:
        for kind in ("", "relative_"):
            rng.bit_generator.state = state
            _line(book, spec, probe, step, level, rng, f"rescaled_{factor:g}_{kind}", 1.0 if kind else factor)


def _activations(book, spec, probe, step, level, rng):
    for depth, layer in enumerate(probe.layers, start=1):
        shake = {"noisy": 0.4, "none": 0.1}.get(spec.model.norm, 0.03)
        width = {"none": 0.4, "linf": 0.25}.get(spec.model.norm, 1.2) * (1 + 0.3 * step / spec.steps)
        middle = depth * 0.1 + shake * rng.normal()
        for p, z in zip(PROBABILITIES, _QUANTILES, strict=True):
            book.add(step, f"activation_quantile_{p:g}", middle + width * (np.exp(0.15 * z) - 1) * 6, layer=layer)
        book.add(step, "activation_mean", middle, layer=layer)
        if step:
            for name in ("mean", "variance"):
                book.add(step, f"activation_{name}_change", shake * rng.lognormal(0, 0.3), layer=layer)
                book.add(step, f"activation_{name}_drift", shake * rng.normal() * 0.2, layer=layer)


def _shift(book, spec, probe, step, level, rng):
    size = level**0.5
    for depth, layer in enumerate(probe.groups, start=1):
        turned = 0.15 * depth * (1.5 if spec.model.norm == "batch" else 1.0) * rng.lognormal(0, 0.2)
        relative = 2 * np.sin(min(turned, 3.0) / 2)
        first = depth == 1
        book.add(step, "covariate_shift_l2", 0.0 if first else size * relative, layer=layer)
        book.add(step, "covariate_shift_relative", 0.0 if first else relative, layer=layer)
        book.add(step, "covariate_shift_cosine", 1.0 if first else np.cos(min(turned, 3.1)), layer=layer)


def _theorem(book, spec, probe, step, level, rng):
    for number in range(1, 9):
        layer = f"features.norm{number}"
        for name, value in (("ratio", 0.4), ("mean", 0.2), ("alignment", 0.05)):
            book.add(step, f"theorem_4_1_{name}", value * rng.lognormal(0, 0.2) / number, layer=layer)


def _curvature(book, spec, probe, step, level, rng):
    _, _, beta = _CHARACTER[spec.model.norm]
    top = beta / 13 / spec.optimizer.learning_rate * rng.lognormal(0, 0.1)
    book.add(step, "top_eigenvalue", top)
    book.add(step, "batch_sharpness", 0.8 * top)
    if probe.k > 1:
        book.add(step, f"eigenvalue_{probe.k}", top / 5)
    if "density" in probe.looks:
        for x in np.linspace(-0.1 * top, 1.1 * top, 41):
            book.add(step, "spectral_density", np.exp(-((10 * x / top) ** 2)) + 1e-4, x)
            book.add(step, "spectral_density_standard_error", 1e-5, x)


_PROBES = {
    "evaluation": _evaluate, "line_profile": _line, "rescaling": _rescaled, "activations": _activations,
    "covariate_shift": _shift, "theorem_4_1": _theorem, "curvature": _curvature,
}  # fmt: skip


def chapters() -> dict[str, Chapter]:
    return {name: Chapter(experiment.question, experiment.paper) for name, experiment in EXPERIMENTS.items()}


@cache
def paper_study(seeds: int = 2, names: tuple[str, ...] = tuple(EXPERIMENTS)) -> Study:
    """Every experiment of the paper at quick scale; a run's probes are the union over experiments."""
    settings = Settings(data="digits", seeds=seeds)
    plans = {name: EXPERIMENTS[name].runs(settings) for name in names}
    specs: dict[str, RunSpec] = {}
    probes: dict[str, dict[str, object]] = {}
    for run in (run for planned in plans.values() for run in planned):
        specs[run.spec.run_id] = run.spec
        probes.setdefault(run.spec.run_id, {}).update({probe.probe_id: probe for probe in run.probes})
    rows = [row for run, spec in specs.items() for row in _rows(spec, probes[run].values())]
    return Study(
        root=Path("runs/all"),
        # With the types that a study has when it is read from its folder.
        frame=pl.DataFrame(rows, schema={name: SCHEMA[name] for name in COLUMNS}, orient="row").cast(COMPACT),
        specs=dict(sorted(specs.items())),
        manifest={
            "command": COMMAND.replace("demo", "reproduce all"),
            "experiments": {name: [run.spec.run_id for run in planned] for name, planned in plans.items()},
        },
    )
