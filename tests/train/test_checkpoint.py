"""A training that was stopped anywhere and goes on is, bit for bit, the one that was not."""

from __future__ import annotations

import os
import pickle
import random
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from tests.studies import run_spec
from torch import nn

from alidade.core.errors import CallError, WorkError
from alidade.core.probes import (
    ActivationsProbe,
    AnyProbe,
    CovariateShiftProbe,
    CurvatureProbe,
    EvaluationProbe,
    LayerScalarsProbe,
    LineProfileProbe,
)
from alidade.core.schedule import Every
from alidade.core.spec import DataSpec, DeepLinearSpec, OptimizerSpec, RunSpec
from alidade.data import load
from alidade.landscape.randomness import RandomState
from alidade.store import Segments
from alidade.train.loop import train
from alidade.train.packing import pack, unpack

DIGITS = load("digits", train_examples=64)
STEPS = 7
PROBES: tuple[AnyProbe, ...] = (
    LineProfileProbe(step_sizes=(0.05, 0.1), schedule=Every(interval=3)),
    LineProfileProbe(step_sizes=(1.0,), direction="update", schedule=Every(interval=2)),
    LineProfileProbe(step_sizes=(0.1,), direction="random", schedule=Every(interval=2)),
    ActivationsProbe(schedule=Every(interval=2)),
    CovariateShiftProbe(layers=("features.conv2", "head"), schedule=Every(interval=3)),
    LayerScalarsProbe(schedule=Every(interval=2)),
    EvaluationProbe(examples=32, schedule=Every(interval=4)),
)


class _DeathError(Exception):
    """Stands for whatever ends a process."""


class _Kept:
    """Keeps the state at chosen steps, with the rows of that moment, and dies a step later."""

    def __init__(self, at: int | None = None, kept: tuple[bytes, Segments] | None = None) -> None:
        self._at, self.kept = at, kept
        self.segments = kept[1] if kept else Segments()
        self._left = 0

    def latest(self) -> bytes | None:
        return self.kept[0] if self.kept else None

    def due(self) -> bool:
        return self._at is not None

    def keep(self, step: int, state: bytes) -> None:
        if step == self._at:
            frames = {name: self.segments.frame(name) for name in self.segments.names}
            self.kept = (state, Segments(frames))
        elif self.kept:
            raise _DeathError


def _numbers(segments: Segments) -> dict[str, pl.DataFrame]:
    return {name: segments.frame(name) for name in segments.names if name != "timing"}


def _assert_same(one: nn.Module, other: nn.Module) -> None:
    first, second = ([*model.state_dict().items()] for model in (one, other))
    assert [name for name, _ in first] == [name for name, _ in second]
    for (name, a), (_, b) in zip(first, second, strict=True):
        assert torch.equal(a, b) or (a.isnan() == b.isnan()).all(), name


def _undisturbed(spec: RunSpec, probes: tuple[AnyProbe, ...]) -> tuple[Segments, nn.Module]:
    segments = Segments()
    return segments, train(spec, DIGITS, probes, segments)


def _stopped_and_gone_on(spec: RunSpec, at: int, probes: tuple[AnyProbe, ...]) -> tuple[Segments, nn.Module]:
    first = _Kept(at)
    with pytest.raises(_DeathError):
        train(spec, DIGITS, probes, first.segments, checkpoints=first)
    assert first.kept is not None
    torch.manual_seed(99)  # another process starts with other random states
    random.seed(98)
    np.random.seed(97)
    second = _Kept(kept=first.kept)
    return second.segments, train(spec, DIGITS, probes, second.segments, checkpoints=second)


