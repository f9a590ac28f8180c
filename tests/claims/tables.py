"""Tidy rows by hand, as a claim sees them."""

from __future__ import annotations

from collections.abc import Iterable

import polars as pl

from alidade.claims.claim import Runs
from alidade.core.spec import DataSpec, DeepLinearSpec, OptimizerSpec, RunSpec

SCHEMA = {
    "run": str, "step": int, "quantity": str, "layer": str, "step_size": float, "value": float, "status": str,
}  # fmt: skip


def row(
    step: int,
    quantity: str,
    value: float,
    step_size: float | None = None,
    layer: str | None = None,
    status: str = "ok",
) -> dict[str, object]:
    return {
        "step": step, "quantity": quantity, "value": value, "step_size": step_size, "layer": layer, "status": status,
    }  # fmt: skip


def runs_of(*parts: tuple[RunSpec, Iterable[dict[str, object]]]) -> Runs:
    rows = [{"run": spec.run_id, **entry} for spec, entries in parts for entry in entries]
    return Runs(pl.DataFrame(rows, schema=SCHEMA), {spec.run_id: spec for spec, _ in parts})


def linear_spec(seed: int = 100, norm: str = "none", learning_rate: float = 1e-6, steps: int = 100) -> RunSpec:
    return RunSpec(
        model=DeepLinearSpec(norm=norm),  # type: ignore[arg-type]
        data=DataSpec(name="gaussian", train_examples=1000),
        optimizer=OptimizerSpec(learning_rate=learning_rate),
        batch_size=1000,
        steps=steps,
        seed=seed,
        dtype="float64",
    )
