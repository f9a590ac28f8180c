"""loss_surface against closed forms on quadratics, a naive twin, and its own promises about files."""

from __future__ import annotations

import copy
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.cases import CASES, Case
from tests.reference import surface as twin
from torch import nn

from alidade import Objective, loss_surface
from alidade.core.surface import LossSurface
from alidade.errors import CallError, RefusedError, WorkError
from alidade.landscape.planes import filter_normalized, random_plane
from alidade.landscape.sweep import PlaneSweep, Points

HESSIAN = torch.tensor([[4.0, 1.0, 0.0], [1.0, 3.0, 0.5], [0.0, 0.5, 2.0]]).double()
CASES_BY_NAME = {case.name: case for case in CASES}


class _Point(nn.Module):
    def __init__(self, at: list[float]) -> None:
        super().__init__()
        self.at = nn.Parameter(torch.tensor(at, dtype=torch.float64))

    def forward(self, hessian: torch.Tensor) -> torch.Tensor:
        return self.at @ hessian @ self.at / 2


def _quadratic(at: list[float]) -> Objective:
    return Objective(_Point(at), lambda model, hessian: model(hessian), HESSIAN)


def _state(*at: float) -> dict[str, torch.Tensor]:
    return {"at": torch.tensor(at, dtype=torch.float64)}


def _value(at: Any) -> float:
    w = np.asarray(at)
    return float(w @ HESSIAN.numpy() @ w / 2)


def test_a_quadratic_is_an_exact_paraboloid() -> None:
    start, d1, d2 = np.array([1.0, -2.0, 0.5]), np.array([1.0, 0.5, 0.0]), np.array([0.0, -1.0, 2.0])
    surface = loss_surface(_quadratic([*start]), (_state(*d1), _state(*d2)), extent=((-1, 2), (0, 3)), points=(7, 4))
    assert surface.losses.shape == (7, 4)
    assert surface.losses.dtype == np.float64
    np.testing.assert_array_equal(surface.x, np.linspace(-1, 2, 7))
    expected = [[_value(start + a * d1 + b * d2) for b in surface.y] for a in surface.x]
    # about 30 operations of relative error 1.1e-16 each
    np.testing.assert_allclose(surface.losses, expected, rtol=1e-14)
    assert surface.loss == pytest.approx(_value(start), rel=1e-14)
    assert surface.direction_norms == pytest.approx((np.linalg.norm(d1), np.linalg.norm(d2)))
    assert surface.cosine == pytest.approx(d1 @ d2 / np.linalg.norm(d1) / np.linalg.norm(d2))
    i, j = np.unravel_index(np.argmin(expected), (7, 4))
    assert surface.lowest == (surface.x[i], surface.y[j], surface.losses[i, j])
    assert surface.status.tolist() == [["ok"] * 4] * 7


def test_the_plane_through_three_checkpoints_hits_their_losses() -> None:
    points = [(1.0, 2.0, 3.0), (0.0, -1.0, 1.0), (2.0, 2.0, -1.0)]
    surface = loss_surface(_quadratic([9.0, 9.0, 9.0]), [_state(*p) for p in points], points=5)
    a, b, c = map(np.array, points)
    first = (b - a) / np.linalg.norm(b - a)
    second = (c - a) - first * ((c - a) @ first)
    second /= np.linalg.norm(second)
    expected = [(0, 0), (np.linalg.norm(b - a), 0), ((c - a) @ first, (c - a) @ second)]
    np.testing.assert_allclose(surface.trajectory, expected, atol=1e-14)
    np.testing.assert_allclose(surface.off_plane, 0, atol=1e-14)
    np.testing.assert_allclose(surface.trajectory_losses, [_value(p) for p in points], rtol=1e-14)
    on_plane = [_value(a + x * first + y * second) for x, y in surface.trajectory]
    np.testing.assert_allclose(on_plane, surface.trajectory_losses, rtol=1e-13)
    # and the grid itself passes through the second of them when its corner is put there
    corner = surface.trajectory[1]
    again = loss_surface(
        _quadratic([0.0] * 3), [_state(*p) for p in points], extent=((-1, corner[0]), (corner[1], 1)), points=2
    )
    assert again.losses[1, 0] == pytest.approx(_value(b), rel=1e-13)
    assert surface.x[0] < 0 < expected[1][0] < surface.x[-1]