@pytest.mark.parametrize("at", range(1, STEPS))
def test_it_goes_on_bit_for_bit_wherever_it_was_stopped(at: int) -> None:
    spec = run_spec(norm="batch", steps=STEPS)
    expected, model = _undisturbed(spec, PROBES)
    found, resumed = _stopped_and_gone_on(spec, at, PROBES)
    _assert_same(resumed, model)
    assert _numbers(expected).keys() == _numbers(found).keys()
    for name, frame in _numbers(expected).items():
        assert _numbers(found)[name].equals(frame, null_equal=True), name  # each once, in the same order
    for segments in (expected, found):
        seconds = segments.frame("timing")
        assert seconds.filter(pl.col("quantity") == "training_seconds")["step"].to_list() == [STEPS]
    assert found.frame("timing").drop("value").equals(expected.frame("timing").drop("value"))


@pytest.mark.parametrize("norm", ["none", "noisy", "l1", "layer"])
def test_random_numbers_and_running_statistics_go_on(norm: str) -> None:
    """Noisy norm draws at every step; the L_p norms keep running statistics of their own."""
    spec = run_spec(norm=norm, steps=5)  # type: ignore[arg-type]
    expected, model = _undisturbed(spec, PROBES[:1])
    found, resumed = _stopped_and_gone_on(spec, 3, PROBES[:1])
    _assert_same(resumed, model)
    for name, frame in _numbers(expected).items():
        assert _numbers(found)[name].equals(frame, null_equal=True), name


@pytest.mark.parametrize("at", [2, 3])
def test_eigenvectors_of_warm_starts_go_on(at: int) -> None:
    """Before the step and across it, on either side of a probe; two products settle nothing, so the start decides."""
    probes = (
        CurvatureProbe(looks=("eigenvalues",), max_matvecs=2, schedule=Every(interval=2)),
        CurvatureProbe(looks=("eigenvalues", "step_sharpness"), k=2, max_matvecs=3, schedule=Every(interval=2)),
    )
    spec = run_spec(norm="batch", steps=5)
    expected, model = _undisturbed(spec, probes)
    found, resumed = _stopped_and_gone_on(spec, at, probes)
    _assert_same(resumed, model)
    for name, frame in _numbers(expected).items():
        assert _numbers(found)[name].equals(frame, null_equal=True), name
    for probe in probes:
        values = expected.frame(probe.probe_id).filter(pl.col("quantity").str.starts_with("top_eigenvalue"))
        assert values["value"].is_finite().all()
        assert values.filter(pl.col("quantity") == "top_eigenvalue_lost")["step"].min() == 2  # warm from there on


def test_a_divergence_before_the_stop_is_remembered() -> None:
    spec = RunSpec(
        model=DeepLinearSpec(), data=DataSpec(name="gaussian", train_examples=1000), seed=100, dtype="float64",
        optimizer=OptimizerSpec(learning_rate=1e-2), batch_size=1000, steps=12,
    )  # fmt: skip
    expected, _ = _undisturbed(spec, ())
    found, _ = _stopped_and_gone_on(spec, 9, ())
    diverged = expected.frame("training").filter(pl.col("quantity") == "diverged")
    assert diverged["step"].to_list()[0] < 9
    assert found.frame("training").equals(expected.frame("training"), null_equal=True)


def test_seconds_of_all_legs_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(10_000))
    monkeypatch.setattr("alidade.train.checkpoint.time.perf_counter", lambda: float(next(now)))
    found, _ = _stopped_and_gone_on(run_spec(steps=4), 2, ())
    (seconds,) = found.frame("timing").filter(pl.col("quantity") == "training_seconds")["value"]
    assert seconds > 2  # one tick each for the beginning, the saved state, the second beginning and the end


def test_a_state_of_another_network_is_refused() -> None:
    first = _Kept(1)
    with pytest.raises(_DeathError):
        train(run_spec(norm="batch"), DIGITS, (), first.segments, checkpoints=first)
    second = _Kept(kept=first.kept)
    with pytest.raises(WorkError, match="expected that of this network, got that of another; they differ in") as caught:
        train(run_spec(norm="none"), DIGITS, (), Segments(), checkpoints=second)
    assert "\n" not in str(caught.value)


