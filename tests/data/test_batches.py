from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alidade.core.errors import CallError
from alidade.data import Batches, Dataset, batch_indices

sizes = st.tuples(st.integers(1, 60), st.integers(1, 60)).map(lambda pair: (max(pair), min(pair)))  # (n, batch_size)
seeds = st.integers(0, 2**40)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    images = torch.arange(10, dtype=torch.float32).view(10, 1, 1, 1).expand(10, 1, 32, 32)
    return Dataset("ten", images, torch.arange(10), images[:2], torch.arange(2), tuple("abcdefghij"))


@given(sizes, seeds, st.integers(0, 1000))
def test_an_epoch_visits_each_kept_index_once(size: tuple[int, int], seed: int, epoch: int) -> None:
    n, batch_size = size
    per_epoch = n // batch_size
    steps = range(epoch * per_epoch, (epoch + 1) * per_epoch)
    batches = [batch_indices(n, batch_size, seed, step) for step in steps]
    assert all(batch.shape == (batch_size,) for batch in batches)
    visited = np.concatenate(batches)
    assert len(set(visited.tolist())) == per_epoch * batch_size
    assert visited.min() >= 0
    assert visited.max() < n


@given(sizes, seeds, st.lists(st.integers(0, 300), min_size=1, max_size=8))
def test_a_batch_depends_on_seed_and_step_alone(size: tuple[int, int], seed: int, steps: list[int]) -> None:
    forwards = {step: batch_indices(*size, seed, step).tolist() for step in steps}
    backwards = {step: batch_indices(*size, seed, step).tolist() for step in reversed(steps)}
    assert forwards == backwards


@given(st.lists(st.integers(0, 50), min_size=1, max_size=20), seeds)
def test_batches_agree_with_the_indices_in_any_order(dataset: Dataset, steps: list[int], seed: int) -> None:
    batches = Batches(dataset, 3, seed)
    for step in steps:
        images, labels = batches(step)
        expected = batch_indices(10, 3, seed, step)
        assert labels.tolist() == expected.tolist()
        assert torch.equal(images, dataset.train_images[torch.from_numpy(expected)])


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = {tuple(batch_indices(50, 50, seed, step)) for seed in range(5) for step in range(5)}
    assert len(orders) == 25


def test_the_order_is_the_one_that_finished_runs_were_trained_with() -> None:
    assert batch_indices(1500, 8, seed=100, step=1234).tolist() == [1237, 15, 454, 891, 482, 1281, 1086, 1229]


def test_no_global_random_state_is_moved(dataset: Dataset) -> None:
    before = random.getstate(), str(np.random.get_state()), torch.get_rng_state()
    Batches(dataset, 2, seed=0)(7)
    assert random.getstate() == before[0]
    assert str(np.random.get_state()) == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])


def test_a_batch_has_the_shapes_and_types_that_a_network_takes(dataset: Dataset) -> None:
    images, labels = Batches(dataset, 4, seed=0, device=torch.device("cpu"))(0)
    assert (images.shape, images.dtype) == ((4, 1, 32, 32), torch.float32)
    assert (labels.shape, labels.dtype) == ((4,), torch.int64)


@pytest.mark.parametrize("batch_size", [0, -1, 11])
def test_a_batch_size_out_of_range_is_refused(dataset: Dataset, batch_size: int) -> None:
    with pytest.raises(CallError, match=f"between 1 and the 10 training examples, got {batch_size}"):
        Batches(dataset, batch_size, seed=0)
    with pytest.raises(CallError, match=f"between 1 and the 10 training examples, got {batch_size}"):
        batch_indices(10, batch_size, seed=0, step=0)


def test_negative_seeds_and_steps_are_refused(dataset: Dataset) -> None:
    with pytest.raises(CallError, match="got seed -1 and step 0"):
        Batches(dataset, 2, seed=-1)
    with pytest.raises(CallError, match="got seed 0 and step -1"):
        Batches(dataset, 2, seed=0)(-1)
