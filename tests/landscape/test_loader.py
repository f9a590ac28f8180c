"""A whole data set as the batch of an objective: the same numbers as one big batch, and no trace on the loader."""

from __future__ import annotations

import copy
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import alidade
from alidade import Batches, Objective
from alidade.errors import CallError, RefusedError

INPUTS = torch.randn(22, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LABELS = torch.arange(22) % 3


def _model(*norms: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 6), *norms, nn.Tanh(), nn.Linear(6, 3)).double()


def _mean(model: nn.Module, batch: Any) -> torch.Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def _sum(model: nn.Module, batch: Any) -> torch.Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="sum")


PAIR = (lambda model, batch: model(batch[0]), lambda out, batch: nn.functional.cross_entropy(out, batch[1]))


def _loader(**options: Any) -> DataLoader[Any]:
    return DataLoader(TensorDataset(INPUTS, LABELS), **({"batch_size": 8} | options))


def _tracked() -> nn.Module:
    model = _model(nn.BatchNorm1d(6))
    model(INPUTS)
    return model


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("statistics", [None, "running"])
def test_everything_is_that_of_one_big_batch(shuffle: bool, statistics: str | None) -> None:
    """22 examples in 8 + 8 + 6: sums of float64 in another order differ by some 1e-15."""
    model = _tracked() if statistics else _model()
    one = Objective(model, PAIR, (INPUTS, LABELS), statistics)
    many = Objective(model, PAIR, Batches(_loader(shuffle=shuffle)), statistics)
    torch.testing.assert_close(many.value(), one.value())
    v = {name: torch.randn_like(p) for name, p in one.parameters.items()}
    for found, expected in ((many.gradient(), one.gradient()), (many.hvp(v), one.hvp(v))):
        torch.testing.assert_close(found, expected)
    for matrix in ("hessian", "gauss_newton"):
        top, witness = (alidade.top_eigenvalues(o, k=2, matrix=matrix, rtol=1e-8) for o in (many, one))  # type: ignore[arg-type]
        np.testing.assert_allclose(top.eigenvalues, witness.eigenvalues, rtol=1e-8)
    assert alidade.hessian_trace(many).value == pytest.approx(alidade.hessian_trace(one).value, rel=1e-8)
    np.testing.assert_allclose(
        alidade.spectral_density(many, steps=5).nodes, alidade.spectral_density(one, steps=5).nodes, atol=1e-8
    )
    profiles = [alidade.line_profile(o, [0.1, 1.0]) for o in (many, one)]
    np.testing.assert_allclose(profiles[0].losses, profiles[1].losses)
    np.testing.assert_allclose(profiles[0].effective_smoothness, profiles[1].effective_smoothness, rtol=1e-8)
    assert (many.batch_size, many.partition) == (22, (8, 8, 6))
    assert top.provenance.partition == profiles[0].provenance.partition == (8, 8, 6)
    assert one.partition is None


def test_a_sum_is_added_up() -> None:
    model = _model()
    many = Objective(model, _sum, Batches(_loader(), reduction="sum"))
    torch.testing.assert_close(many.value(), Objective(model, _sum, (INPUTS, LABELS)).value())


def test_float32_losses_are_added_up_in_float64() -> None:
    """4,000 batches of loss 0.1, whose sum in float32 drifts by 1e-4; the mean is exact to one rounding."""
    model = nn.Linear(1, 1, bias=False)
    batches = [torch.ones(1, 1)] * 4000
    objective = Objective(model, lambda m, x: (m(x) * 0).sum() + 0.1, Batches(batches, reduction="sum"))
    assert float(objective.value()) == pytest.approx(400.0, rel=1e-7)


def test_batch_statistics_over_several_batches_are_refused_with_the_ways_out() -> None:
    model = _tracked()
    for make in (
        lambda: Objective(model, _mean, Batches(_loader())),
        lambda: Objective(model, _mean, Batches(_loader()), "batch"),
        lambda: Objective(model, _mean, Batches(_loader()), "running").under("batch"),
    ):
        with pytest.raises(RefusedError, match=r"each batch by itself.*statistics='running'.*own_statistics=True"):
            make()
    one = Objective(model, _mean, Batches(_loader(batch_size=22)))
    torch.testing.assert_close(one.value(), Objective(model, _mean, (INPUTS, LABELS)).value())
    own = Objective(model, _mean, Batches(_loader(), own_statistics=True))
    parts = [(x, y) for x, y in _loader()]
    expected = sum(len(x) / 22 * float(Objective(model, _mean, (x, y)).value()) for x, y in parts)
    assert (float(own.value()), own.statistics) == (pytest.approx(expected), "batch")


def test_nobody_elses_random_numbers_are_drawn() -> None:
    """Neither the global ones, from which a DataLoader seeds its workers and shuffles, nor the loader's own."""
    generator = torch.Generator().manual_seed(5)
    for loader in (_loader(shuffle=True), _loader(shuffle=True, generator=generator)):
        before, own = torch.get_rng_state(), generator.get_state()
        objective = Objective(_model(), _mean, Batches(loader))
        before = torch.get_rng_state()
        objective.gradient()
        alidade.top_eigenvalues(objective, max_matvecs=4)
        assert torch.equal(torch.get_rng_state(), before)
        assert torch.equal(generator.get_state(), own)


def test_a_loader_that_gives_other_data_is_refused() -> None:
    class Growing:
        batches = 2

        def __iter__(self) -> Any:
            return iter([(INPUTS[:4], LABELS[:4])] * self.batches)

    class Noisy:
        def __iter__(self) -> Any:
            self.times = getattr(self, "times", 0) + 1
            return iter([(INPUTS + self.times, LABELS)])

    for batches, got in ((3, "batch 3 of 4 examples"), (1, "1 batches")):
        objective = Objective(_model(), _mean, Batches(loader := Growing()))
        loader.batches = batches
        with pytest.raises(RefusedError, match=f"expected the same batches as before.*got {got}"):
            objective.value()
    with pytest.raises(RefusedError, match="expected the same loss twice"):
        Objective(_model(), _mean, Batches(Noisy())).value()


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        (iter([1]), "gone through many times"),
        ([], "at least one batch"),
        (INPUTS, "expected a DataLoader or a list of batches, got Tensor"),
        (3, "expected a DataLoader or a list of batches, got int"),
        ([{"a": 1}], "weights need their lengths"),
        ([torch.ones(0, 4)], "at least one example"),
    ],
)
def test_what_is_no_loader_is_told(loader: Any, message: str) -> None:
    with pytest.raises(CallError, match=message):
        Objective(_model(), _mean, Batches(loader))
    with pytest.raises(CallError, match="reduction: expected 'mean' or 'sum'"):
        Batches([INPUTS], reduction="max")  # type: ignore[arg-type]


def test_memory_holds_one_batch() -> None:
    alive: set[int] = set()
    most = 0

    class Source:
        def __iter__(self) -> Any:
            nonlocal most
            for index in range(6):
                batch = INPUTS[index : index + 2].clone()
                alive.add(index)
                weakref.finalize(batch, alive.discard, index)
                most = max(most, len(alive))
                yield (batch, LABELS[:2])

    objective = Objective(copy.deepcopy(_model()), _mean, Batches(Source()))
    most = 0
    objective.gradient()
    alidade.top_eigenvalues(objective, max_matvecs=3)
    assert most <= 4  # the first, which answers questions about the batch; this one, the next, and the loader's own
