"""Curvature along a run: the numbers, what they say about themselves, warm starts and how they survive a resume."""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from tests.cases import cross_entropy
from tests.reference.curvature import dense_hessian
from torch import nn

import alidade
from alidade.core.probes import CurvatureProbe, Look
from alidade.core.records import Row
from alidade.core.schedule import Every
from alidade.errors import CallError, RefusedError
from alidade.probes.spectrum import SpectrumTracker

EVERYTHING: tuple[Look, ...] = ("eigenvalues", "batch_sharpness", "gradient_overlap", "trace", "density")


def _network(norm: bool = True) -> nn.Module:
    torch.manual_seed(3)
    middle = [nn.BatchNorm1d(6)] if norm else []
    return nn.Sequential(nn.Linear(4, 6), *middle, nn.Tanh(), nn.Linear(6, 3)).double()


def _batch(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(12, 4, generator=generator, dtype=torch.float64), torch.arange(12) % 3


def _trained(model: nn.Module, steps: int = 3, rate: float = 0.1) -> nn.Module:
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    for step in range(steps):
        optimizer.zero_grad()
        cross_entropy(model, _batch(step)).backward()
        optimizer.step()
    return model


def _values(rows: list[Row], quantity: str) -> dict[str, float]:
    """By statistics mode."""
    return {row.statistics: row.value for row in rows if row.quantity == quantity}


def _tracker(**options: Any) -> SpectrumTracker:
    return SpectrumTracker(CurvatureProbe(**options))


def test_both_statistics_against_the_dense_hessian() -> None:
    """The witness differentiates a copy in either mode, row by row; rtol 1e-6 leaves eigenvalues exact to 1e-12."""
    model, batch = _trained(_network()), _batch()
    rows = _tracker(rtol=1e-6, looks=EVERYTHING, trace_rtol=1e-9).rows(
        5, alidade.Objective(model, cross_entropy, batch)
    )
    for mode, twin in (("batch", model), ("running", copy.deepcopy(model).eval())):
        hessian = dense_hessian(twin, cross_entropy, batch)
        values, vectors = np.linalg.eigh(hessian)
        twin.zero_grad()
        at_start = torch.autograd.grad(cross_entropy(twin, batch), list(twin.parameters()))
        gradient = torch.cat([part.reshape(-1) for part in at_start]).numpy()
        square = gradient @ gradient
        expected = {
            "top_eigenvalue": values[-1],
            "batch_sharpness": gradient @ hessian @ gradient / square,
            "gradient_overlap": abs(gradient @ vectors[:, -1]) / square**0.5,
            "hessian_trace": np.trace(hessian),
        }
        for quantity, value in expected.items():
            assert _values(rows, quantity)[mode] == pytest.approx(value, rel=1e-5), (mode, quantity)
    assert {row.step for row in rows} == {5}
    assert {row.status for row in rows} == {"ok"}


def test_rows_say_what_they_are() -> None:
    rows = _tracker(k=2, looks=EVERYTHING).rows(0, alidade.Objective(_trained(_network()), cross_entropy, _batch()))
    units = {row.quantity: row.unit for row in rows}
    assert units["top_eigenvalue"] == units["eigenvalue_2"] == units["batch_sharpness"] == "nat/w^2"
    assert units["gradient_overlap"] == units["top_eigenvalue_matvecs"] == "1"
    assert {"top_eigenvalue_residual", "hessian_trace_standard_error", "spectral_density", "spectral_outliers"} <= set(
        units
    )
    assert {(row.statistics, row.dtype) for row in rows} == {("batch", "float64"), ("running", "float64")}


def test_a_mode_that_makes_no_difference_is_measured_once() -> None:
    plain = _tracker().rows(0, alidade.Objective(_network(norm=False), cross_entropy, _batch()))
    assert [row.statistics for row in plain if row.quantity == "top_eigenvalue"] == ["none"]
    frozen = _trained(_network()).eval()
    rows = _tracker().rows(0, alidade.Objective(frozen, cross_entropy, _batch()))
    assert [row.statistics for row in rows if row.quantity == "top_eigenvalue"] == ["running"]


def test_running_statistics_that_no_batch_moved_are_refused_with_the_reason() -> None:
    objective = alidade.Objective(_network(), cross_entropy, _batch())
    rows = _tracker().rows(0, objective)
    assert np.isfinite(_values(rows, "top_eigenvalue")["batch"])
    (refused,) = [row for row in rows if row.status != "ok"]
    assert (refused.quantity, refused.statistics) == ("curvature", "running")
    assert "has tracked no batch" in refused.status
    assert np.isnan(refused.value)
    with pytest.raises(CallError, match="has tracked no batch"):
        _tracker(statistics=("running",)).rows(0, objective)


def test_layers_that_are_unfrozen_or_frozen_start_anew_and_say_that_they_lost() -> None:
    model, tracker, batch = _trained(_network(norm=False), steps=1), _tracker(k=2, looks=("eigenvalues",)), _batch()
    model[0].requires_grad_(False)
    optimizer = torch.optim.Adam(model.parameters())
    sharp = SpectrumTracker(CurvatureProbe(looks=("preconditioned",), max_matvecs=5))
    found = []
    for step, trained in enumerate((False, False, True, True, False)):
        model[0].requires_grad_(trained)
        optimizer.zero_grad()
        cross_entropy(model, batch).backward()
        optimizer.step()
        objective = alidade.Objective(model, cross_entropy, batch)
        rows = tracker.rows(step, objective)
        found.append(_values(rows, "top_eigenvalue_lost").get("none"))
        (value,) = _values(rows, "top_eigenvalue").values()
        assert value == pytest.approx(float(alidade.top_eigenvalues(objective).eigenvalues[0]), rel=1e-2)
        lost = _values(sharp.rows(step, objective, optimizer=optimizer), "preconditioned_sharpness_lost")
        assert (lost.get("none") == 1.0) == (step in (2, 4))
    assert found == [None, 0.0, 1.0, 0.0, 1.0]


def test_a_warm_start_is_cheap_where_the_eigenvector_stays() -> None:
    model = _trained(_network(norm=False), steps=1)
    warm, batch, spent = _tracker(), _batch(), {"warm": 0.0, "cold": 0.0}
    for step in range(6):
        for name, tracker in (("warm", warm), ("cold", _tracker())):
            rows = tracker.rows(step, alidade.Objective(model, cross_entropy, batch))
            spent[name] += (step > 0) * _values(rows, "top_eigenvalue_matvecs")["none"]
            assert _values(rows, "top_eigenvalue_lost") == ({"none": 0.0} if name == "warm" and step else {})
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.001)
    assert spent["warm"] < spent["cold"]


