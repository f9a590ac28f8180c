"""A run's identity: equal content, equal id; any other content, another id."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from tests.studies import run_spec

from alidade.core.errors import CallError
from alidade.core.probes import EvaluationProbe, LineProfileProbe, PlannedRun
from alidade.core.schedule import Every, First, Logarithmic
from alidade.core.spec import RunSpec

OTHER: list[dict[str, Any]] = [
    {"seed": 101}, {"steps": 5}, {"batch_size": 17}, {"l2": 1e-4}, {"optimizer": {"learning_rate": 0.2}},
    {"model": {"norm": "batch"}}, {"model": {"init": "glorot"}}, {"model": {"width": 0.03}},
    {"model": {"conv_layers": 13}}, {"data": {"fingerprint": "other"}}, {"data": {"train_examples": None}},
    {"data": {"name": "cifar10"}},
]  # fmt: skip


def _changed(change: dict[str, Any]) -> RunSpec:
    content = run_spec().model_dump()
    for key, value in change.items():
        content[key] = {**content[key], **value} if isinstance(value, dict) else value
    return RunSpec.model_validate(content)


def test_the_id_of_a_run_never_changes_by_accident() -> None:
    """Whoever changes this loses every finished run of every user: think of a new field's default first."""
    assert run_spec().run_id == "4947ce172f9c"


def test_everything_that_decides_the_weights_is_part_of_the_id() -> None:
    ids = {run_spec().run_id, *(_changed(change).run_id for change in OTHER)}
    assert len(ids) == 1 + len(OTHER)


def test_the_id_survives_json_in_any_order() -> None:
    spec = run_spec()
    content = json.loads(spec.model_dump_json())
    assert RunSpec.model_validate(dict(reversed(content.items()))) == spec
    assert RunSpec.model_validate_json(spec.model_dump_json()).run_id == spec.run_id


@given(st.floats(1e-6, 1e3), st.integers(0, 2**40))
def test_specs_survive_json(learning_rate: float, seed: int) -> None:
    spec = run_spec(seed, learning_rate=learning_rate)
    probe = LineProfileProbe(step_sizes=(learning_rate / 3, learning_rate), schedule=Logarithmic(base=1.5))
    planned = PlannedRun(spec=spec, probes=(probe, EvaluationProbe(examples=7, schedule=First(count=2))))
    again = PlannedRun.model_validate_json(planned.model_dump_json())
    assert again == planned
    assert again.spec.run_id == spec.run_id
    assert [p.probe_id for p in again.probes] == [p.probe_id for p in planned.probes]


def test_what_is_measured_is_part_of_the_probes_id_and_not_of_the_runs() -> None:
    probes = [
        LineProfileProbe(step_sizes=(0.1,)), LineProfileProbe(step_sizes=(0.1, 0.2)),
        LineProfileProbe(step_sizes=(0.1,), coordinates="relative"),
        LineProfileProbe(step_sizes=(0.1,), schedule=Every(interval=3)), EvaluationProbe(), EvaluationProbe(examples=9),
    ]  # fmt: skip
    assert len({probe.probe_id for probe in probes}) == len(probes)
    assert probes[2].probe_id.startswith("line_profile_relative-")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"optimizer": {"learning_rate": 0.0}}, "learning_rate"),
        ({"optimizer": {"learning_rate": float("nan")}}, "learning_rate"),
        ({"optimizer": {"learning_rate": float("inf")}}, "learning_rate"),
        ({"l2": -1.0}, "l2"),
        ({"l2": float("nan")}, "l2"),
        ({"l2": float("inf")}, "l2"),
        ({"steps": 0}, "steps"),
        ({"seed": -1}, "seed"),
        ({"batch_size": 1}, "batch_size"),
        ({"model": {"conv_layers": 9}}, "conv_layers"),
        ({"model": {"norm": "instance"}}, "norm"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_wrong_field_is_named(change: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError, match=field):
        _changed(change)


@pytest.mark.parametrize("step_sizes", [(), (0.1, 0.1), (float("nan"),), (float("inf"),)])
def test_step_sizes_are_distinct_numbers(step_sizes: tuple[float, ...]) -> None:
    with pytest.raises(CallError, match="step_sizes") as caught:
        LineProfileProbe(step_sizes=step_sizes)
    assert "\n" not in str(caught.value)


def test_a_spec_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        run_spec().seed = 3  # type: ignore[misc]
