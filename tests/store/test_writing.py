"""Whole or not at all: whatever stops a writer, readers see finished runs only."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.studies import ENVIRONMENT, run_spec, segments, training_rows, write_study

from alidade.core.errors import WorkError
from alidade.core.records import Row
from alidade.store import files, finished_segments, load, open_study, write_manifest, write_run

ONE = training_rows([2.0, 1.0])
PROBE = [Row(0, "loss", 2.5, "nat", step_size=0.1)]
REPLACEMENTS = 5  # of a run with two segments: both of them, spec.json, environment.json, DONE


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _fail_at(monkeypatch: pytest.MonkeyPatch, call: int, error: BaseException) -> None:
    real, calls = os.replace, iter(range(1000))

    def replace(source: str, target: str) -> None:
        if next(calls) == call:
            raise error
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)


@pytest.mark.parametrize("call", range(REPLACEMENTS))
def test_a_run_cut_short_anywhere_is_skipped_and_can_be_redone(
    call: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(tmp_path, run_spec(seed=101), segments(training=ONE), ENVIRONMENT)
    cut, content = run_spec(seed=100), segments(training=ONE, probe=PROBE)
    with monkeypatch.context() as patch:
        _fail_at(patch, call, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            write_run(tmp_path, cut, content, ENVIRONMENT)
    assert finished_segments(tmp_path, cut.run_id) == frozenset()
    assert set(load(tmp_path)["seed"]) == {101}
    write_run(tmp_path, cut, content, ENVIRONMENT)
    assert finished_segments(tmp_path, cut.run_id) == {"training", "probe"}
    assert set(load(tmp_path)["seed"]) == {100, 101}


def test_the_number_of_files_is_the_number_of_places_to_be_cut_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fail_at(monkeypatch, REPLACEMENTS, AssertionError("one more file than the test above cuts at"))
    write_run(tmp_path, run_spec(), segments(training=ONE, probe=PROBE), ENVIRONMENT)


@pytest.mark.parametrize("call", range(REPLACEMENTS - 1))
def test_an_addition_cut_short_leaves_the_finished_run_as_it_was(
    call: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = run_spec()
    write_run(tmp_path, spec, segments(training=ONE), ENVIRONMENT)
    before = load(tmp_path)
    with monkeypatch.context() as patch:
        _fail_at(patch, call, OSError(errno.ENOSPC, "No space left on device"))
        with pytest.raises(WorkError, match=r"could not be written \(No space left on device\); free space"):
            write_run(tmp_path, spec, segments(training=ONE, probe=PROBE), ENVIRONMENT)
    assert load(tmp_path).equals(before)
    write_run(tmp_path, spec, segments(training=ONE, probe=PROBE), ENVIRONMENT)
    assert finished_segments(tmp_path, spec.run_id) == {"training", "probe"}


def test_a_segment_is_added_without_touching_the_others(tmp_path: Path) -> None:
    spec = run_spec()
    folder = tmp_path / spec.run_id
    write_run(tmp_path, spec, segments(training=ONE, timing=[Row(0, "s_seconds", 1.0, "s")]), ENVIRONMENT)
    before = _contents(folder)
    again = segments(training=ONE, timing=[Row(0, "s_seconds", 2.0, "s")], probe=PROBE)
    write_run(tmp_path, spec, again, ENVIRONMENT)
    after = _contents(folder)
    assert set(after) - set(before) == {"probe.parquet"}
    assert {name for name in before if before[name] != after[name]} == {"DONE"}
    assert set(load(tmp_path)["quantity"]) == {"train_loss", "s_seconds", "loss"}


def test_training_that_does_not_repeat_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    spec = run_spec()
    write_run(tmp_path, spec, segments(training=ONE), ENVIRONMENT)
    before = _contents(tmp_path / spec.run_id)
    other = segments(training=training_rows([2.0, 1.0 + 2**-52]), probe=PROBE)
    with pytest.raises(WorkError, match="expected the training to repeat bit for bit"):
        write_run(tmp_path, spec, other, ENVIRONMENT)
    assert _contents(tmp_path / spec.run_id) == before


def test_training_that_diverged_counts_as_repeated(tmp_path: Path) -> None:
    diverged = training_rows([2.0, float("inf"), float("nan")])
    write_run(tmp_path, run_spec(), segments(training=diverged), ENVIRONMENT)
    write_run(tmp_path, run_spec(), segments(training=diverged, probe=PROBE), ENVIRONMENT)
    assert finished_segments(tmp_path, run_spec().run_id) == {"training", "probe"}


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_full_disk_is_one_line_and_leaves_no_litter(
    function: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_study(tmp_path)
    before = load(tmp_path)

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, function, full)
    with pytest.raises(WorkError, match="No space left on device") as caught:
        write_run(tmp_path, run_spec(seed=101), segments(training=ONE), ENVIRONMENT)
    assert "\n" not in str(caught.value)
    with pytest.raises(WorkError, match="No space left on device"):
        write_manifest(tmp_path, {"settings": {}, "experiments": {}})
    assert load(tmp_path).equals(before)
    assert list(tmp_path.rglob("*.partial")) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB, where the machine lets us mount one."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting is not permitted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_disk_that_is_really_full_keeps_what_was_finished(small_disk: Path) -> None:
    write_run(small_disk, run_spec(seed=100), segments(training=ONE), ENVIRONMENT)
    before = load(small_disk)
    noise = training_rows(float(hash((k, "noise"))) for k in range(20_000))  # does not compress to 64 KiB
    with pytest.raises(WorkError, match="No space left on device"):
        write_run(small_disk, run_spec(seed=101), segments(training=noise), ENVIRONMENT)
    assert load(small_disk).equals(before)


def test_what_a_killed_writer_left_is_cleared_away(tmp_path: Path) -> None:
    folder = tmp_path / run_spec().run_id
    folder.mkdir()
    (folder / ".0123.partial").write_bytes(b"half of a segm")
    write_run(tmp_path, run_spec(), segments(training=ONE), ENVIRONMENT)
    assert list(folder.glob("*.partial")) + list(folder.glob(".*.partial")) == []


def test_two_commands_may_write_the_same_run_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their timings differ; DONE must list the segments that are there, whoever comes last."""
    real: Callable[[Path, bytes], None] = files.write_atomically

    def slow(path: Path, data: bytes) -> None:
        real(path, data)
        time.sleep(0.01)  # lets the others in between any two files

    monkeypatch.setattr(files, "write_atomically", slow)
    monkeypatch.setattr("alidade.store.study.write_atomically", slow)
    start = threading.Barrier(4)

    def write(seconds: float) -> None:
        start.wait()
        timing = [Row(0, "training_seconds", seconds, "s")]
        write_run(tmp_path, run_spec(), segments(training=ONE, timing=timing), ENVIRONMENT)

    threads = [threading.Thread(target=write, args=(float(k),)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert finished_segments(tmp_path, run_spec().run_id) == {"training", "timing"}
    assert load(tmp_path).height == len(ONE) + 1


def test_others_may_read_what_was_written_as_far_as_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_study(tmp_path)
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*") if path.is_file()}
    assert modes == {0o640}


@pytest.mark.parametrize("where", ["file", "file/below", "x" * 300])
def test_a_folder_that_cannot_be_made_is_one_line(where: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file")
    with pytest.raises((WorkError, OSError)) as caught:
        write_manifest(tmp_path / where, {"settings": {}, "experiments": {}})
    assert "\n" not in str(caught.value)


def test_the_manifest_keeps_experiments_of_the_same_settings_only(tmp_path: Path) -> None:
    write_manifest(tmp_path, {"command": "a", "settings": {"l2": 0}, "experiments": {"landscape": ["1"]}})
    write_manifest(tmp_path, {"command": "b", "settings": {"l2": 0}, "experiments": {"noisy_norm": ["2"]}})
    write_run(tmp_path, run_spec(), segments(training=ONE), ENVIRONMENT)
    write_manifest(tmp_path, {"command": "c", "settings": {"l2": 0}, "experiments": {"all": [run_spec().run_id]}})
    manifest = open_study(tmp_path).manifest
    assert manifest["command"] == "c"
    assert manifest["experiments"] == {"landscape": ["1"], "noisy_norm": ["2"], "all": [run_spec().run_id]}
    assert open_study(tmp_path).unfinished == ("1", "2")
    write_manifest(tmp_path, {"command": "d", "settings": {"l2": 1}, "experiments": {"x": [run_spec().run_id]}})
    assert open_study(tmp_path).manifest["experiments"] == {"x": [run_spec().run_id]}
