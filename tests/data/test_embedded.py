from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits

from alidade.data import fingerprint
from alidade.data.embedded import _enlarge, digits


def test_the_digits_are_split_and_have_all_classes() -> None:
    data = digits()
    assert data.train_images.shape == (1500, 1, 32, 32)
    assert data.test_images.shape == (297, 1, 32, 32)
    assert data.classes == tuple("0123456789")
    assert set(data.train_labels.tolist()) == set(data.test_labels.tolist()) == set(range(10))


def test_no_example_is_lost_or_used_twice() -> None:
    data = digits()
    images = torch.cat([data.train_images, data.test_images]).flatten(1)
    labels = torch.cat([data.train_labels, data.test_labels])
    assert len(torch.unique(images, dim=0)) == len(np.unique(load_digits().data, axis=0))
    assert torch.bincount(labels).tolist() == np.bincount(load_digits().target).tolist()


def test_enlarging_is_torchs_bilinear_interpolation() -> None:
    small = load_digits().images[:50].astype(np.int16)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(small)[:, None].double(), size=(32, 32), mode="bilinear", align_corners=False
    )
    np.testing.assert_array_equal(_enlarge(small) / 64, expected[:, 0].numpy())


def test_the_digits_do_not_depend_on_global_random_state() -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    first = fingerprint(digits())
    torch.manual_seed(2)
    np.random.seed(2)
    assert fingerprint(digits()) == first