def test_principal_components_are_those_of_the_centred_trajectory() -> None:
    generator = np.random.default_rng(0)
    path = np.cumsum(generator.normal(size=(9, 3)) * [3.0, 1.0, 0.1], axis=0)
    surface = loss_surface(_quadratic([0.0] * 3), "pca", points=3, trajectory=[_state(*p) for p in path])
    _, values, axes = np.linalg.svd(path - path.mean(0))
    share = values**2 / np.sum(values**2)
    np.testing.assert_allclose(surface.explained_variance, share[:2], rtol=1e-12)
    coordinates = (path - path[-1]) @ axes[:2].T
    coordinates *= np.sign(coordinates[0])
    np.testing.assert_allclose(surface.trajectory, coordinates, atol=1e-12)
    np.testing.assert_allclose(surface.off_plane, np.abs((path - path[-1]) @ axes[2]), atol=1e-12)
    np.testing.assert_allclose(surface.trajectory_losses, [_value(p) for p in path], rtol=1e-13)
    assert surface.trajectory[-1].tolist() == [0.0, 0.0]
    assert surface.loss == surface.trajectory_losses[-1]


def _built(name: str) -> tuple[Any, Any, Any]:
    torch.manual_seed(3)
    return CASES_BY_NAME[name].build()


@pytest.mark.parametrize(
    "name", ["smooth", "batch_norm", "dropout", "noisy_vgg", "recurrent", "bounded_embedding", "remembering"]
)
def test_the_grid_is_that_of_the_naive_twin(name: str) -> None:
    model, loss_fn, batch = _built(name)
    objective = Objective(model, loss_fn, batch)
    origin = {n: p.clone() for n, p in objective.parameters.items()}
    plane = random_plane(model, origin, "filter", seed=5)
    surface = loss_surface(objective, extent=0.4, points=3, seed=5)
    expected = twin.surface(model, loss_fn, batch, origin, plane.first, plane.second, surface.x, surface.y)
    eps = torch.finfo(next(model.parameters()).dtype).eps
    # both round a point twice; a loss of order 1 follows with a few hundred roundings at most
    np.testing.assert_allclose(surface.losses, expected, rtol=1e3 * eps)
    assert surface.losses[1, 1] == surface.loss
    assert surface.provenance.statistics == objective.statistics


