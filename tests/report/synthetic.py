"""Studies made of plausible numbers, for tests of the page that need no training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from alidade.claims.claim import Verdict
from alidade.core.records import COLUMNS
from alidade.core.spec import DataSpec, ModelSpec, OptimizerSpec, RunSpec, SurveySpec
from alidade.store import SCHEMA, Study

RAW = (0.001, 0.01, 0.05, 0.1, 0.2, 0.4)
RELATIVE = (0.01, 0.03, 0.1, 0.3)
# per norm: final loss, growth of the loss along the gradient, gradient norm, smoothness
CHARACTER = {"none": (0.25, 3.0, 2.2, 22.0), "batch": (0.02, 0.35, 1.1, 13.0), "noisy": (0.07, 0.5, 1.2, 12.0)}
COMMAND = "alidade demo --out runs/demo"


def spec(norm: str, seed: int, rate: float = 0.1, steps: int = 120) -> RunSpec:
    return RunSpec(
        model=ModelSpec(norm=norm), data=DataSpec(name="digits"), optimizer=OptimizerSpec(learning_rate=rate),
        batch_size=64, steps=steps, seed=seed,
    )  # fmt: skip


class Notebook:
    """Collects the rows of one run."""

    def __init__(self, run: str, seed: int, statistics: str) -> None:
        self.run, self.seed, self.statistics = run, seed, statistics
        self.rows: list[tuple[object, ...]] = []

    def add(self, step, quantity, value, unit="nat", eta=None, status="ok"):
        if status == "ok" and not np.isfinite(value):
            status = "non_finite"
        self.rows.append(
            (self.run, self.seed, step, quantity, None, eta, float(value), unit, self.statistics, "float32", status)
        )


def run_rows(run: RunSpec, every: int = 4, relative: bool = True, gradients: bool = True) -> list[tuple[object, ...]]:
    rng = np.random.default_rng([run.seed, *map(ord, run.model.norm)])
    final, growth, norm, beta = CHARACTER[run.model.norm]
    rate = run.optimizer.learning_rate
    slowness = rng.lognormal(0, 0.5 if run.model.norm == "none" else 0.1)
    book = Notebook(run.run_id, run.seed, "none" if run.model.norm == "none" else "batch")
    steps = np.arange(run.steps + 1)
    level = final + (2.4 - final) * np.exp(-steps / (run.steps / 8 * slowness))
    noisy = level * rng.lognormal(0, 0.2, level.shape)
    for step in steps[:-1]:
        book.add(step, "train_loss", noisy[step])
        book.add(step, "train_accuracy", np.clip(np.exp(-0.7 * noisy[step]), 0, 1), "1")
    for step in steps[:: max(1, run.steps // 6)]:
        book.add(step, "test_loss", level[step] * 1.1)
        book.add(step, "test_accuracy", np.exp(-0.75 * level[step]), "1")
    for step in steps[::every]:
        here, wobble = noisy[step], rng.lognormal(0, 0.35)
        base = norm * np.sqrt(here)
        profiles = [("", [round(f * rate / 0.1, 9) for f in RAW], beta * wobble, 0.4 * growth)]
        if relative:
            profiles.append(("relative_", RELATIVE, beta / 3 * wobble, growth))
        for prefix, sizes, smooth, rise in profiles:
            book.add(step, prefix + "loss", here, eta=0.0)
            book.add(step, prefix + "gradient_norm", base, "nat/w", eta=0.0)
            book.add(step, prefix + "direction_norm", base, "w", eta=0.0)
            for eta in sizes:
                along = here * np.exp(-eta * base**2 / here / (1 + 9 * eta) + rise * wobble * (eta * 5) ** 2)
                book.add(step, prefix + "loss", along, eta=eta)
                if not gradients:
                    continue
                value = smooth * (1 + 0.05 / eta) ** 0.4 / (1 + eta)
                small = "below_resolution" if eta < 0.005 and rng.random() < 0.1 else "ok"
                scale = base if prefix == "" else 1.0
                book.add(step, prefix + "gradient_distance", value * eta * scale, "nat/w", eta)
                book.add(step, prefix + "gradient_cosine", np.cos(min(3, 0.6 * smooth * eta)), "1", eta, small)
                book.add(step, prefix + "effective_smoothness", value, "nat/w^2", eta, small)
                book.add(step, prefix + "directional_curvature", value / 2, "nat/w^2", eta, small)
                book.add(step, prefix + "resolution", 1e-3 / eta, "nat/w^2", eta)
    book.add(run.steps, "training_seconds", 9.7, "s")
    book.add(run.steps, "line_profile_raw_seconds", 2.1, "s")
    return book.rows


def study(
    norms=("none", "batch", "noisy"),
    seeds=range(100, 105),
    rates=(0.1,),
    steps=120,
    command=COMMAND,
    every=4,
    **options,
) -> Study:
    specs = [spec(norm, seed, rate, steps) for rate in rates for norm in norms for seed in seeds]
    rows = [row for run in specs for row in run_rows(run, every=every, **options)]
    machine = {
        "python": "3.11.9", "torch": "2.13.0", "numpy": "2.4.6", "alidade": "0.1.0", "platform": "Linux x86_64",
        "processor": "AMD EPYC", "cores": 2, "threads": 1, "device": "cpu",
    }  # fmt: skip
    runs = [run.run_id for run in specs]
    manifest = {
        "command": command,
        "experiments": {"training_speed": runs, "landscape": runs, "noisy_norm": runs},
        "created": "2026-11-22T23:10:00+00:00",
    }
    return Study(
        root=Path("runs/demo"),
        frame=pl.DataFrame(rows, schema={name: SCHEMA[name] for name in COLUMNS}, orient="row"),
        specs={run.run_id: run for run in specs},
        manifest=manifest,
        environments={run: machine for run in runs},
    )


def replaced(original: Study, frame: pl.DataFrame) -> Study:
    return Study(original.root, frame, original.specs, original.manifest, original.environments)


def verdict(claim: str, estimate: float | None, interval: tuple[float, float] | None, **changes: object) -> Verdict:
    supported = interval is not None and interval[0] > 1
    outcome = "supported" if supported else "refuted" if interval and interval[1] < 1 else "undecided"
    values = {
        "claim": claim, "experiment": "landscape", "paper": "Fig. 4a: the loss varies far less with BatchNorm",
        "hypothesis": "without BatchNorm the band is wider", "verdict": outcome,
        "statistic": "ratio none / batch of the width of the loss band", "estimate": estimate, "interval": interval,
        "threshold": 1.0, "relation": ">", "n": 5 if interval else 1,
        "p_adjusted": 0.004 if interval else None, "runs": ("a", "b"),
        "reason": "" if interval and outcome != "undecided" else "the 95 % interval contains the threshold",
    }  # fmt: skip
    return Verdict(**{**values, **changes})


def verdicts() -> list[Verdict]:
    numbers = {
        "loss_band": (7.31, (4.1, 13.0)),
        "loss_band_equal_loss": (2.2, (1.4, 3.5)),
        "loss_band_scale_free": (31.0, (9.0, 107.0)),
        "loss_band_scale_free_equal_loss": (5.2, (2.0, 13.5)),
        "gradient_band": (4.4, (2.8, 6.9)),
        "gradient_band_equal_loss": (1.8, (1.2, 2.7)),
        "gradient_band_scale_free": (12.0, (5.0, 28.0)),
        "gradient_band_scale_free_equal_loss": (3.2, (0.8, 12.8)),
        "effective_smoothness": (1.55, (1.21, 1.98)),
        "effective_smoothness_equal_loss": (0.7, (0.55, 0.9)),
        "effective_smoothness_scale_free": (8.0, (3.0, 21.0)),
        "effective_smoothness_scale_free_equal_loss": (1.9, (0.9, 4.0)),
    }
    first = verdict(
        "faster_training", 5.12, (2.9, 9.0), experiment="training_speed",
        paper="Fig. 1a: at learning rate 0.1 the network with BatchNorm is ahead (.83 against .49 after 1000 steps)",
        statistic="ratio none / batch of the mean training loss over all steps, learning rate 0.1",
    )  # fmt: skip
    last = verdict(
        "noisy_norm_trains", 0.12, (0.04, 0.2), experiment="noisy_norm", threshold=0.0, verdict="supported", reason="",
        paper="Fig. 2: noisy BatchNorm trains nearly as fast as BatchNorm; accuracies .68 none, .88 batch, .84 noisy",
        statistic="mean training accuracy: noisy minus the midpoint of none and batch",
    )  # fmt: skip
    return [first, *(verdict(claim, *values) for claim, values in numbers.items()), last]


def undecided() -> list[Verdict]:
    return [
        verdict(v.claim, v.estimate, None, n=1, reason="an interval needs at least 2 seeds, 1 have a value")
        for v in verdicts()
    ]


def survey(names=("mine", "theirs"), steps=40) -> Study:
    """Trainings of a user's own: profiles along the update and in relative coordinates, no training curve."""
    specs, rows = {}, []
    for index, name in enumerate(names):
        run = SurveySpec(name=name, model="Net", parameters=1234, optimizer="AdamW", optimizer_defaults={"lr": 1e-3})
        specs[run.run_id] = run
        book = Notebook(run.run_id, None, "none")
        for step in range(0, steps, 4):
            here = 2.0 * np.exp(-step / 20) + 0.1 * (index + 1)
            for prefix, sizes in (("update_", (0.1, 0.5, 1.0, 2.0)), ("relative_", RELATIVE)):
                book.add(step, prefix + "loss", here, eta=0.0)
                for eta in sizes:
                    book.add(step, prefix + "loss", here * (1 - 0.1 * eta + 0.08 * eta**2), eta=eta)
                    book.add(step, prefix + "gradient_distance", here * eta, "nat/w", eta)
                    book.add(step, prefix + "gradient_cosine", 1 - 0.2 * eta, "1", eta)
                    book.add(step, prefix + "effective_smoothness", 12 / (1 + eta), "nat/w^2", eta)
        rows += book.rows
    frame = pl.DataFrame(rows, schema={name: SCHEMA[name] for name in COLUMNS}, orient="row")
    return Study(root=Path("runs/mine"), frame=frame, specs=specs)
