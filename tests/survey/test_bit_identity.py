"""Laws 1 and 3 through the door that users take: the surveyed run is the run, and eta = 0 is its loss."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from tests.survey.loops import LOOPS, NOTHING
from torch import nn

import alidade
from alidade.core.probes import LineProfileProbe, RescalingProbe
from alidade.core.schedule import Every

STEPS = 200
PROBES = ["update_profile", "gradient_profile", "relative_profile"]


def _run(loop: Callable[..., Any], watch: Callable[..., Any]) -> tuple[nn.Module, list[float], tuple[Any, ...]]:
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    model, losses = loop(STEPS, watch)
    return model, losses, (torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist())


@pytest.mark.parametrize("loop", LOOPS, ids=lambda loop: loop.__name__)
def test_a_surveyed_run_is_bit_identical_and_sees_the_real_loss(
    loop: Callable[..., Any], tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    surveys: list[alidade.Survey] = []

    def watch(model: nn.Module, loss_fn: Any, optimizer: Any) -> alidade.Survey:
        out = tmp_path / "survey"
        surveys.append(alidade.Survey(model, loss_fn, optimizer, out, PROBES, schedule=Every(interval=20), budget=None))
        return surveys[0]

    plain, plain_losses, plain_random = _run(loop, lambda *_: NOTHING)
    surveyed, losses, surveyed_random = _run(loop, watch)
    surveys[0].close()

    assert losses == plain_losses
    assert surveyed_random == plain_random
    for (name, expected), found in zip(plain.state_dict().items(), surveyed.state_dict().values(), strict=True):
        assert torch.equal(expected, found), name

    frame = alidade.load(tmp_path / "survey")
    assert [w for w in recwarn if "probe" in str(w.message)] == []
    assert frame.filter(pl.col("status").str.starts_with("failed")).height == 0
    at_zero = frame.filter((pl.col("quantity") == "update_loss") & (pl.col("step_size") == 0))
    measured = dict(zip(at_zero["step"].to_list(), at_zero["value"].to_list(), strict=True))
    assert len(measured) == len([step for step in range(len(losses)) if step % 20 == 0])
    for step, value in measured.items():
        if loop.__name__ == "accumulation":  # the loop sums three Python floats, the objective three float32
            assert value == pytest.approx(losses[step], rel=1e-6)
        elif loop.__name__ == "compiled":  # another backend may fuse and round otherwise
            assert value == pytest.approx(losses[step], rel=1e-5)
        else:
            assert value == losses[step], f"step {step}"


EVERYTHING = [
    "layer_scalars", "activations", "covariate_shift", "theorem_4_1", "update_profile",
    LineProfileProbe(direction="random", step_sizes=(0.1, 1.0), schedule=Every(interval=25)),
    LineProfileProbe(direction="update", coordinates="relative", step_sizes=(1.0,), schedule=Every(interval=25)),
    LineProfileProbe(direction="random", coordinates="relative", step_sizes=(0.1,), schedule=Every(interval=25)),
    RescalingProbe(step_sizes=(0.1,), factors=(0.5, 2.0), schedule=Every(interval=25)),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:probe .* failed")  # where there is no norm, some have nothing to measure
@pytest.mark.parametrize("budget", [None, 0.5], ids=["every time", "budget"])
@pytest.mark.parametrize("loop", LOOPS, ids=lambda loop: loop.__name__)
def test_a_run_is_bit_identical_with_every_kind_of_probe(
    loop: Callable[..., Any], budget: float | None, tmp_path: Path
) -> None:
    surveys: list[alidade.Survey] = []

    def watch(model: nn.Module, loss_fn: Any, optimizer: Any) -> alidade.Survey:
        out, schedule = tmp_path / "survey", Every(interval=25)
        surveys.append(alidade.Survey(model, loss_fn, optimizer, out, EVERYTHING, schedule, budget))
        return surveys[0]

    plain, surveyed = _run(loop, lambda *_: NOTHING), _run(loop, watch)
    surveys[0].close()
    assert surveyed[1:] == plain[1:]
    for (name, expected), found in zip(plain[0].state_dict().items(), surveyed[0].state_dict().values(), strict=True):
        assert torch.equal(expected, found), name
    measured = set(alidade.load(tmp_path / "survey").filter(pl.col("status") == "ok")["quantity"])
    assert {"weight_norm", "activation_mean", "covariate_shift_l2", "update_loss", "random_loss"} <= measured


def test_the_surveys_hooks_are_gone_after_close(tmp_path: Path) -> None:
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    survey = alidade.Survey(model, lambda m, x: m(x).mean(), optimizer, tmp_path / "s")
    survey.observe(torch.ones(1, 2))
    assert len(model._forward_pre_hooks) == 1
    survey.close()
    assert len(model._forward_pre_hooks) == 0
    assert len(optimizer._optimizer_step_pre_hooks) == len(optimizer._optimizer_step_post_hooks) == 0