def test_eigenvectors_that_turned_away_are_said_to_be_lost() -> None:
    """The axes of a quadratic loss are exchanged between two probes."""
    model, tracker = nn.Linear(3, 1, bias=False).double(), _tracker()

    def loss(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        return model(batch).square().sum() / 2

    axes = torch.diag(torch.tensor([9.0, 2.0, 1.0])).double()
    for step, (batch, lost) in enumerate([(axes, {}), (axes, {"none": 0.0}), (axes.flip(0).flip(1), {"none": 1.0})]):
        rows = tracker.rows(step, alidade.Objective(model, loss, batch))
        assert _values(rows, "top_eigenvalue")["none"] == pytest.approx(81, rel=1e-4)  # the residual squared
        assert _values(rows, "top_eigenvalue_lost") == lost


def test_what_has_not_converged_says_so() -> None:
    objective = alidade.Objective(_trained(_network()), cross_entropy, _batch())
    rows = _tracker(max_matvecs=2, rtol=1e-9, looks=("eigenvalues", "gradient_overlap")).rows(0, objective)
    status = {row.quantity: row.status for row in rows}
    assert (status["top_eigenvalue"], status["gradient_overlap"]) == ("not_converged", "not_converged")


def test_names_tell_other_matrices_and_ends_of_the_spectrum_apart() -> None:
    model, batch = _trained(_network(norm=False)), _batch()
    pair = (lambda m, b: m(b[0]), lambda out, b: nn.functional.cross_entropy(out, b[1]))
    smallest = _tracker(which="smallest").rows(0, alidade.Objective(model, cross_entropy, batch))
    assert _values(smallest, "smallest_top_eigenvalue")["none"] == pytest.approx(
        np.linalg.eigvalsh(dense_hessian(model, cross_entropy, batch))[0], rel=1e-3
    )
    gauss_newton = _tracker(matrix="gauss_newton").rows(0, alidade.Objective(model, pair, batch))
    assert {"gauss_newton_top_eigenvalue", "gauss_newton_batch_sharpness"} <= {row.quantity for row in gauss_newton}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"looks": ()}, "looks"),
        ({"looks": ("eigenvalues", "eigenvalues")}, "looks must differ"),
        ({"looks": ("gradient_overlap",)}, "gradient_overlap needs eigenvalues"),
        ({"k": 0}, "k:"),
        ({"k": 9, "max_matvecs": 3}, "at least k = 9"),
        ({"rtol": 0.0}, "rtol"),
        ({"statistics": ("eval",)}, "statistics"),
    ],
)
def test_a_probe_that_cannot_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(CallError, match=message):
        CurvatureProbe(**options)


class _Training:
    """A loop of a user's own, that can be saved and restored."""

    def __init__(self, out: Path, optimizer: str = "SGD", **options: Any) -> None:
        self.model = _network()
        rate = {"lr": 0.01} if optimizer == "Adam" else {"lr": 0.05, "momentum": 0.5}
        self.optimizer = getattr(torch.optim, optimizer)(self.model.parameters(), **rate)
        arguments = {"probes": ["curvature"], "budget": None, "config": {"seed": 1}, "name": "mine"} | options
        self.survey = alidade.Survey(self.model, cross_entropy, self.optimizer, out, **arguments)

    def steps(self, first: int, last: int) -> None:
        for step in range(first, last):
            self.survey.observe(_batch(step))
            self.optimizer.zero_grad()
            cross_entropy(self.model, _batch(step)).backward()
            self.optimizer.step()

    def state(self) -> Any:
        buffer = io.BytesIO()
        parts = {"model": self.model, "optimizer": self.optimizer, "survey": self.survey}
        torch.save({name: part.state_dict() for name, part in parts.items()}, buffer)
        return torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)

    def restore(self, state: Any) -> None:
        for name, part in (("model", self.model), ("optimizer", self.optimizer), ("survey", self.survey)):
            part.load_state_dict(state[name])


