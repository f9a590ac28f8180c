"""Law 1 for the estimators of curvature, beside the contract that all probes share (test_leaves_no_trace)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.cases import CASES, Case
from tests.snapshot import snapshot
from torch import nn

from alidade import Objective, batch_sharpness, hessian_trace, preconditioned_sharpness, top_eigenvalues


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop])
def test_the_optimizer_is_only_read(kind: Any) -> None:
    model, loss_fn, batch = CASES[1].build()
    optimizer = kind(model.parameters(), lr=0.01)
    loss_fn(model, batch).backward()
    optimizer.step()
    before = snapshot(model, optimizer)
    preconditioned_sharpness(Objective(model, loss_fn, batch), optimizer, max_matvecs=3)
    assert snapshot(model, optimizer) == before


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.name in ("batch_norm", "dropout", "resnet")], ids=lambda case: case.name
)
def test_a_measured_training_is_bit_identical(case: Case) -> None:
    def train(measured: bool) -> tuple[list[torch.Tensor], list[float]]:
        torch.manual_seed(2)
        model, loss_fn, batch = case.build()
        optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01)
        losses = []
        for _ in range(3):
            optimizer.zero_grad()
            loss = loss_fn(model, batch)
            if measured:  # while the loop's own graph lives
                objective = Objective(model, loss_fn, batch)
                top_eigenvalues(objective, max_matvecs=3)
                hessian_trace(objective, max_matvecs=2)
                batch_sharpness(objective)
            loss.backward()
            optimizer.step()
            if measured:
                preconditioned_sharpness(Objective(model, loss_fn, batch), optimizer, max_matvecs=2)
            losses.append(loss.item())
        return [*model.parameters(), *model.buffers()], losses

    (plain, plain_losses), (watched, watched_losses) = train(False), train(True)
    assert plain_losses == watched_losses
    assert all(torch.equal(a, b) for a, b in zip(plain, watched, strict=True))


def test_no_graph_is_left_behind() -> None:
    """What an operator kept goes with it: no leaf and no graph outlives the result."""
    import gc

    model, loss_fn, batch = CASES[1].build()
    objective = Objective(model, loss_fn, batch)
    top_eigenvalues(objective)
    gc.collect()
    before = sum(isinstance(thing, nn.Parameter) for thing in gc.get_objects())
    for _ in range(3):
        top_eigenvalues(objective)
        hessian_trace(objective)
    gc.collect()
    assert sum(isinstance(thing, nn.Parameter) for thing in gc.get_objects()) == before
