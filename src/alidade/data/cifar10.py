"""CIFAR-10 from its official binary files (Krizhevsky, "Learning multiple layers of features from tiny images", 2009).

A record is one label byte and 3072 pixel bytes: the red, green and blue planes, each 32 rows of 32 pixels.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alidade.core.errors import WorkError
from alidade.data.dataset import SIDE, Dataset, Examples, assemble

FOLDER = "cifar-10-batches-bin"
TRAIN_FILES = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
TEST_FILE = "test_batch.bin"
FILES = (*TRAIN_FILES, TEST_FILE)
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
RECORDS = 10_000  # in each file

_IMAGE_SHAPE = (3, SIDE, SIDE)
_RECORD_BYTES = 1 + 3 * SIDE * SIDE


def file_bytes() -> int:
    """Size of each file in bytes.

    >>> file_bytes()
    30730000
    """
    return RECORDS * _RECORD_BYTES


def read_cifar10(data_dir: Path, train_examples: int | None = None) -> Dataset:
    """Read CIFAR-10: 50,000 training and 10,000 test images of shape (3, 32, 32) in ten classes.

    ``data_dir`` is the folder ``cifar-10-batches-bin`` or its parent. Checked are the six files, their sizes and
    their labels; not checksums, so that the same images stored in another encoding are welcome too.

    Raises:
        CallError: ``train_examples`` is below 1 or above 50,000.
        WorkError: the folder or a file is missing, cannot be read, has another size or holds a label above 9.
    """
    folder = _find_folder(Path(data_dir))
    for file in FILES:
        _check_size(folder / file)
    train = _read(*(folder / file for file in TRAIN_FILES))
    return assemble("cifar10", train, _read(folder / TEST_FILE), CLASSES, train_examples)


def is_complete(folder: Path) -> bool:
    """Whether all six files lie in ``folder`` at their full sizes."""
    return all((folder / file).is_file() and (folder / file).stat().st_size == file_bytes() for file in FILES)


def _find_folder(data_dir: Path) -> Path:
    """The folder with the files: ``data_dir`` itself, or ``cifar-10-batches-bin`` in it."""
    try:
        for folder in (data_dir / FOLDER, data_dir):
            if any((folder / file).exists() for file in FILES):
                return folder
        came = "a folder without them" if data_dir.is_dir() else "a file" if data_dir.exists() else "no such folder"
    except OSError as error:
        came = error.strerror or str(error)
    raise WorkError(
        f"{data_dir}: expected the folder {FOLDER} or its parent, with {FILES[0]} ... {TEST_FILE}; got {came}: "
        "correct --data-dir, or leave it out to download CIFAR-10"
    )


def _check_size(path: Path) -> None:
    try:
        size = path.stat().st_size if path.is_file() else None
        came = "something that is not a file" if path.exists() else "no such file"
    except OSError as error:
        size, came = None, error.strerror or str(error)
    if size != file_bytes():
        raise _damaged(path, f"{file_bytes()} bytes", f"{size} bytes" if size is not None else came)


def _read(*paths: Path) -> Examples:
    records = np.concatenate([_read_records(path) for path in paths])
    return Examples(records[:, 1:].reshape(-1, *_IMAGE_SHAPE), records[:, 0])


def _read_records(path: Path) -> NDArray[np.uint8]:
    try:
        records = np.fromfile(path, np.uint8)
    except OSError as error:
        raise _damaged(path, "a file that can be read", str(error.strerror)) from error
    if records.size != file_bytes():  # it was cut while we read
        raise _damaged(path, f"{file_bytes()} bytes", f"{records.size} bytes")
    records = records.reshape(RECORDS, _RECORD_BYTES)
    labels = records[:, 0]
    if labels.max() >= len(CLASSES):
        first = int(np.argmax(labels >= len(CLASSES)))
        raise _damaged(path, f"labels 0 to {len(CLASSES) - 1}", f"label {labels[first]} in record {first}")
    return records


def _damaged(path: Path, expected: str, came: str) -> WorkError:
    return WorkError(
        f"{path}: expected {expected}, got {came}: unpack the official binary archive again, or leave --data-dir out "
        "to download it"
    )