def _measured(out: Path) -> pl.DataFrame:
    frame = alidade.load(out)
    return frame.filter(~pl.col("quantity").str.ends_with("_seconds")).sort("step", "statistics", "quantity")


def test_a_survey_has_it_by_name(tmp_path: Path) -> None:
    with (training := _Training(tmp_path / "s")).survey:
        training.steps(0, 3)
    frame = _measured(tmp_path / "s")
    first = frame.filter((pl.col("step") == 0) & (pl.col("statistics") == "running"))
    # Although the step has moved them before the probe looks.
    assert first["status"].str.contains("has tracked no batch").to_list() == [True]
    for step in (1, 2):
        ok = frame.filter((pl.col("step") == step) & (pl.col("status") == "ok"))
        for quantity in (
            "top_eigenvalue",
            "batch_sharpness",
            "step_sharpness",
            *(["top_eigenvalue_lost"] * (step - 1)),
        ):
            assert sorted(ok.filter(pl.col("quantity") == quantity)["statistics"]) == ["batch", "running"]


def test_it_measures_where_the_step_started(tmp_path: Path) -> None:
    """The eigenvalue at step 2 is that of the parameters and the batch of step 2, before it."""
    with (training := _Training(tmp_path / "s")).survey:
        training.steps(0, 2)
        hessian = dense_hessian(training.model, cross_entropy, _batch(2))
        training.steps(2, 3)
    at = _measured(tmp_path / "s").filter(pl.col("step") == 2, pl.col("statistics") == "batch")
    found = at.filter(pl.col("quantity") == "top_eigenvalue")["value"].item()
    assert found == pytest.approx(np.linalg.eigvalsh(hessian)[-1], rel=1e-3)  # residual 1e-2: its square over the gap


def test_a_resumed_survey_keeps_its_warm_starts(tmp_path: Path) -> None:
    """Rows, matvecs among them, are those of the run that was not interrupted."""
    plain, first, second = (_Training(tmp_path / name) for name in ("plain", "s", "s2"))
    plain.steps(0, 8)
    first.steps(0, 4)
    second.restore(first.state())
    second.steps(4, 8)
    for training in (plain, first, second):
        training.survey.close()
    expected = _measured(tmp_path / "plain").filter(pl.col("step") >= 4)
    assert _measured(tmp_path / "s2").equals(expected, null_equal=True)
    assert "top_eigenvalue_lost" in expected.filter(pl.col("step") == 4)["quantity"].to_list()


def test_the_optimizers_own_view_of_the_curvature(tmp_path: Path) -> None:
    """With Adam the preconditioner is that of the step just taken; plain descent has none and says so."""
    probe = CurvatureProbe(looks=("preconditioned",), statistics=("own",), rtol=1e-6, schedule=Every(interval=1))
    training = _Training(tmp_path / "adam", "Adam", probes=probe)
    start = copy.deepcopy(training.model)
    training.steps(0, 1)
    objective = alidade.Objective(start, cross_entropy, _batch(0))
    hessian = dense_hessian(start, cross_entropy, _batch(0))
    scale = torch.cat([g.abs().reshape(-1) + 1e-8 for g in objective.gradient().values()]).numpy()
    precondition = 1 / np.sqrt(
        0.1 * scale
    )  # after one step v / (1 - beta_2) is the squared gradient, 1 - beta_1 is 0.1
    expected = np.linalg.eigvalsh(precondition[:, None] * hessian * precondition)[-1]
    training.survey.close()
    rows = _measured(tmp_path / "adam").filter(pl.col("quantity") == "preconditioned_sharpness")
    assert rows["value"].item() == pytest.approx(expected, rel=1e-5)
    assert rows["unit"].item() == "1/lr"

    plain = _Training(tmp_path / "sgd", probes=probe)
    with pytest.warns(UserWarning, match="expected one of Adam, AdamW, RMSprop, got SGD"), plain.survey:
        plain.steps(0, 1)
    assert "got SGD" in _measured(tmp_path / "sgd")["status"].item()


def test_a_loss_that_overflows_has_a_row_with_the_reason() -> None:
    model = _trained(_network(norm=False))
    with torch.no_grad():
        model[-1].weight.fill_(float("inf"))
    with pytest.raises(RefusedError, match="finite"):
        _tracker().rows(0, alidade.Objective(model, cross_entropy, _batch(), check_deterministic=False))