class _Greedy(nn.Module):
    """Its loss function empties what it is given: the batch is not what it was."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        loss = self.linear(x).square().mean()
        x.zero_()
        return loss


def _greedy() -> tuple[Any, Any, Any]:
    torch.manual_seed(0)
    return _Greedy(), lambda model, x: model(x), torch.randn(8, 5)


@pytest.mark.parametrize(
    ("name", "together"),
    [("batch_norm", True), ("smooth", True), ("bounded_embedding", True), ("checkpointed", True), ("dropout", False),
     ("remembering", False), ("own_generator", False), ("growing", False), ("greedy", False)],
)  # fmt: skip
def test_points_in_a_block_have_the_bits_of_points_alone(name: str, together: bool) -> None:
    """And a network that could carry something from one point to the next gets each of them by itself."""
    model, loss_fn, batch = _greedy() if name == "greedy" else _built(name)
    objective = Objective(model, loss_fn, batch)
    plane = random_plane(model, {n: p.clone() for n, p in objective.parameters.items()}, "raw", seed=1)
    at = [(0.1, -0.2), (0.1, 0.0), (0.1, 0.1), (0.2, 0.3)]
    points = Points(plane)
    alone = [float(objective.value(points.move(x, y))) for x, y in at]
    assert len(set(alone)) == 4
    with objective.repeated():
        sweep = PlaneSweep(objective, plane)
        assert sweep.losses(at) == (alone if together else alone[:1])
        assert sweep.losses(at[1:]) == (alone[1:] if together else alone[1:2])


def test_filters_are_normalized_as_by_explicit_loops() -> None:
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Flatten(), nn.Linear(20, 4)).double()
    with torch.no_grad():
        model[0].weight[2].zero_()  # a filter of norm 0 rests
    generator = torch.Generator().manual_seed(1)
    draws = {n: torch.randn(p.shape, generator=generator, dtype=torch.float64) for n, p in model.named_parameters()}
    draws["3.weight"][1] = 0.0
    weights = {n: p.detach() for n, p in model.named_parameters()}
    found = filter_normalized(model, weights, draws)
    expected = twin.filter_normalized(
        {n: w.numpy() for n, w in weights.items()}, {n: d.numpy() for n, d in draws.items()}
    )
    for name, value in found.items():
        np.testing.assert_allclose(value.numpy(), expected[name], rtol=1e-14)
    assert not found["0.weight"][2].any()
    assert not found["0.bias"].any()
    assert not found["1.weight"].any()
    plane = random_plane(model, weights, "filter", seed=0)
    norms = plane.first["0.weight"].flatten(1).norm(dim=1)
    torch.testing.assert_close(norms, weights["0.weight"].flatten(1).norm(dim=1))


def test_raw_random_directions_are_as_long_as_the_parameters() -> None:
    surface = loss_surface(_quadratic([3.0, 0.0, 4.0]), normalize="raw", points=2)
    assert surface.direction_norms == pytest.approx((5.0, 5.0))
    assert (surface.normalize, surface.provenance.coordinates) == ("raw", "raw")


def test_a_seed_makes_the_plane_and_the_global_state_does_not() -> None:
    model, loss_fn, batch = _built("smooth")
    found = []
    for seed in (1, 1, 2):
        torch.rand(3)
        found.append(loss_surface(Objective(model, loss_fn, batch), points=2, seed=seed).losses)
    assert np.array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])


def test_what_is_not_finite_is_recorded() -> None:
    objective = Objective(_Point([1.0, 1.0, 1.0]), lambda model, _: model.at.log().sum(), 0)
    surface = loss_surface(objective, (_state(1, 0, 0), _state(0, 1, 0)), extent=2.0, points=5)
    assert [[status == "ok" for status in row] for row in surface.status] == [
        [a > -1 and b > -1 for b in surface.y] for a in surface.x
    ]
    assert np.isfinite(surface.lowest).all()


def test_other_trajectories_are_projected() -> None:
    surface = loss_surface(
        _quadratic([1.0, 1.0, 1.0]),
        (_state(1, 0, 0), _state(1, 1, 0)),  # not orthogonal
        points=2,
        trajectory=[_state(3, 2, 1), _state(1, 1, 5)],
    )
    np.testing.assert_allclose(surface.trajectory, [[1, 1], [0, 0]], atol=1e-14)
    np.testing.assert_allclose(surface.off_plane, [0, 4], atol=1e-14)


def test_state_dictionaries_of_the_model_serve_as_well() -> None:
    model, loss_fn, batch = _built("batch_norm")
    states = []
    for scale in (1.0, 1.1, 1.3):
        state = {name: value.clone() for name, value in model.state_dict().items()}
        state["0.weight"] *= scale
        state["3.bias"] += scale**2
        states.append(state)
    surface = loss_surface(Objective(model, loss_fn, batch), states, points=3)
    expected = [twin.loss_at(model, loss_fn, batch, state) for state in states]
    np.testing.assert_allclose(surface.trajectory_losses, expected, rtol=1e-12)


# --- files -----------------------------------------------------------------------------------------------------


def _same(first: LossSurface, second: LossSurface) -> None:
    for name in ("x", "y", "losses", "trajectory", "trajectory_losses", "off_plane"):
        assert getattr(first, name).tobytes() == getattr(second, name).tobytes(), name
    assert first.loss == second.loss


class _Stop(KeyboardInterrupt):
    pass


def _counting(objective: Objective, stop_after: int | None = None) -> tuple[Objective, list[int]]:
    calls: list[int] = []
    loss_fn = objective.loss_fn

    def counted(model: Any, batch: Any) -> Any:
        if stop_after is not None and len(calls) == stop_after:
            raise _Stop
        calls.append(1)
        return loss_fn(model, batch)

    return Objective(objective.model, counted, objective.batch), calls


def test_an_interrupted_surface_goes_on_where_it_stopped(tmp_path: Path) -> None:
    objective = _quadratic([1.0, 2.0, 3.0])
    wanted = loss_surface(objective, normalize="raw", points=4, trajectory=[_state(1, 1, 1)])
    first, _ = _counting(objective, stop_after=9)  # the check, the origin, seven points
    with pytest.raises(_Stop):
        loss_surface(first, normalize="raw", points=4, trajectory=[_state(1, 1, 1)], out=tmp_path / "s")
    second, calls = _counting(objective)
    seen: list[tuple[int, int]] = []
    found = loss_surface(
        second, normalize="raw", points=4, trajectory=[_state(1, 1, 1)], out=tmp_path / "s",
        progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    _same(found, wanted)
    assert len(calls) == 2 + (16 - 7) + 1
    assert seen == [(k + 1, 16) for k in range(16)]
    third, calls = _counting(objective)
    _same(loss_surface(third, normalize="raw", points=4, trajectory=[_state(1, 1, 1)], out=tmp_path / "s"), wanted)
    assert len(calls) == 2


_KILLED = """
import os, sys, torch
sys.path.insert(0, {project!r})
from tests.cases import CASES
from alidade import Objective, loss_surface
torch.set_num_threads(1)
torch.manual_seed(3)
model, loss_fn, batch = next(case for case in CASES if case.name == "batch_norm").build()
def progress(done, total):
    if done == 5:
        os.kill(os.getpid(), 9)
