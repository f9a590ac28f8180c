"""Shifts and mirror images, against loops over pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from alidade.data import Batches, Dataset, batch_indices
from alidade.data.augment import _STREAM, PADDING, Shifts
from alidade.data.dataset import fingerprint


def some_images(n: int = 6, channels: int = 3, height: int = 7, width: int = 5) -> Tensor:
    """Every pixel its own number, none of them 0."""
    return torch.arange(1.0, 1 + n * channels * height * width).reshape(n, channels, height, width)


def naive(images: Tensor, seed: int, step: int, mirrors: bool) -> Tensor:
    """The image mirrored or not, laid into a frame of four zeros, and a window of its size cut out of that."""
    draws = np.random.Generator(np.random.PCG64([seed, step, _STREAM]))
    n, channels, height, width = images.shape
    top, left = draws.integers(0, 2 * PADDING + 1, (2, n, 1))
    mirrored = draws.random((n, 1)) < 0.5 if mirrors else np.zeros((n, 1))
    moved = torch.zeros_like(images)
    for i in range(n):
        for row in range(height):
            for column in range(width):
                # The window's pixel lies there in the frame, and so there in the image; a mirrored window is read
                # from its right end.
                across = width - 1 - column if mirrored[i, 0] else column
                y, x = row + int(top[i, 0]) - PADDING, across + int(left[i, 0]) - PADDING
                if 0 <= y < height and 0 <= x < width:
                    for channel in range(channels):
                        moved[i, channel, row, column] = images[i, channel, y, x]
    return moved


@pytest.mark.parametrize("mirrors", [True, False])
@pytest.mark.parametrize(("seed", "step"), [(0, 0), (0, 1), (100, 0), (100, 14_999), (2**40, 3)])
def test_it_is_the_loop_over_pixels(seed: int, step: int, mirrors: bool) -> None:
    images = some_images()
    found = Shifts(seed, mirrors)(images, step)
    assert torch.equal(found, naive(images, seed, step, mirrors))
    assert (found.shape, found.dtype, found.is_contiguous()) == (images.shape, images.dtype, True)


def test_a_step_can_be_made_again_in_any_order() -> None:
    images, shifts = some_images(), Shifts(5, mirrors=True)
    forwards = [shifts(images, step) for step in range(4)]
    backwards = [Shifts(5, mirrors=True)(images, step) for step in reversed(range(4))]
    assert all(torch.equal(a, b) for a, b in zip(forwards, reversed(backwards), strict=True))
    assert not torch.equal(forwards[0], forwards[1])
    assert not torch.equal(forwards[0], Shifts(6, mirrors=True)(images, 0))


def test_the_images_are_left_as_they_were() -> None:
    images = some_images()
    Shifts(0, mirrors=True)(images, 0)
    assert torch.equal(images, some_images())


def test_no_global_random_state_is_moved() -> None:
    before = str(np.random.get_state()), torch.get_rng_state()
    Shifts(0, mirrors=True)(some_images(), 0)
    assert str(np.random.get_state()) == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])


def offsets(mirrors: bool, images_of_a_step: int = 500, steps: int = 20) -> tuple[list[tuple[int, int]], int]:
    """Where a single white pixel goes, and how many images were mirrored, over many draws."""
    images = torch.zeros(images_of_a_step, 1, 32, 32)
    images[:, :, 15, 10:12] = torch.tensor([1.0, 2.0])  # a mirror puts the brighter pixel on the left
    where, mirrored = [], 0
    for step in range(steps):
        for image in Shifts(0, mirrors)(images, step)[:, 0]:
            (y, x), (_, bright) = (image == 1).nonzero()[0].tolist(), (image == 2).nonzero()[0].tolist()
            flipped = bright < x
            mirrored += flipped
            where.append((y - 15, x - (21 if flipped else 10)))
    return where, mirrored


def test_every_shift_up_to_four_pixels_comes_as_often() -> None:
    where, mirrored = offsets(mirrors=True)
    n = len(where)
    assert {y for y, _ in where} == {x for _, x in where} == set(range(-4, 5))
    counts = np.array([where.count((y, x)) for y in range(-4, 5) for x in range(-4, 5)])
    assert counts.sum() == n
    # Chi-square with 80 degrees of freedom: mean 80, deviation sqrt(160) = 12.6; five of these above.
    assert ((counts - n / 81) ** 2 / (n / 81)).sum() < 80 + 5 * 12.6
    assert mirrored == pytest.approx(n / 2, abs=4 * np.sqrt(n) / 2)


def test_digits_are_not_mirrored() -> None:
    assert offsets(mirrors=False, images_of_a_step=100, steps=5)[1] == 0


def dataset(name: str) -> Dataset:
    images = some_images(n=10, channels=1, height=32, width=32)
    return Dataset(name, images, torch.arange(10), images[:2], torch.arange(2), tuple("abcdefghij"))


@pytest.mark.parametrize(("name", "mirrors"), [("digits", False), ("cifar10", True)])
def test_batches_are_augmented_as_their_step_says(name: str, mirrors: bool) -> None:
    data = dataset(name)
    assert data.mirrors is mirrors
    plain, shifted = Batches(data, 4, seed=3), Batches(data, 4, seed=3, augment=True)
    for step in (0, 5, 2, 5):
        (images, labels), (moved, same) = plain(step), shifted(step)
        assert torch.equal(labels, same)
        assert same.tolist() == batch_indices(10, 4, 3, step).tolist()
        assert torch.equal(moved, Shifts(3, mirrors)(images, step))
        assert not torch.equal(moved, images)
    assert torch.equal(moved, shifted(5)[0])


def test_augmenting_changes_no_data_set() -> None:
    data = dataset("cifar10")
    before = fingerprint(data)
    batches = Batches(data, 4, seed=0, augment=True)
    for step in range(3):
        batches(step)[0].zero_()
    assert fingerprint(data) == before
