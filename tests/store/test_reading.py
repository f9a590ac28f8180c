"""Damage is named, and never read as numbers."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
from tests.studies import ENVIRONMENT, run_spec, segments, training_rows, write_study

from alidade.core.errors import CallError, WorkError
from alidade.store import FORMAT, Study, finished_segments, load, open_study, write_manifest, write_run

NEEDED = ("spec.json", "training.parquet", "probe.parquet")  # a run without its DONE is unfinished, not damaged
MUTATIONS = 240
HARMLESS = 0.1  # of the mutations, at most: such as a blank changed in a JSON file


def _mutate(path: Path, how: random.Random) -> None:
    data = bytearray(path.read_bytes())
    kind = how.choice(["bit", "byte", "cut", "zeros", "longer", "empty", "gone"])
    at = how.randrange(len(data))
    if kind == "gone" and path.name in NEEDED:
        path.unlink()
        return
    if kind == "byte":
        data[at] = how.randrange(256)
    elif kind == "cut":
        data = data[:at]
    elif kind == "zeros":
        data[at : at + 16] = bytes(len(data[at : at + 16]))
    elif kind == "longer":
        data += bytes(how.randrange(1, 9))
    elif kind == "empty":
        data = bytearray()
    else:
        data[at] ^= 1 << how.randrange(8)
    path.write_bytes(data)


def _read(root: Path) -> Study | str:
    try:
        return open_study(root)
    except WorkError as error:
        return str(error)


def _same(one: Study, other: Study) -> bool:
    return (
        one.frame.equals(other.frame)
        and (one.specs, one.manifest) == (other.specs, other.manifest)
        and (one.environments, one.unfinished) == (other.environments, other.unfinished)
    )


def test_no_damage_to_any_file_is_read_as_numbers(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    write_study(whole, seeds=(100, 101))
    expected, how = open_study(whole), random.Random(20180529)
    names = sorted(str(path.relative_to(whole)) for path in whole.rglob("*") if path.is_file() and path.name != ".lock")
    assert len(names) == 1 + 2 * 5
    harmless = 0
    for number in range(MUTATIONS):
        copy = tmp_path / "copy"
        shutil.copytree(whole, copy)
        damaged = copy / names[number % len(names)]
        _mutate(damaged, how)
        read = _read(copy)
        if isinstance(read, Study):
            harmless += 1
            assert _same(read, expected), (damaged, number)
        else:
            assert str(damaged) in read
            assert "\n" not in read
        shutil.rmtree(copy)
    assert harmless < HARMLESS * MUTATIONS


@pytest.mark.parametrize("name", ["training.parquet", "DONE"])
def test_a_damaged_run_is_not_taken_for_a_finished_one(name: str, tmp_path: Path) -> None:
    write_study(tmp_path)
    damaged = tmp_path / run_spec().run_id / name
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(WorkError, match=f"{name}: expected the file as it was written.*move .* away and repeat"):
        finished_segments(tmp_path, run_spec().run_id)


def test_nothing_is_added_to_a_damaged_run(tmp_path: Path) -> None:
    write_study(tmp_path)
    (tmp_path / run_spec().run_id / "probe.parquet").write_bytes(b"")
    with pytest.raises(WorkError, match=r"probe\.parquet: expected the file as it was written"):
        write_run(tmp_path, run_spec(), segments(training=training_rows([2.0]), more=[]), ENVIRONMENT)


def test_a_run_in_the_folder_of_another_is_damage(tmp_path: Path) -> None:
    write_study(tmp_path)
    (tmp_path / "study.json").unlink()
    (tmp_path / run_spec().run_id).rename(tmp_path / run_spec(seed=101).run_id)
    with pytest.raises(WorkError, match=r"spec\.json: expected the file as it was written"):
        open_study(tmp_path)


@pytest.mark.parametrize("name", ["DONE", "study.json"])
def test_a_newer_format_is_refused_with_what_to_do(name: str, tmp_path: Path) -> None:
    write_study(tmp_path)
    path = tmp_path / name if name == "study.json" else tmp_path / run_spec().run_id / name
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": FORMAT + 1}))
    with pytest.raises(WorkError, match=f"{name}: expected format {FORMAT} or older, got {FORMAT + 1}; upgrade Alid"):
        open_study(tmp_path)
    if name == "study.json":
        with pytest.raises(WorkError, match="upgrade Alidade"):
            write_manifest(tmp_path, {"settings": {}, "experiments": {}})


def test_a_damaged_manifest_says_that_no_run_is_lost(tmp_path: Path) -> None:
    write_study(tmp_path)
    (tmp_path / "study.json").write_text("{")
    with pytest.raises(WorkError, match=r"study\.json.*delete it and repeat the command: no run is lost"):
        open_study(tmp_path)
    (tmp_path / "study.json").unlink()
    assert load(tmp_path).height == 5


def test_a_folder_without_runs_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(WorkError, match="expected a finished run, found none; run 'alidade demo --out"):
        open_study(tmp_path)
    with pytest.raises(CallError, match="expected a folder with runs, found none; make one with"):
        open_study(tmp_path / "gone")


def test_runs_that_the_last_command_did_not_plan_stay_out(tmp_path: Path) -> None:
    write_study(tmp_path, seeds=(100, 101))
    write_manifest(tmp_path, {"settings": {"l2": 1}, "experiments": {"landscape": [run_spec(101).run_id, "planned"]}})
    study = open_study(tmp_path)
    assert set(study.frame["seed"]) == {101}
    assert study.unfinished == ("planned",)
    assert set(study.runs_of("landscape")) == {run_spec(101).run_id}
    assert set(study.runs_of("never noted")) == {run_spec(101).run_id}


def test_any_name_of_a_folder_will_do(tmp_path: Path) -> None:
    root = tmp_path / "a [b] {c,d} * ? seed=7 % ü 'quoted'"
    write_study(root)
    assert load(root).height == 5
    write_run(root, run_spec(), segments(training=training_rows([2.0, 1.5, 101.0, float("nan")]), more=[]), ENVIRONMENT)
    assert finished_segments(root, run_spec().run_id) == {"training", "probe", "more"}