loss_surface(Objective(model, loss_fn, batch), points=3, out=sys.argv[1], progress=progress)
"""


def test_a_killed_process_loses_nothing_that_it_measured(tmp_path: Path) -> None:
    project = str(Path(__file__).resolve().parents[2])
    out = tmp_path / "surface.jsonl"
    done = subprocess.run([sys.executable, "-c", _KILLED.format(project=project), str(out)], check=False)
    assert done.returncode == -9
    model, loss_fn, batch = _built("batch_norm")
    objective, calls = _counting(Objective(model, loss_fn, batch))
    found = loss_surface(objective, points=3, out=out)
    assert len(calls) == 2  # all of the block had been measured
    _same(found, loss_surface(objective, points=3))


@pytest.mark.parametrize("cut", [1, 7, 30, 10_000])
def test_a_torn_file_is_mended(tmp_path: Path, cut: int) -> None:
    """Whatever is left of the file, down to half of its first line."""
    out = tmp_path / "s"
    objective = Objective(_Point([1.0, 1.0, 1.0]), lambda model, _: model.at.log().sum(), 0)  # NaN among the losses
    plane = (_state(1, 0, 0), _state(0, 1, 0))
    wanted = loss_surface(objective, plane, extent=2.0, points=3, out=out)
    whole = out.read_bytes()
    out.write_bytes(whole[: max(20, len(whole) - cut)])
    _same(loss_surface(objective, plane, extent=2.0, points=3, out=out), wanted)
    _same(loss_surface(objective, plane, extent=2.0, points=3, out=out), wanted)


def test_no_damage_to_the_file_is_read_as_a_loss(tmp_path: Path) -> None:
    """Flipped bits and cuts: the same surface comes out, or, where the first line is hit, a refusal."""
    out, how = tmp_path / "s", random.Random(5)
    objective = Objective(_Point([1.0, 1.0, 1.0]), lambda model, _: model.at.log().sum(), 0)  # NaN among the losses
    plane = (_state(1, 0, 0), _state(0, 1, 0))
    wanted = loss_surface(objective, plane, extent=2.0, points=3, out=out)
    whole, head = out.read_bytes(), out.read_bytes().index(b"\n")
    for _ in range(150):
        data = bytearray(whole)
        data[how.randrange(head + 1, len(data))] ^= 1 << how.randrange(8)
        out.write_bytes(data[: how.randrange(head + 1, len(data))] if how.random() < 0.3 else data)
        _same(loss_surface(objective, plane, extent=2.0, points=3, out=out), wanted)
    for place in range(0, head, 7):
        out.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(CallError, match="expected the file of this measurement"):
            loss_surface(objective, plane, extent=2.0, points=3, out=out)
    with pytest.raises(CallError, match="out: expected the path of a file, got 5"):
        loss_surface(objective, plane, points=3, out=5)


def test_a_file_of_another_surface_is_refused_and_not_touched(tmp_path: Path) -> None:
    out = tmp_path / "s"
    loss_surface(_quadratic([1.0, 2.0, 3.0]), normalize="raw", points=3, out=out)
    before = out.read_bytes()
    with pytest.raises(CallError, match=r"expected the file of this measurement, got another; .* name a new file"):
        loss_surface(_quadratic([1.0, 2.0, 3.0]), normalize="raw", points=4, out=out)
    with pytest.raises(CallError, match="expected the file of this measurement"):
        loss_surface(_quadratic([1.0, 2.0, 4.0]), normalize="raw", points=3, out=out)
    other = Objective(_Point([1.0, 2.0, 3.0]), lambda model, hessian: model(hessian), 2 * HESSIAN)
    with pytest.raises(CallError, match=r"whose loss at the origin is 44\.0, got one with 22\.0"):
        loss_surface(other, normalize="raw", points=3, out=out)
    text = tmp_path / "notes.txt"
    text.write_text(json.dumps({"mine": 1}) + "\n")
    with pytest.raises(CallError, match="expected the file of this measurement"):
        loss_surface(other, normalize="raw", points=3, out=text)
    assert text.read_text() == '{"mine": 1}\n'
    assert out.read_bytes() == before


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(WorkError, match=r"expected a file that can be written, got: No such file or directory"):
        loss_surface(_quadratic([1.0, 2.0, 3.0]), normalize="raw", points=3, out=tmp_path / "missing" / "s")
    with pytest.raises(WorkError, match=r"expected a file that can be read, got: Is a directory"):
        loss_surface(_quadratic([1.0, 2.0, 3.0]), normalize="raw", points=3, out=tmp_path)


# --- bad input -------------------------------------------------------------------------------------------------

A, B = _state(1, 0, 0), _state(0, 1, 0)
NAN = _state(float("nan"), 0, 0)

BAD: dict[str, tuple[dict[str, Any], str]] = {
    "name": ({"directions": "hessian"}, "directions: expected None, 'random', 'pca', a pair .* got 'hessian'"),
    "one": ({"directions": [A]}, "directions: expected .* got a list of 1"),
    "number": ({"directions": 3}, "directions: expected .* got 3"),
    "parallel": ({"directions": [A, _state(-2, 0, 0)]}, "expected two that span a plane, got lengths 1 and 2 on one"),
    "zero": ({"directions": [A, _state(0, 0, 0)]}, "expected two that span a plane, got lengths 1 and 0"),
    "nan direction": ({"directions": [A, NAN]}, r"directions\[1\]\['at'\]: expected finite numbers"),
    "names": ({"directions": [A, {"x": B["at"]}]}, r"directions\[1\]: expected one tensor per trainable .*missing"),
    "shape": ({"directions": [A, {"at": torch.ones(2).double()}]}, r"directions\[1\]\['at'\]: expected shape \(3,\)"),
    "no trajectory": ({"directions": "pca"}, "trajectory: expected three states or more for directions='pca', got 0"),
    "line": ({"directions": "pca", "trajectory": [A, A, A]}, "trajectory: expected states that span a plane"),
    "checkpoints": ({"directions": [A, B, _state(0.5, 0.5, 0)]}, "expected three checkpoints that span a plane"),
    "equal": ({"directions": [A, A, B]}, "expected three checkpoints that span a plane"),
    "state": ({"trajectory": [{"x": B["at"]}]}, r"trajectory\[0\]: expected the model's own keys"),
    "nan state": ({"directions": [A, B, NAN]}, r"directions\[2\]\['at'\]: expected finite numbers"),
    "a state": ({"trajectory": A}, "trajectory: expected a list of state dictionaries"),
    "normalize": ({"normalize": "layer"}, "normalize: expected 'filter', 'raw' or None, got 'layer'"),
    "missed": ({"directions": [A, B, _state(1, 1, 1)], "normalize": "filter"}, "it would miss them"),
    "extent": ({"extent": -1.0}, r"extent: expected a positive number or .* got -1\.0"),
    "extents": ({"extent": ((0, 1), (1, 1))}, "extent: expected a positive number"),
    "nan extent": ({"extent": float("nan")}, "extent: expected a positive number"),
    "points": ({"points": 1}, "points: expected a whole number from 2, or a pair of them, got 1"),
    "half": ({"points": (3, 2.5)}, "points: expected a whole number"),
    "progress": ({"progress": 3}, r"progress: expected a function of \(done, total\), got 3"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(case: str) -> None:
    arguments, message = BAD[case]
    with pytest.raises(CallError, match=message) as caught:
        loss_surface(_quadratic([1.0, 2.0, 3.0]), **{"normalize": "raw", "points": 2, **arguments})
    assert "\n" not in str(caught.value)


def test_what_would_mean_nothing_is_refused() -> None:
    with pytest.raises(RefusedError, match="normalize='filter': expected weights with a nonzero filter, got none"):
        loss_surface(_quadratic([1.0, 2.0, 3.0]))
    count = iter(range(100))
    moody = Objective(_Point([1.0, 2.0, 3.0]), lambda model, h: model(h) + next(count), HESSIAN)
    with pytest.raises(RefusedError, match="expected the same loss twice"):
        loss_surface(moody, normalize="raw", points=2)


def test_the_objective_itself_stands_where_it_stood() -> None:
    case: Case = CASES_BY_NAME["batch_norm"]
    torch.manual_seed(0)
    model, loss_fn, batch = case.build()
    objective = Objective(model, loss_fn, batch)
    before = objective.value()
    moved = copy.deepcopy(model.state_dict())
    for value in moved.values():
        value.mul_(2)
    loss_surface(objective, points=2, trajectory=[moved])
    assert objective.value() == before
