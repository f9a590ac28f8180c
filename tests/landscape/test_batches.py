"""Batches of any nesting, and loss functions that change theirs."""

from __future__ import annotations

from collections import UserDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from alidade import Objective, covariate_shift, line_profile
from alidade.errors import CallError, RefusedError
from alidade.landscape.batches import batch_length, copied


@dataclass(frozen=True)
class Example:
    inputs: Tensor
    note: str = ""


class Encoding(UserDict):  # as the output of a tokenizer
    pass


Pair = namedtuple("Pair", "inputs labels")
HERE = torch.ones(3, 2)
NOTHING = torch.empty(0, 2)

FULL: list[Callable[[Tensor], Any]] = [
    lambda x: x,
    lambda x: (x, x),
    lambda x: {"weight": torch.tensor(2.0), "deep": [{"x": x}]},
    lambda x: Encoding(input_ids=x),
    lambda x: Example(x),
    lambda x: Pair(x, [x]),
    lambda x: {"numbers": x.numpy()},
    lambda x: [torch.tensor(1.0), Example(x)],
]


@pytest.mark.parametrize("build", FULL)
def test_the_length_is_found_in_any_nesting(build: Callable[[Tensor], Any]) -> None:
    assert batch_length(build(HERE)) == 3


@pytest.mark.parametrize("build", FULL)
def test_a_batch_without_examples_is_refused_in_any_nesting(build: Callable[[Tensor], Any]) -> None:
    model = nn.Linear(2, 1)
    with pytest.raises(CallError, match="batch: expected at least one example") as caught:
        Objective(model, lambda model, batch: model(torch.ones(1, 2)).sum(), build(NOTHING))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("batch", [[], {}, (), (HERE, NOTHING), {"x": HERE, "y": {"z": NOTHING}}])
def test_a_batch_that_is_partly_empty_is_refused(batch: Any) -> None:
    with pytest.raises(CallError, match="batch: expected at least one example"):
        Objective(nn.Linear(2, 1), lambda model, batch: model(HERE).sum(), batch)


def test_an_image_without_boxes_is_an_example() -> None:
    batch = (HERE, [{"boxes": torch.empty(0, 4)}, {"boxes": torch.ones(2, 4)}, {"boxes": torch.empty(0, 4)}])
    assert Objective(nn.Linear(2, 1), lambda model, batch: model(batch[0]).sum(), batch).batch_size == 3


@pytest.mark.parametrize("build", FULL)
def test_copies_have_new_containers_and_the_same_tensors(build: Callable[[Tensor], Any]) -> None:
    original = build(HERE)
    copy = copied(original)
    assert type(copy) is type(original)
    assert (copy is original) == isinstance(original, Tensor)
    np.testing.assert_equal(repr(copy), repr(original))
    if isinstance(original, dict) and "deep" in original:
        assert copy["deep"][0]["x"] is HERE
        assert copy["deep"][0] is not original["deep"][0]


def _pops(model: nn.Module, batch: dict[str, Any]) -> Tensor:
    labels = batch.pop("labels")
    batch["list"].append(1)
    return nn.functional.mse_loss(model(batch["x"]), labels) * len(batch["list"])


def _scales_in_place(model: nn.Module, batch: dict[str, Any]) -> Tensor:
    return nn.functional.mse_loss(model(batch["x"].mul_(0.5)), batch["labels"])


def _scales_behind_the_counter(model: nn.Module, batch: dict[str, Any]) -> Tensor:
    batch["x"].data.mul_(0.5)
    batch["array"] *= 0.5
    return nn.functional.mse_loss(model(batch["x"]), batch["labels"]) * batch["array"].sum()


def _case() -> tuple[nn.Module, dict[str, Any]]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)).double()
    x, labels = torch.randn(4, 2).double(), torch.randn(4, 1).double()
    return model, {"x": x, "labels": labels, "list": [1], "array": np.ones(2)}


@pytest.mark.parametrize("loss_fn", [_pops, _scales_in_place, _scales_behind_the_counter])
def test_a_loss_that_changes_its_batch_sees_the_same_batch_every_time(loss_fn: Callable[..., Tensor]) -> None:
    model, batch = _case()
    _, twin = _case()
    loss = loss_fn(model, twin)
    expected, gradient = loss.detach(), torch.autograd.grad(loss, list(model.parameters()))
    then = (list(batch), batch["x"].clone(), batch["x"]._version, batch["array"].copy(), list(batch["list"]))

    objective = Objective(model, loss_fn, batch)
    assert objective.value() == objective.value() == expected
    found = objective.gradient()
    assert all(torch.equal(a, b) for a, b in zip(found.values(), gradient, strict=True))
    profile = line_profile(objective, [0.0, 0.1])
    assert profile.losses[0] == profile.loss == float(expected)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    after = {name: value * 1.1 for name, value in before.items()}
    shift = covariate_shift(model, loss_fn, batch, before, after)
    naive = {**before, "0.weight": after["0.weight"], "0.bias": after["0.bias"]}
    model.load_state_dict(naive)
    moved = Objective(model, loss_fn, batch).gradient()
    change = torch.cat([(moved[n] - found[n]).flatten() for n in ("2.weight", "2.bias")]).norm()
    assert shift.l2[-1] == pytest.approx(float(change), rel=1e-12)  # float64, a handful of operations

    assert (list(batch), batch["x"]._version, batch["list"]) == (then[0], then[2], then[4])
    assert torch.equal(batch["x"], then[1])
    np.testing.assert_array_equal(batch["array"], then[3])


def test_a_batch_is_put_back_when_the_loss_raises() -> None:
    model, batch = _case()
    then = batch["x"].clone()

    def failing(model: nn.Module, batch: dict[str, Any]) -> Tensor:
        batch["x"].add_(1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Objective(model, failing, batch).value()
    assert torch.equal(batch["x"], then)


def test_an_iterator_as_a_batch_is_no_function_of_the_parameters() -> None:
    model, _ = _case()
    values = iter([1.0, 2.0, 3.0])
    with pytest.raises(RefusedError, match="the same loss twice"):
        Objective(model, lambda model, batch: model(HERE.double()).sum() * next(batch), values).value()
