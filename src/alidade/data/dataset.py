"""A labelled set of images as the networks see it: chosen, standardized, with a fingerprint."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alidade.core.errors import CallError, WorkError

SIDE = 32  # pixels; every data set comes at this height and width

_CHOICE_SEED = 0  # of the permutation whose first N entries are the N training examples


class Examples(NamedTuple):
    """Images as they were read: integers (N, C, 32, 32) of any unit, and labels (N,)."""

    images: NDArray[Any]
    labels: NDArray[Any]


@dataclass(frozen=True, eq=False)
class Dataset:
    """Training and test examples, ready for a network.

    Images are float32 of shape (N, C, 32, 32). From each channel the mean over all pixels of the training images
    is subtracted and the result is divided by their standard deviation (biased, over the same pixels); the test
    images get the training set's two numbers. Both are computed on the training examples really used. Labels are
    int64 of shape (N,), an index into ``classes``.
    """

    name: str
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    classes: tuple[str, ...]

    @property
    def mirrors(self) -> bool:
        """Whether a mirrored image shows the same class: photographs do, digits do not."""
        return self.name != "digits"


def fingerprint(dataset: Dataset) -> str:
    """The first 16 hex digits of the SHA-256 of the images and labels, training set first.

    Two data sets agree exactly when every array agrees in shape, type and content: the name plays no part. It
    goes into the identity of a run, so that a run on other images is another run.

    >>> from alidade.data import load
    >>> fingerprint(load("digits")) == fingerprint(load("digits", train_examples=1500))
    True
    """
    digest = hashlib.sha256()
    for tensor in (dataset.train_images, dataset.train_labels, dataset.test_images, dataset.test_labels):
        array = np.ascontiguousarray(tensor.numpy(force=True))
        digest.update(f"{array.dtype.str} {array.shape}".encode())
        digest.update(array.data)
    return digest.hexdigest()[:16]


def assemble(
    name: str, train: Examples, test: Examples, classes: tuple[str, ...], train_examples: int | None = None
) -> Dataset:
    """Choose the training examples, then standardize both sets by what was chosen.

    ``train_examples`` keeps that many: the first entries of one fixed permutation, put back into their original
    order. A smaller number therefore gives a part of what a larger one gives, and all of them give the set itself.

    Raises:
        CallError: ``train_examples`` is below 1 or above what there is.
        WorkError: a channel is constant over the chosen images, so that it cannot be standardized.
    """
    train = _choose(name, train, train_examples)
    mean, deviation = _channel_moments(name, train.images)
    return Dataset(
        name=name,
        train_images=_standardize(train.images, mean, deviation),
        train_labels=torch.from_numpy(train.labels.astype(np.int64)),
        test_images=_standardize(test.images, mean, deviation),
        test_labels=torch.from_numpy(test.labels.astype(np.int64)),
        classes=classes,
    )


def _choose(name: str, examples: Examples, count: int | None) -> Examples:
    available = len(examples.labels)
    if count is None:
        return examples
    if not 1 <= count <= available:
        raise CallError(
            f"expected between 1 and {available} training examples of {name}, got {count}: ask for fewer or for all"
        )
    permutation = np.random.Generator(np.random.PCG64(_CHOICE_SEED)).permutation(available)
    chosen = np.sort(permutation[:count])
    return Examples(examples.images[chosen], examples.labels[chosen])


def _channel_moments(name: str, images: NDArray[Any]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel, each float32 of shape (C, 1, 1).

    The sums are taken in integers, so that neither the order of summation nor the number of threads shows.
    """
    count = images.size // images.shape[1]
    sums = images.sum(axis=(0, 2, 3), dtype=np.int64).tolist()
    squares = np.einsum("nchw,nchw->c", images, images, dtype=np.int64).tolist()
    variances = [(count * square - total**2) / count**2 for total, square in zip(sums, squares, strict=True)]
    for channel, variance in enumerate(variances):
        if variance == 0:
            raise WorkError(
                f"channel {channel} of the {len(images)} training images of {name} has one value throughout: "
                "nothing can be learned from it; use other data or more examples"
            )
    mean = torch.tensor([total / count for total in sums], dtype=torch.float32)
    deviation = torch.tensor([variance**0.5 for variance in variances], dtype=torch.float32)
    return mean.view(-1, 1, 1), deviation.view(-1, 1, 1)


def _standardize(images: NDArray[Any], mean: Tensor, deviation: Tensor) -> Tensor:
    return torch.from_numpy(images.astype(np.float32)).sub_(mean).div_(deviation)
