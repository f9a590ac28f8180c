"""The order of batches as a pure function of seed and step, so that a resumed run sees what it would have seen."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from alidade.core.errors import CallError
from alidade.data.augment import Shifts
from alidade.data.dataset import Dataset

Indices = NDArray[np.int64]


def batch_indices(n: int, batch_size: int, seed: int, step: int) -> Indices:
    """Which of ``n`` examples make up the batch of ``step``: indices of shape (batch_size,).

    An epoch has ``n // batch_size`` steps and an order of its own, drawn from ``seed`` and the epoch's number; each
    example comes at most once in it, and the last ``n % batch_size`` of the order are left out. No global random
    state is read or moved.

    Raises:
        CallError: ``batch_size`` is not between 1 and ``n``, or ``seed`` or ``step`` is negative.

    >>> [batch_indices(6, 2, seed=0, step=step).tolist() for step in range(3)]  # one epoch
    [[3, 2], [5, 4], [0, 1]]
    """
    epoch, position = _locate(n, batch_size, seed, step)
    return _batch(_order(n, seed, epoch), batch_size, position)


class Batches:
    """The training batches of a data set, by step.

    The training images move to ``device`` once; a batch is gathered there. Only the current epoch's order is kept,
    so that steps may be asked for in any order and neighbours are cheap. ``augment`` shifts and mirrors
    (:class:`alidade.data.augment.Shifts`).

    Raises:
        CallError: ``batch_size`` is not between 1 and the number of training examples, or ``seed`` is negative.
    """

    def __init__(
        self, dataset: Dataset, batch_size: int, seed: int, device: torch.device | str = "cpu", augment: bool = False
    ) -> None:
        _locate(len(dataset.train_labels), batch_size, seed, step=0)
        self._images = dataset.train_images.to(device)
        self._labels = dataset.train_labels.to(device)
        self._batch_size = batch_size
        self._seed = seed
        self._shifts = Shifts(seed, dataset.mirrors) if augment else None
        self._epoch = 0
        self._epoch_order = _order(len(self._labels), seed, epoch=0)

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        """Images (batch_size, C, 32, 32) and labels (batch_size,) of ``step``, counted from 0, on the device.

        Raises:
            CallError: ``step`` is negative.
        """
        epoch, position = _locate(len(self._labels), self._batch_size, self._seed, step)
        if epoch != self._epoch:
            self._epoch, self._epoch_order = epoch, _order(len(self._labels), self._seed, epoch)
        chosen = torch.from_numpy(_batch(self._epoch_order, self._batch_size, position)).to(self._labels.device)
        images = self._images[chosen]
        return (self._shifts(images, step) if self._shifts else images), self._labels[chosen]


def _locate(n: int, batch_size: int, seed: int, step: int) -> tuple[int, int]:
    """Epoch of ``step`` and the step's position in it."""
    if not 1 <= batch_size <= n:
        raise CallError(f"expected a batch size between 1 and the {n} training examples, got {batch_size}: change it")
    if seed < 0 or step < 0:
        raise CallError(f"expected a seed and a step of at least 0, got seed {seed} and step {step}: change them")
    return divmod(step, n // batch_size)


def _order(n: int, seed: int, epoch: int) -> Indices:
    return np.random.Generator(np.random.PCG64([seed, epoch])).permutation(n)


def _batch(order: Indices, batch_size: int, position: int) -> Indices:
    return order[position * batch_size : (position + 1) * batch_size]