VALUES: list[Any] = [
    None, True, -3, 2**200, 0.1, float("inf"), "a\nü", b"".decode(), [], (), {}, [1, (2, [3])],
    {"a": {0: 1, (1, "x"): (None,)}}, {1: "int", "1": "text"},
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_plain_values_come_back(value: Any) -> None:
    back = unpack(pack(value))
    assert back == value
    assert repr(back) == repr(value)  # tuples as tuples, True as True


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor(3.5), torch.empty(0, 2), torch.randn(3, 4).t(), torch.tensor([float("nan"), -0.0]),
        torch.randn(2, 2, dtype=torch.float64), torch.arange(3, dtype=torch.uint8), torch.tensor([True, False]),
        torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last), torch.randn(3).bfloat16(),
        torch.randn(3, requires_grad=True),
    ],
    ids=lambda tensor: f"{tensor.dtype}-{tuple(tensor.shape)}",
)  # fmt: skip
def test_tensors_come_back_bit_by_bit(tensor: torch.Tensor) -> None:
    (back,) = unpack(pack([tensor]))
    assert (back.dtype, back.shape, back.requires_grad) == (tensor.dtype, tensor.shape, False)
    assert (
        back.numpy(force=True).tobytes() == tensor.detach().contiguous().numpy(force=True).tobytes()
        if (tensor.dtype is not torch.bfloat16)
        else torch.equal(back, tensor)
    )


def test_tensors_that_share_storage_come_back_apart() -> None:
    base = torch.arange(4.0)
    one, two = unpack(pack([base, base[1:3]]))
    one.zero_()
    assert two.tolist() == [1.0, 2.0]


def test_random_states_come_back() -> None:
    model = nn.Module()
    model.own = np.random.default_rng(5)
    model.other, model.third = torch.Generator().manual_seed(4), random.Random(3)

    def draw() -> list[Any]:
        return [
            torch.rand(2).tolist(), np.random.rand(2).tolist(), random.random(), np.random.standard_normal(),
            model.own.random(), torch.rand(1, generator=model.other).item(), model.third.random(),
        ]  # fmt: skip

    np.random.standard_normal()  # the legacy generator keeps a second normal number back
    state = pack(RandomState(model).state())
    expected = draw()
    draw()
    now = RandomState(model)
    now.load(unpack(state))
    now.install()
    assert draw() == expected


@pytest.mark.parametrize(
    "wrong",
    [object(), {1, 2}, lambda: None, np.array(["text"], dtype=object)],
    ids=["object", "set", "function", "array of objects"],
)
def test_what_is_not_plain_is_refused(wrong: Any) -> None:
    with pytest.raises((CallError, TypeError)):
        pack({"state": wrong})


class _Bomb:
    def __init__(self, file: Path) -> None:
        self._file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self._file}",)


@pytest.mark.parametrize("how", ["pickle", "torch"])
def test_a_pickle_is_not_opened(how: str, tmp_path: Path) -> None:
    bomb: Any = _Bomb(tmp_path / "exploded")
    (torch.save if how == "torch" else _dump)(bomb, tmp_path / "bomb")
    with pytest.raises(WorkError, match=r"expected the bytes that pack\(\) returned"):
        unpack((tmp_path / "bomb").read_bytes())
    assert not (tmp_path / "exploded").exists()
    with warnings.catch_warnings():  # and it is one
        warnings.simplefilter("ignore")
        torch.load(tmp_path / "bomb", weights_only=False) if how == "torch" else pickle.loads(
            (tmp_path / "bomb").read_bytes()
        )
    assert (tmp_path / "exploded").exists()


def _dump(value: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(value))


def test_bytes_that_were_changed_are_refused_or_read_as_values() -> None:
    """The digest is checked before; here nothing but an error of ours may come out."""
    whole, how = pack({"a": torch.arange(5.0), "b": [1, (2, None)]}), random.Random(7)
    for _ in range(300):
        data = bytearray(whole)
        data[how.randrange(len(data))] ^= 1 << how.randrange(8)
        with suppress(WorkError):
            assert unpack(bytes(data[: how.randrange(len(data))]) if how.random() < 0.3 else bytes(data)) is not None
