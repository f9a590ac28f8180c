"""A checkpoint is read as it was written, or refused in one line that says what to do."""

from __future__ import annotations

import json
import os
import pickle
import random
from pathlib import Path
from typing import Any

import pytest
from tests.studies import run_spec, segments, training_rows

from alidade.core.errors import WorkError
from alidade.core.records import Row
from alidade.store.checkpoints import (
    CHECKPOINT,
    CHECKPOINT_FORMAT,
    DamagedCheckpointError,
    read_checkpoint,
    remove_checkpoint,
    write_checkpoint,
)
from alidade.store.files import sha256

RUN = run_spec().run_id
STATE = bytes(range(256)) * 3
ROWS = {"training": training_rows([2.0, float("nan")]), "probe": [Row(0, "loss", 2.5, "nat", "a", 0.1)], "empty": []}


def _write(folder: Path, step: int = 2, state: bytes = STATE) -> bytes:
    write_checkpoint(folder, RUN, step, segments(**ROWS), state, {"device": "cpu"})
    return (folder / CHECKPOINT).read_bytes()


def test_it_comes_back_as_it_was_written(tmp_path: Path) -> None:
    assert read_checkpoint(tmp_path / "new", RUN) is None
    _write(tmp_path / "new")
    found = read_checkpoint(tmp_path / "new", RUN)
    assert found is not None
    assert (found.step, found.state, found.about) == (2, STATE, {"device": "cpu"})
    assert found.segments.names == ("training", "probe", "empty")
    for name in ROWS:
        assert found.segments.frame(name).equals(segments(**ROWS).frame(name), null_equal=True)
    found.segments.record("probe", ROWS["probe"])  # and goes on
    assert found.segments.frame("probe").height == 2


def test_the_last_one_counts_and_is_removed(tmp_path: Path) -> None:
    _write(tmp_path, step=1)
    _write(tmp_path, step=5)
    found = read_checkpoint(tmp_path, RUN)
    assert found is not None
    assert found.step == 5
    assert [path.name for path in tmp_path.iterdir()] == [CHECKPOINT]
    remove_checkpoint(tmp_path)
    remove_checkpoint(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_no_damage_is_read_as_a_state(tmp_path: Path) -> None:
    whole, how = _write(tmp_path), random.Random(20180529)
    for number in range(300):
        data = bytearray(whole)
        at = how.randrange(len(data))
        if number % 3 == 0:
            data = data[:at]
        elif number % 3 == 1:
            data[at] ^= 1 << how.randrange(8)
        else:
            data[at : at + 40] = bytes(len(data[at : at + 40]))
        (tmp_path / CHECKPOINT).write_bytes(data)
        if bytes(data) == whole:
            continue
        with pytest.raises(DamagedCheckpointError, match="as it was written, found it damaged") as caught:
            read_checkpoint(tmp_path, RUN)
        assert str(tmp_path / CHECKPOINT) in str(caught.value)
        assert "\n" not in str(caught.value)


def _with_head(folder: Path, **changed: Any) -> None:
    """A file whose digest is right and whose head says something else."""
    magic, _, rest = (folder / CHECKPOINT).read_bytes().split(b"\n", 2)
    head, _, pieces = rest.partition(b"\n")
    body = json.dumps(json.loads(head) | changed).encode() + b"\n" + pieces
    (folder / CHECKPOINT).write_bytes(b"\n".join([magic, sha256(body).encode(), body]))


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (
            {"format": CHECKPOINT_FORMAT + 1},
            rf"expected a checkpoint of format {CHECKPOINT_FORMAT} or older, got 2; upg",
        ),
        ({"run": "0123456789ab"}, f"expected the checkpoint of run {RUN}, got that of 0123456789ab; delete it"),
    ],
)
def test_another_version_and_another_run_are_refused(changed: dict[str, Any], says: str, tmp_path: Path) -> None:
    _write(tmp_path)
    _with_head(tmp_path, **changed)
    with pytest.raises(WorkError, match=says) as caught:
        read_checkpoint(tmp_path, RUN)
    assert not isinstance(caught.value, DamagedCheckpointError)
    assert "\n" not in str(caught.value)


class _Bomb:
    def __init__(self, file: Path) -> None:
        self._file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self._file}",)


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_pickle_in_its_place_is_refused_and_not_opened(protocol: int, tmp_path: Path) -> None:
    bomb = pickle.dumps(_Bomb(tmp_path / "exploded"), protocol)
    (tmp_path / CHECKPOINT).write_bytes(bomb)
    with pytest.raises(WorkError, match="expected a checkpoint of Alidade, got another kind of file, which is not op"):
        read_checkpoint(tmp_path, RUN)
    assert not (tmp_path / "exploded").exists()
    pickle.loads(bomb)
    assert (tmp_path / "exploded").exists()  # it was one


def test_a_bomb_behind_our_first_line_is_damage(tmp_path: Path) -> None:
    whole = _write(tmp_path)
    bomb = pickle.dumps(_Bomb(tmp_path / "exploded"))
    (tmp_path / CHECKPOINT).write_bytes(whole.split(b"\n", 1)[0] + b"\n" + bomb)
    with pytest.raises(DamagedCheckpointError):
        read_checkpoint(tmp_path, RUN)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_checkpoint_that_cannot_be_written_leaves_the_earlier_one(
    function: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write(tmp_path, step=1)

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, function, full)
        with pytest.raises(OSError, match="No space left"):
            _write(tmp_path, step=2)
    found = read_checkpoint(tmp_path, RUN)
    assert found is not None
    assert found.step == 1
    assert [path.name for path in tmp_path.iterdir()] == [CHECKPOINT]
