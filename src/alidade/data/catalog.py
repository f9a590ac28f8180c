"""The data sets by name."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from alidade.core.errors import CallError
from alidade.core.spec import ImagesName
from alidade.data.cifar10 import read_cifar10
from alidade.data.dataset import Dataset
from alidade.data.embedded import digits
from alidade.data.fetch import fetch_cifar10


def load(name: ImagesName, data_dir: Path | None = None, train_examples: int | None = None) -> Dataset:
    """The data set called ``name``.

    Args:
        name: ``"digits"`` (comes with scikit-learn) or ``"cifar10"``.
        data_dir: where CIFAR-10 lies: the folder ``cifar-10-batches-bin`` or its parent. None downloads it once.
        train_examples: how many training examples to keep (see ``Dataset``); None keeps all. Test examples all stay.

    Raises:
        CallError: an unknown name, ``data_dir`` for data that need none, more examples than there are.
        WorkError: the files are missing or damaged, or the download failed.

    >>> data = load("digits", train_examples=500)
    >>> tuple(data.train_images.shape), tuple(data.test_images.shape), len(data.classes)
    ((500, 1, 32, 32), (297, 1, 32, 32), 10)
    >>> round(data.train_images.std(correction=0).item(), 4)
    1.0
    """
    known = get_args(ImagesName)
    if name not in known:
        raise CallError(f"expected the name of a data set ({', '.join(sorted(known))}), got {name!r}: use one of these")
    if name == "digits":
        if data_dir is not None:
            raise CallError(f"--data-dir is for cifar10, got {data_dir} with digits, which are built in: leave it out")
        return digits(train_examples)
    return read_cifar10(data_dir if data_dir is not None else fetch_cifar10(), train_examples)
