"""Data that need no download."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from alidade.data.dataset import SIDE, Dataset, Examples, assemble

_TRAIN = 1500  # of 1797; the other 297 are the test set
_SPLIT_SEED = 0  # of the permutation that divides them
_EIGHTHS = 8  # bilinear weights from 8 to 32 pixels are whole eighths


def digits(train_examples: int | None = None) -> Dataset:
    """The handwritten digits that come with scikit-learn, 8 x 8 pixels enlarged to 32 x 32 by bilinear interpolation.

    One channel, ten classes, 1500 training and 297 test examples, divided by one fixed permutation.

    Raises:
        CallError: ``train_examples`` is below 1 or above 1500.

    >>> data = digits()
    >>> tuple(data.train_images.shape), tuple(data.test_images.shape)
    ((1500, 1, 32, 32), (297, 1, 32, 32))
    >>> data.train_labels[:5].tolist()
    [6, 6, 6, 2, 5]
    """
    from sklearn.datasets import load_digits  # takes a second to import: only for those who ask for digits

    source = load_digits()
    images = _enlarge(source.images.astype(np.int16))[:, None]
    order = np.random.Generator(np.random.PCG64(_SPLIT_SEED)).permutation(len(images))
    train, test = order[:_TRAIN], order[_TRAIN:]
    return assemble(
        "digits",
        Examples(images[train], source.target[train]),
        Examples(images[test], source.target[test]),
        classes=tuple(str(digit) for digit in source.target_names),
        train_examples=train_examples,
    )


def _enlarge(images: NDArray[np.int16]) -> NDArray[np.int16]:
    """Bilinear interpolation of (N, 8, 8) to (N, 32, 32), exactly, in units of 1/64 of the input's."""
    weights = _bilinear_eighths(images.shape[-1], SIDE)
    return weights @ images @ weights.T


def _bilinear_eighths(size: int, new_size: int) -> NDArray[np.int16]:
    """Interpolation weights (new_size, size) in eighths; beyond the outermost pixel centers the edge is repeated."""
    centers = (np.arange(new_size) + 0.5) * size / new_size - 0.5  # in input pixels
    below = np.floor(centers).astype(int)
    above_share = np.rint((centers - below) * _EIGHTHS).astype(np.int16)
    weights: NDArray[Any] = np.zeros((new_size, size), np.int16)
    rows = np.arange(new_size)
    np.add.at(weights, (rows, np.clip(below, 0, size - 1)), _EIGHTHS - above_share)
    np.add.at(weights, (rows, np.clip(below + 1, 0, size - 1)), above_share)
    return weights
