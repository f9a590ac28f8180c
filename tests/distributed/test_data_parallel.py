"""Under DistributedDataParallel every number is that of the mean of all processes' losses.

Two witnesses that share nothing with the reduction: one process on the concatenated batch, where nothing in the network
depends on how it is divided; and one process that runs each process's batch by itself and takes the mean, where
batch statistics do.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.distributed.cases import (
    criterion,
    cross_entropy,
    forward,
    mean_of_losses,
    measured,
    model_named,
    own_batch,
    shift_measured,
    synchronized,
    whole_batch,
)
from tests.distributed.processes import World
from torch import distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import alidade
from alidade.errors import RefusedError
from alidade.landscape.ranks import ProcessRanks

#: Sums of some hundred numbers of size 1 in another order, through three layers and a division: a few hundred
#: roundings of float64. Eigenvalues are converged to 1e-8, the trace's probe vectors are the same.
ROUNDING = 1e-12
LOOSER = {"eigenvalues": 1e-7}


def assert_close(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert list(found) == list(expected)
    for name, value in found.items():
        if isinstance(value, tuple):
            assert value == expected[name]
            continue
        scale = max(1.0, float(expected[name].abs().nan_to_num().max()))
        error = (value - expected[name]).abs().nan_to_num().max()
        assert float(error) < LOOSER.get(name, ROUNDING) * scale, name


def assert_same_bits(found: list[dict[str, Any]]) -> None:
    for other in found[1:]:
        for name, value in found[0].items():
            same = value == other[name] if isinstance(value, tuple) else np.array_equal(value, other[name], True)
            assert same, name


def wrapped(name: str, dtype: torch.dtype = torch.float64, **options: Any) -> DistributedDataParallel:
    return DistributedDataParallel(model_named(name, dtype), **options)


def _everything(rank: int, size: int, name: str) -> dict[str, Any]:
    return measured(wrapped(name), cross_entropy, own_batch(rank, size))


@pytest.mark.parametrize(
    ("name", "world"), [("plain", "two"), ("plain", "four"), ("layer_norm", "two"), ("convolutions", "four")]
)
def test_equal_to_one_process_on_the_concatenated_batch(name: str, world: str, request: pytest.FixtureRequest) -> None:
    used: World = request.getfixturevalue(world)
    found = used.run(_everything, name)
    assert_same_bits(found)
    assert_close(found[0], measured(model_named(name), cross_entropy, whole_batch(used.size)))


@pytest.mark.parametrize("world", ["two", "four"])
def test_batch_norm_of_each_process_has_statistics_of_its_own(world: str, request: pytest.FixtureRequest) -> None:
    used: World = request.getfixturevalue(world)
    found = used.run(_everything, "batch_norm")
    assert_same_bits(found)
    batches = [own_batch(rank, used.size) for rank in range(used.size)]
    assert_close(found[0], measured(model_named("batch_norm"), mean_of_losses, batches))
    together = measured(model_named("batch_norm"), cross_entropy, whole_batch(used.size))
    assert (together["gradient 0.weight"] - found[0]["gradient 0.weight"]).abs().max() > 1e-2  # another function


def _synchronized(rank: int, size: int) -> dict[str, Any]:
    model = synchronized(wrapped("batch_norm"))
    found = measured(model, cross_entropy, own_batch(rank, size))
    assert not any("forward" in vars(module) for module in model.modules())
    norms = [module for module in model.modules() if isinstance(module, nn.SyncBatchNorm)]
    assert [int(norm.num_batches_tracked) for norm in norms] == [0, 0]
    return found


@pytest.mark.parametrize("world", ["two", "four"])
def test_synchronized_batch_norm_equals_one_process(world: str, request: pytest.FixtureRequest) -> None:
    used: World = request.getfixturevalue(world)
    found = used.run(_synchronized)
    assert_same_bits(found)
    assert_close(found[0], measured(model_named("batch_norm"), cross_entropy, whole_batch(used.size)))


def _shift(rank: int, size: int, name: str, together: bool) -> dict[str, Any]:
    model = synchronized(wrapped(name)) if together else wrapped(name)
    return shift_measured(model, cross_entropy, own_batch(rank, size))


@pytest.mark.parametrize("name", ["plain", "layer_norm"])
def test_covariate_shift_equals_one_process(name: str, two: World) -> None:
    found = two.run(_shift, name, False)
    assert_same_bits(found)
    assert_close(found[0], shift_measured(model_named(name), cross_entropy, whole_batch(2)))


def test_covariate_shift_with_synchronized_statistics(two: World) -> None:
    found = two.run(_shift, "batch_norm", True)
    assert_same_bits(found)
    assert_close(found[0], shift_measured(model_named("batch_norm"), cross_entropy, whole_batch(2)))


def test_covariate_shift_with_statistics_of_each_process(two: World) -> None:
    found = two.run(_shift, "batch_norm", False)
    assert_same_bits(found)
    batches = [own_batch(rank, 2) for rank in range(2)]
    assert_close(found[0], shift_measured(model_named("batch_norm"), mean_of_losses, batches))


def _activations(rank: int, size: int) -> dict[str, Any]:
    found = alidade.activation_statistics(wrapped("plain"), cross_entropy, own_batch(rank, size))
    return {f"{layer} {name}": value for layer in found.layers for name, value in found[layer].numbers().items()}


def test_activations_are_those_of_all_processes(four: World) -> None:
    found = four.run(_activations)
    assert all(each == found[0] for each in found)
    one = alidade.activation_statistics(model_named("plain"), cross_entropy, whole_batch(4))
    for layer in one.layers:
        for name, value in one[layer].numbers().items():
            assert found[0][f"{layer} {name}"] == pytest.approx(value, rel=1e-12, abs=1e-12)


def _gauss_newton(rank: int, size: int) -> float:
    objective = alidade.Objective(wrapped("layer_norm"), (forward, criterion), own_batch(rank, size))
    return float(alidade.top_eigenvalues(objective, matrix="gauss_newton", rtol=1e-8).eigenvalues[0])


def test_gauss_newton_equals_one_process(two: World) -> None:
    one = alidade.Objective(model_named("layer_norm"), (forward, criterion), whole_batch(2))
    expected = alidade.top_eigenvalues(one, matrix="gauss_newton", rtol=1e-8).eigenvalues[0]
    assert two.run(_gauss_newton) == [pytest.approx(expected, rel=1e-7)] * 2


def _uneven(rank: int, size: int) -> list[float]:
    """The last process has its batch in one piece, the others in two."""
    x, y = own_batch(rank, size)
    parts = [(x, y)] if rank == size - 1 else [(x[:1], y[:1]), (x[1:], y[1:])]
    objective = alidade.Objective(wrapped("layer_norm"), (forward, criterion), alidade.Batches(parts))
    top = alidade.top_eigenvalues(objective, rtol=1e-8)
    newton = alidade.top_eigenvalues(objective, matrix="gauss_newton", rtol=1e-8)
    return [float(top.eigenvalues[0]), float(newton.eigenvalues[0]), alidade.batch_sharpness(objective).value]


def test_processes_with_other_numbers_of_batches_go_the_same_way(two: World) -> None:
    one = alidade.Objective(model_named("layer_norm"), (forward, criterion), whole_batch(2))
    expected = [
        float(alidade.top_eigenvalues(one, rtol=1e-8).eigenvalues[0]),
        float(alidade.top_eigenvalues(one, matrix="gauss_newton", rtol=1e-8).eigenvalues[0]),
        alidade.batch_sharpness(one).value,
    ]
    assert two.run(_uneven) == [pytest.approx(expected, rel=1e-7)] * 2


def _running(rank: int, size: int, shared: bool) -> float:
    model = wrapped("batch_norm", broadcast_buffers=shared)
    for step in range(3):
        cross_entropy(model, own_batch(rank, size, step=step)).backward()
    with torch.no_grad():
        expected = cross_entropy(model.eval(), own_batch(rank, size))
    dist.all_reduce(expected)
    found = alidade.Objective(model, cross_entropy, own_batch(rank, size), statistics="running").value()
    assert float(found) == pytest.approx(float(expected) / size, rel=1e-13)
    return float(found)


def test_running_statistics_are_those_that_the_wrapper_would_use(two: World) -> None:
    shared, own = two.run(_running, True), two.run(_running, False)
    assert shared[0] == shared[1]
    assert own[0] == own[1]
    assert abs(shared[0] - own[0]) > 1e-6  # processes really had other statistics


def _provenance(rank: int, size: int) -> tuple[int, int | None, str]:
    found = alidade.line_profile(
        alidade.Objective(wrapped("batch_norm"), cross_entropy, own_batch(rank, size)), [0.1]
    ).provenance
    return found.ranks, found.batch_size, found.statistics


def test_provenance_says_over_what_the_statistics_are_taken(two: World) -> None:
    assert two.run(_provenance) == [(2, 6, "batch")] * 2


def _fails(rank: int, size: int) -> list[str]:
    model, said = wrapped("batch_norm"), []

    def broken(model: nn.Module, batch: Any) -> torch.Tensor:
        if rank == 1:
            raise ZeroDivisionError("on purpose")
        return cross_entropy(model, batch)

    for each in (model, synchronized(wrapped("batch_norm"))):
        objective = alidade.Objective(each, broken, own_batch(rank, size))
        for measure in (
            objective.value, objective.gradient, lambda o=objective: alidade.top_eigenvalues(o),
            lambda o=objective: alidade.line_profile(o, [0.1]),
        ):  # fmt: skip
            with pytest.raises(RefusedError) as caught:
                measure()
            said.append(str(caught.value))
    said.append(f"{float(alidade.Objective(model, cross_entropy, own_batch(rank, size)).value()):.3f}")
    return said


def test_a_loss_that_fails_in_one_process_fails_in_all(two: World) -> None:
    first, second = two.run(_fails)
    assert first == second
    assert first[:-1] == ["process 1 of 2 failed: on purpose"] * 8


def _empty(rank: int, size: int) -> str:
    batch = own_batch(rank, size)
    if rank == 1:
        batch = (batch[0][:0], batch[1][:0])
    with pytest.raises(RefusedError) as caught:
        alidade.Objective(wrapped("plain"), cross_entropy, batch)
    return str(caught.value)


def test_an_empty_batch_in_one_process_is_refused_in_all(two: World) -> None:
    first, second = two.run(_empty)
    assert first == second
    assert "process 1 of 2 failed: batch: expected" in first


def _one_process_only(rank: int, size: int) -> list[str]:
    from alidade.probes.theorem import lipschitz_reduction

    model, said = wrapped("batch_norm"), []
    objective = alidade.Objective(model, cross_entropy, own_batch(rank, size))
    for refused in (
        lambda: lipschitz_reduction(objective),
        lambda: alidade.loss_surface(objective, "random", points=3, out="never-written"),
        lambda: alidade.Objective(nn.Sequential(wrapped("plain")), cross_entropy, own_batch(rank, size)),
        lambda: alidade.interpolate(model, cross_entropy, own_batch(rank, size), *[model.module.state_dict()] * 2),
    ):
        with pytest.raises(RefusedError) as caught:
            refused()
        said.append(str(caught.value))
    return said


def test_what_is_no_mean_over_processes_is_refused(two: World) -> None:
    theorem, surface, inside, between = two.run(_one_process_only)[0]
    assert "expected one process, got 2" in theorem
    assert "expected one process, got 2" in surface
    assert "expected DistributedDataParallel around the whole model, got it around '0'" in inside
    assert "interpolate: expected one process, got 2" in between


def _own(rank: int, size: int) -> float:
    return float(alidade.Objective(wrapped("plain").module, cross_entropy, own_batch(rank, size)).value())


def test_the_network_inside_the_wrapper_is_this_process_alone(two: World) -> None:
    for rank, found in enumerate(two.run(_own)):
        assert found == float(alidade.Objective(model_named("plain"), cross_entropy, own_batch(rank, 2)).value())


def _own_reduction(rank: int, size: int) -> list[float]:
    """Without a wrapper, for processes that are kept together in some way of one's own."""
    ranks = ProcessRanks(dist.group.WORLD, torch.device("cpu"))
    objective = alidade.Objective(model_named("plain"), cross_entropy, own_batch(rank, size), ranks=ranks)
    return [float(objective.value()), float(objective.gradient()["0.weight"].norm())]


def test_a_reduction_can_be_passed_in(two: World) -> None:
    one = alidade.Objective(model_named("plain"), cross_entropy, whole_batch(2))
    expected = [float(one.value()), float(one.gradient()["0.weight"].norm())]
    assert two.run(_own_reduction) == [pytest.approx(expected, rel=ROUNDING)] * 2
