"""A CIFAR-10 of a few records per file, in the official layout otherwise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from alidade.data import cifar10

RECORDS = 8


@pytest.fixture
def small_cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The parent of cifar-10-batches-bin with random images, eight per file."""
    monkeypatch.setattr(cifar10, "RECORDS", RECORDS)
    parent = tmp_path / "small"
    folder = parent / cifar10.FOLDER
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for file in cifar10.FILES:
        records = generator.integers(0, 256, (RECORDS, 3073), dtype=np.uint8)
        records[:, 0] %= 10
        records.tofile(folder / file)
    return parent
