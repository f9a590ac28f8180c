from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from alidade.core.errors import CallError
from alidade.data import catalog, fingerprint, load
from alidade.data.embedded import digits


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(CallError, match=r"\(cifar10, digits\), got 'mnist'"):
        load(cast(Any, "mnist"))


def test_the_digits_take_no_folder(tmp_path: Path) -> None:
    with pytest.raises(CallError, match=r"--data-dir is for cifar10, got .* with digits"):
        load("digits", tmp_path)


def test_the_digits_by_name() -> None:
    assert fingerprint(load("digits", train_examples=100)) == fingerprint(digits(100))
    with pytest.raises(CallError, match="between 1 and 1500 training examples of digits, got 1501"):
        load("digits", train_examples=1501)


def test_without_a_folder_cifar10_is_fetched(small_cifar10: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "fetch_cifar10", lambda: small_cifar10)
    assert fingerprint(load("cifar10")) == fingerprint(load("cifar10", small_cifar10))
