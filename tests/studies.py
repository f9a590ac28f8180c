"""Small studies written straight to a folder, without training: for tests of what reads them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from alidade.core.records import Row
from alidade.core.spec import DataSpec, ModelSpec, NormName, OptimizerSpec, RunSpec
from alidade.store import Segments, write_manifest, write_run

ENVIRONMENT = {"python": "3.11", "cores": 2}


def run_spec(
    seed: int = 100, norm: NormName = "none", learning_rate: float = 0.1, steps: int = 4, l2: float = 0.0
) -> RunSpec:
    return RunSpec(
        model=ModelSpec(conv_layers=8, width=0.02, norm=norm),
        data=DataSpec(name="digits", train_examples=64, fingerprint="0123456789abcdef"),
        optimizer=OptimizerSpec(learning_rate=learning_rate),
        batch_size=16,
        steps=steps,
        seed=seed,
        l2=l2,
    )


def training_rows(values: Iterable[float], quantity: str = "train_loss") -> list[Row]:
    return [Row(step, quantity, value, "nat") for step, value in enumerate(values)]


def segments(**named: list[Row]) -> Segments:
    recorder = Segments()
    for name, rows in named.items():
        recorder.record(name, rows)
    return recorder


def write_study(root: Path, seeds: Iterable[int] = (100,)) -> None:
    """Runs with two segments each, and a manifest that names them all."""
    planned = []
    for seed in seeds:
        spec = run_spec(seed)
        content = segments(
            training=training_rows([2.0, 1.5, 1.0 + seed, float("nan")]), probe=[Row(0, "loss", 2.5, "nat", "a", 0.1)]
        )
        write_run(root, spec, content, ENVIRONMENT)
        planned.append(spec.run_id)
    write_manifest(root, {"command": "test", "settings": {"data": "digits"}, "experiments": {"landscape": planned}})
