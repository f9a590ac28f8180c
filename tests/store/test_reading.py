"""Damage is named, and never read as numbers."""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

import polars as pl
import pytest
from tests.studies import ENVIRONMENT, run_spec, segments, training_rows, write_study

from alidade.core.errors import CallError, WorkError
from alidade.store import FORMAT, Study, finished_segments, load, open_study, write_manifest, write_run, write_theory
from alidade.store.failures import clear_failure, note_failure

NEEDED = ("spec.json", "training.parquet", "probe.parquet")  # a run without its DONE is unfinished, not damaged
MUTATIONS = 1_000
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


def _of(study: Study, runs: Iterable[str]) -> list[tuple[object, ...]]:
    return sorted(map(repr, study.frame.filter(pl.col("run").is_in(list(runs))).rows()))


def _assert_the_rest_is_served(read: Study, expected: Study, damaged: Path) -> None:
    """Nothing that was not written; all of the other run; and of the damaged one all but the damaged file."""
    assert any(line.startswith(f"{damaged}: ") for line in read.damage), read.damage
    assert not any("\n" in line for line in read.damage)
    hit, others = damaged.parent.name, [run for run in expected.specs if run != damaged.parent.name]
    assert _of(read, others) == _of(expected, others)
    assert set(_of(read, [hit])) <= set(_of(expected, [hit]))
    kept = expected.frame.filter(pl.col("run") == hit)
    if damaged.name in ("training.parquet", "probe.parquet"):
        own = pl.col("quantity") == ("train_loss" if damaged.name == "training.parquet" else "loss")
        kept = kept.filter(~own)
    elif damaged.name in ("DONE", "spec.json"):
        kept = kept.clear()
    assert len(_of(read, [hit])) == kept.height
    assert read.theory == (None if damaged.name == "theory.json" else expected.theory)
    if damaged.name not in ("DONE", "spec.json"):
        assert read.specs == expected.specs


def _same(one: Study, other: Study) -> bool:
    return (
        one.frame.equals(other.frame)
        and (one.specs, one.manifest, one.theory) == (other.specs, other.manifest, other.theory)
        and (one.environments, one.unfinished) == (other.environments, other.unfinished)
    )


def test_no_damage_to_any_file_is_read_as_numbers_and_the_rest_is_served(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    write_study(whole, seeds=(100, 101))
    write_theory(whole, {"instances": 3, "seed": 1, "rows": [{"ratio": 0.5}]})
    expected, how = open_study(whole), random.Random(20180529)
    names = sorted(str(path.relative_to(whole)) for path in whole.rglob("*") if path.is_file() and path.name != ".lock")
    assert len(names) == 2 + 2 * 5
    harmless = refused = 0
    for number in range(MUTATIONS):
        copy = tmp_path / "copy"
        shutil.copytree(whole, copy)
        damaged = copy / names[number % len(names)]
        _mutate(damaged, how)
        read = _read(copy)
        if isinstance(read, str):  # a digit of the format was hit: it reads as a newer one
            refused += 1
            assert re.fullmatch(rf"{re.escape(str(damaged))}: expected format 1 or older, got \d+; upgrade .*", read)
        elif not read.damage:
            harmless += 1
            assert _same(read, expected), (damaged, number)
        else:
            _assert_the_rest_is_served(read, expected, damaged)
        shutil.rmtree(copy)
    assert harmless < HARMLESS * MUTATIONS
    assert refused < HARMLESS * MUTATIONS / 5


def test_where_all_is_damaged_the_first_damage_is_the_error(tmp_path: Path) -> None:
    write_study(tmp_path)
    path = tmp_path / run_spec().run_id / "DONE"
    path.write_bytes(b"")
    with pytest.raises(WorkError, match=r"DONE: expected the file as it was written, found: damaged; repeat the com"):
        open_study(tmp_path)


def test_load_warns_of_what_it_leaves_out(tmp_path: Path) -> None:
    write_study(tmp_path, seeds=(100, 101))
    whole = load(tmp_path)
    (tmp_path / run_spec().run_id / "probe.parquet").write_bytes(b"PAR1")
    with pytest.warns(UserWarning, match=r"probe\.parquet: expected the file as it was written"):
        frame = load(tmp_path)
    assert frame.height == whole.height - 1


def test_a_failed_run_is_named_until_it_is_finished(tmp_path: Path) -> None:
    write_study(tmp_path)
    spec = run_spec(101)
    planned = [run_spec().run_id, spec.run_id]
    write_manifest(tmp_path, {"settings": {"data": "digits"}, "experiments": {"landscape": planned}})
    note_failure(tmp_path / spec.run_id, spec.label, "out of memory: 3 TiB")
    study = open_study(tmp_path)
    assert study.troubles == [f"run {spec.run_id} ({spec.label}) failed: out of memory: 3 TiB"]
    assert study.unfinished == (spec.run_id,)
    clear_failure(tmp_path / spec.run_id)
    assert open_study(tmp_path).troubles == []


@pytest.mark.parametrize("name", ["training.parquet", "DONE"])
def test_a_damaged_run_is_not_taken_for_a_finished_one(name: str, tmp_path: Path) -> None:
    write_study(tmp_path)
    damaged = tmp_path / run_spec().run_id / name
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(WorkError, match=f"{name}: expected the file as it was written.*repeat the command"):
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


def test_a_damaged_manifest_costs_no_run(tmp_path: Path) -> None:
    write_study(tmp_path)
    (tmp_path / "study.json").write_text("{")
    study, said = open_study(tmp_path), list[str]()
    assert study.frame.height == 5
    assert study.damage[0].endswith("delete it and repeat the command: no run is lost")
    write_manifest(tmp_path, {"settings": {}, "experiments": {"landscape": [run_spec().run_id]}}, said.append)
    assert said == [f"{tmp_path / 'study.json'}: damaged, written anew; no run is lost"]
    assert open_study(tmp_path).damage == ()


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


def test_damage_in_several_runs_is_named_in_the_order_of_their_folders(tmp_path: Path) -> None:
    """Runs are read side by side; what is said of them is the same every time."""
    write_study(tmp_path, seeds=tuple(range(100, 112)))
    for path in tmp_path.glob("*/training.parquet"):
        path.write_bytes(path.read_bytes()[:-1])
    study = open_study(tmp_path)
    expected = sorted(tmp_path.glob("*/training.parquet"))
    assert [line.partition(": ")[0] for line in study.damage] == list(map(str, expected))
    assert study.frame["run"].unique(maintain_order=True).to_list() == sorted(study.specs)
