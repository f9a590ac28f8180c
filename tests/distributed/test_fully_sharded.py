"""Under ``fully_shard`` (FSDP2) every number is that of one process on the concatenated batch, and nothing moves."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from tests.distributed.cases import (
    cross_entropy,
    mean_of_losses,
    measured,
    model_named,
    own_batch,
    shift_measured,
    whole_batch,
)
from tests.distributed.processes import World
from tests.distributed.test_data_parallel import assert_close, assert_same_bits
from tests.distributed.test_survey import PROBES, table
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

import alidade
from alidade.errors import RefusedError


def sharded(name: str, dtype: torch.dtype = torch.float64, size: int = 2, **options: Any) -> nn.Module:
    """Two layers in units of their own, the rest in the outermost."""
    model = model_named(name, dtype)
    mesh = init_device_mesh("cpu", (size,))
    for layer in [module for module in model if isinstance(module, nn.Linear)][:2]:
        fully_shard(layer, mesh=mesh, **options)
    fully_shard(model, mesh=mesh, **options)
    return model


def snapshot(model: nn.Module) -> dict[str, Any]:
    """What a probe must leave as it was, identities and hooks included."""
    return {
        "parameters": {n: (id(p), p.to_local().clone(), p.grad) for n, p in model.named_parameters()},
        "hooks": [(list(m._forward_pre_hooks), list(m._forward_hooks)) for m in model.modules()],
        "attributes": [sorted(vars(m)) for m in model.modules()],
        "buffers": {n: b.clone() for n, b in model.named_buffers()},
        "random": torch.get_rng_state(),
    }


def same(first: Any, second: Any) -> bool:
    if isinstance(first, Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return list(first) == list(second) and all(same(first[key], second[key]) for key in first)
    if isinstance(first, tuple | list):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)


def _everything(rank: int, size: int, name: str) -> dict[str, Any]:
    model = sharded(name, size=size)
    before = snapshot(model)
    found = measured(model, cross_entropy, own_batch(rank, size))
    assert same(snapshot(model), before)
    with torch.no_grad():
        model(own_batch(rank, size)[0])  # leaves whole parameters of the outermost unit behind
    after_a_forward = alidade.Objective(model, cross_entropy, own_batch(rank, size)).value()
    assert torch.equal(after_a_forward, found["value"])
    return found


@pytest.mark.parametrize(("name", "world"), [("plain", "two"), ("layer_norm", "four"), ("batch_norm", "two")])
def test_equal_to_one_process(name: str, world: str, request: pytest.FixtureRequest) -> None:
    used: World = request.getfixturevalue(world)
    found = used.run(_everything, name)
    assert_same_bits(found)
    if name == "batch_norm":  # statistics of each process
        expected = measured(
            model_named(name), mean_of_losses, [own_batch(rank, used.size) for rank in range(used.size)]
        )
    else:
        expected = measured(model_named(name), cross_entropy, whole_batch(used.size))
    assert_close(found[0], expected)


def _partly_frozen(rank: int, size: int) -> dict[str, Tensor]:
    model = model_named("layer_norm")
    model[0].weight.requires_grad_(False)
    fully_shard(model, mesh=init_device_mesh("cpu", (size,)))
    objective = alidade.Objective(model, cross_entropy, own_batch(rank, size))
    with objective.repeated():
        return {"value": objective.value(), **objective.gradient()}


def test_frozen_parameters_are_gathered_too(two: World) -> None:
    found = two.run(_partly_frozen)
    model = model_named("layer_norm")
    model[0].weight.requires_grad_(False)
    objective = alidade.Objective(model, cross_entropy, whole_batch(2))
    assert_same_bits(found)
    assert_close(found[0], {"value": objective.value(), **objective.gradient()})


def _shift(rank: int, size: int) -> dict[str, Any]:
    return shift_measured(sharded("plain", size=size), cross_entropy, own_batch(rank, size))


def test_covariate_shift_equals_one_process(two: World) -> None:
    found = two.run(_shift)
    assert_same_bits(found)
    assert_close(found[0], shift_measured(model_named("plain"), cross_entropy, whole_batch(2)))


def _activations(rank: int, size: int) -> dict[str, float]:
    found = alidade.activation_statistics(sharded("plain", size=size), cross_entropy, own_batch(rank, size))
    return found["0"].numbers()


def test_activations_equal_one_process(two: World) -> None:
    found = two.run(_activations)
    assert found[0] == found[1]
    expected = alidade.activation_statistics(model_named("plain"), cross_entropy, whole_batch(2))["0"].numbers()
    assert found[0] == pytest.approx(expected, rel=1e-12)


def _trained(rank: int, size: int, out: str | None, micro_batches: int) -> tuple[dict[str, Tensor], int]:
    torch.manual_seed(100 + rank)
    model = sharded("layer_norm", torch.float32, size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    probes = (*PROBES, "curvature")
    survey = None if out is None else alidade.Survey(model, cross_entropy, optimizer, out, probes=probes, budget=None)
    with survey or nullcontext():
        for step in range(4):
            inputs, labels = own_batch(rank, size, torch.float32, step)
            pieces = list(zip(inputs.chunk(micro_batches), labels.chunk(micro_batches), strict=True))
            for index, piece in enumerate(pieces):
                if survey is not None:
                    survey.observe(piece, accumulate=index > 0)
                model.set_requires_gradient_sync(index == len(pieces) - 1)
                (cross_entropy(model, piece) / len(pieces)).backward()
            optimizer.step()
            optimizer.zero_grad()
    assert all(isinstance(p, DTensor) for p in model.parameters())
    pieces_here = {name: p.to_local().detach().clone() for name, p in model.named_parameters()}
    return {**pieces_here, "random state": torch.get_rng_state()}, 0


@pytest.mark.parametrize(("world", "micro_batches"), [("two", 1), ("four", 2)])
def test_training_is_bit_identical_with_and_without_a_survey(
    world: str, micro_batches: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    used: World = request.getfixturevalue(world)
    watched = used.run(_trained, str(tmp_path / "run"), micro_batches)
    alone = used.run(_trained, None, micro_batches)
    for (with_it, _), (without, _) in zip(watched, alone, strict=True):
        assert all(torch.equal(with_it[key], without[key]) for key in without)
    found = table(tmp_path / "run")
    assert found.filter(pl.col("status").str.starts_with("failed")).is_empty(), set(found["status"])
    assert set(found["step"]) == set(range(4))
    loss = found.filter(pl.col("quantity") == "update_loss")
    assert loss.filter(pl.col("step_size") == 0.0)["value"].is_finite().all()


def _fails(rank: int, size: int) -> str:
    def broken(model: nn.Module, batch: Any) -> Tensor:
        if rank == 1:
            raise OSError("on purpose")
        return cross_entropy(model, batch)

    model = sharded("plain", size=size)
    with pytest.raises(RefusedError) as caught:
        alidade.line_profile(alidade.Objective(model, broken, own_batch(rank, size)), [0.1])
    cross_entropy(model, own_batch(rank, size)).backward()  # the training goes on
    return str(caught.value)


def test_a_failure_in_one_process_fails_in_all(two: World) -> None:
    assert two.run(_fails) == ["process 1 of 2 failed: on purpose"] * 2


def _refused(rank: int, size: int) -> list[str]:
    def objective(model: nn.Module) -> Any:
        return alidade.Objective(model, cross_entropy, own_batch(rank, size))

    said = []
    hybrid = fully_shard(model_named("plain"), mesh=init_device_mesh("cpu", (1, size), mesh_dim_names=("a", "b")))
    mixed = sharded("plain", size=size, mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16))
    outside = model_named("plain")
    fully_shard(outside[0], mesh=init_device_mesh("cpu", (size,)))
    tensor_parallel = model_named("plain")
    from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

    parallelize_module(tensor_parallel, init_device_mesh("cpu", (size,)), {"0": ColwiseParallel()})
    for model in (hybrid, mixed, outside, tensor_parallel):
        with pytest.raises(RefusedError) as caught:
            objective(model)
        said.append(str(caught.value))
    return said


def test_other_ways_of_sharding_are_refused(two: World) -> None:
    first, second = two.run(_refused)
    assert first == second
    hybrid, mixed, outside, tensor_parallel = first
    assert "'0.weight' on 2 axes" in hybrid
    assert "mixed precision (torch.bfloat16)" in mixed
    assert "'3.weight' outside of it" in outside
    assert "another parallelism" in tensor_parallel
