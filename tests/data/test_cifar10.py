from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from alidade.core.errors import CallError, WorkError
from alidade.data import fingerprint, load
from alidade.data.cifar10 import FILES, FOLDER, read_cifar10


def set_first_label(path: Path, label: int) -> None:
    content = bytearray(path.read_bytes())
    content[2 * 3073] = label
    path.write_bytes(content)


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


#: What was done to a file, and what the message says about it.
DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (Path.unlink, "expected 24584 bytes, got no such file"),
    "truncated": (lambda path: os.truncate(path, 1000), "expected 24584 bytes, got 1000 bytes"),
    "empty": (lambda path: os.truncate(path, 0), "expected 24584 bytes, got 0 bytes"),
    "too long": (lambda path: os.truncate(path, 24585), "expected 24584 bytes, got 24585 bytes"),
    "label": (lambda path: set_first_label(path, 10), "expected labels 0 to 9, got label 10 in record 2"),
    "folder": (replace_by_folder, "expected 24584 bytes, got something that is not a file"),
}


def test_records_are_read_plane_by_plane(small_cifar10: Path) -> None:
    data = read_cifar10(small_cifar10)
    assert data.train_images.shape == (40, 3, 32, 32)
    assert data.test_images.shape == (8, 3, 32, 32)
    record = (small_cifar10 / FOLDER / "data_batch_2.bin").read_bytes()[3073 : 2 * 3073]
    image = data.train_images[9]
    assert data.train_labels[9] == record[0]
    for channel, row, column in [(0, 0, 0), (0, 0, 1), (1, 2, 3), (2, 31, 31)]:
        same = record[1 + 1024 * channel + 32 * row + column] == np.array(list(record[1 + 1024 * channel :][:1024]))
        values = image[channel].flatten()[torch.from_numpy(same)]
        assert torch.all(values == image[channel, row, column])


def test_the_folder_and_its_parent_are_the_same_data(small_cifar10: Path) -> None:
    assert fingerprint(read_cifar10(small_cifar10)) == fingerprint(read_cifar10(small_cifar10 / FOLDER))


@pytest.mark.parametrize("file", ["data_batch_1.bin", "data_batch_4.bin", "test_batch.bin"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named_with_what_to_do(small_cifar10: Path, file: str, damage: str) -> None:
    path = small_cifar10 / FOLDER / file
    harm, message = DAMAGES[damage]
    harm(path)
    with pytest.raises(WorkError) as caught:
        read_cifar10(small_cifar10)
    text = str(caught.value)
    assert text.startswith(f"{path}: {message}: ")
    assert "--data-dir" in text
    assert "\n" not in text


def test_an_unreadable_file_is_named(small_cifar10: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, dtype: type) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(np, "fromfile", refuse)
    with pytest.raises(WorkError, match=r"data_batch_1.bin: expected a file that can be read, got Permission denied"):
        read_cifar10(small_cifar10)


def test_a_missing_folder_and_an_empty_one_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(WorkError, match=r"nowhere: expected the folder .* got no such folder: correct --data-dir"):
        read_cifar10(tmp_path / "nowhere")
    with pytest.raises(WorkError, match="got a folder without them"):
        read_cifar10(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(WorkError, match="got a file"):
        read_cifar10(tmp_path / "file")
    with pytest.raises(WorkError, match="File name too long"):
        read_cifar10(tmp_path / ("x" * 300))


def test_more_examples_than_there_are_is_refused(small_cifar10: Path) -> None:
    with pytest.raises(CallError, match="between 1 and 40 training examples of cifar10, got 41"):
        load("cifar10", small_cifar10, train_examples=41)


def test_other_files_in_the_folder_do_not_matter(small_cifar10: Path) -> None:
    (small_cifar10 / FOLDER / "notes.txt").write_text("mine")
    assert len(FILES) == 6
    assert len(read_cifar10(small_cifar10).classes) == 10


@pytest.mark.real_data
def test_the_real_images(cifar10_dir: Path) -> None:
    data = load("cifar10", cifar10_dir)
    assert data.train_images.shape == (50_000, 3, 32, 32)
    assert torch.bincount(data.train_labels).tolist() == [5000] * 10
    assert torch.bincount(data.test_labels).tolist() == [1000] * 10
    assert data.train_images.mean(dim=(0, 2, 3)).abs().max() < 1e-5
    assert data.test_images.mean(dim=(0, 2, 3)).abs().max() < 0.03  # the test images are like the training images
