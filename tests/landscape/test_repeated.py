"""Several evaluations under one isolation: each begins where the first one did, and the end is the beginning."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from tests.cases import CASES, Case
from tests.snapshot import snapshot
from torch import Tensor, nn

from alidade import Objective


class _Caching(nn.Module):
    """Puts things on itself in a forward pass, and looks at what an earlier one has left."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.last = nn.Linear(3, 1), None

    def forward(self, x: Tensor) -> Tensor:
        assert self.last is None
        assert not hasattr(self, "more")
        assert not self.linear._forward_hooks
        self.last = self.more = self.linear(x)
        self.linear.register_forward_hook(lambda *_: None)
        self.train(not self.training)
        return self.last + random.random() + float(np.random.rand()) + torch.rand(())


def _objective() -> Objective:
    return Objective(_Caching(), lambda model, x: model(x).mean(), torch.ones(2, 3))


def test_every_evaluation_begins_like_the_first() -> None:
    objective = _objective()
    alone = objective.value()
    with objective.repeated():
        assert [objective.value() for _ in range(3)] == [alone] * 3


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_values_and_gradients_are_those_of_evaluations_alone(case: Case) -> None:
    torch.manual_seed(3)
    objective = Objective(*case.build())
    alone = objective.value_and_gradient()
    before = snapshot(objective.model)
    with objective.repeated(), objective.repeated():
        for _ in range(2):
            loss, gradient = objective.value_and_gradient()
            assert loss == alone[0]
            assert all(torch.equal(value, gradient[name]) for name, value in alone[1].items())
    assert snapshot(objective.model) == before


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_nothing_changes_when_something_raises_between_two_evaluations(error: type[BaseException]) -> None:
    objective = _objective()
    before = snapshot(objective.model)

    def interrupted() -> None:
        with objective.repeated():
            objective.value()
            torch.rand(3), random.random(), np.random.rand()
            objective.model.last = 3
            raise error

    with pytest.raises(error):
        interrupted()
    assert snapshot(objective.model) == before
    objective.value()  # and the objective can be used again


def test_a_structure_that_changes_afterwards_is_seen() -> None:
    objective = _objective()
    with objective.repeated():
        objective.value()
    objective.model.second = nn.Linear(2, 2)
    assert "second.weight" in objective.parameters
