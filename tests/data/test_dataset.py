from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alidade.core.errors import CallError, WorkError
from alidade.data.dataset import Dataset, Examples, assemble, fingerprint


def some_examples(count: int, seed: int = 0) -> Examples:
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
    return Examples(images, np.arange(count, dtype=np.uint8))


def some_dataset(train_examples: int | None = None) -> Dataset:
    return assemble("random", some_examples(20), some_examples(5, seed=1), tuple("abc"), train_examples)


def test_images_are_standardized_by_the_training_set() -> None:
    train, test = some_examples(20), some_examples(5, seed=1)
    data = some_dataset()
    for channel in range(3):
        pixels = train.images[:, channel].astype(np.float64)
        expected = (test.images[:, channel] - pixels.mean()) / pixels.std()
        np.testing.assert_allclose(data.test_images[:, channel].numpy(), expected, rtol=1e-6, atol=1e-6)
        own = (pixels - pixels.mean()) / pixels.std()
        np.testing.assert_allclose(data.train_images[:, channel].numpy(), own, rtol=1e-6, atol=1e-6)


def test_mean_and_deviation_are_those_of_the_examples_used() -> None:
    chosen = some_dataset(3).train_images
    assert chosen.mean(dim=(0, 2, 3)).abs().max() < 1e-6
    assert (chosen.std(dim=(0, 2, 3), correction=0) - 1).abs().max() < 1e-6


def test_types_and_shapes() -> None:
    data = some_dataset()
    assert (data.train_images.dtype, data.train_labels.dtype) == (torch.float32, torch.int64)
    assert (data.test_images.shape, data.test_labels.shape) == ((5, 3, 32, 32), (5,))
    assert data.train_images.is_contiguous()


@given(st.integers(1, 20), st.integers(1, 20))
def test_fewer_examples_are_a_part_of_more(one: int, other: int) -> None:
    fewer, more = sorted((one, other))
    few, many = some_dataset(fewer).train_labels.tolist(), some_dataset(more).train_labels.tolist()
    assert len(few) == fewer
    assert set(few) <= set(many)


def test_all_examples_are_the_whole_set_in_its_own_order() -> None:
    assert some_dataset(20).train_labels.tolist() == list(range(20))
    assert fingerprint(some_dataset(20)) == fingerprint(some_dataset())


@pytest.mark.parametrize("count", [0, -3, 21])
def test_a_number_of_examples_out_of_range_is_refused(count: int) -> None:
    with pytest.raises(CallError, match=f"between 1 and 20 training examples of random, got {count}"):
        some_dataset(count)


def test_a_constant_channel_is_refused() -> None:
    train = some_examples(20)
    train.images[:, 1] = 7
    with pytest.raises(WorkError, match="channel 1 of the 20 training images of random has one value"):
        assemble("random", train, some_examples(5), tuple("abc"))


def test_the_fingerprint_is_short_hexadecimal_and_repeatable() -> None:
    first = fingerprint(some_dataset())
    assert first == fingerprint(some_dataset())
    assert len(first) == 16
    int(first, 16)


@pytest.mark.parametrize("part", ["train_images", "train_labels", "test_images", "test_labels"])
def test_one_changed_value_changes_the_fingerprint(part: str) -> None:
    data = some_dataset()
    changed = getattr(data, part).clone()
    changed.view(-1)[-1] += 1
    assert fingerprint(replace(data, **{part: changed})) != fingerprint(data)


def test_the_name_plays_no_part_in_the_fingerprint() -> None:
    data = some_dataset()
    assert fingerprint(replace(data, name="other")) == fingerprint(data)
