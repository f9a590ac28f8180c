"""One line that says what was expected, what came and what to do; exit 2 for a wrong call, 1 for work that failed."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import polars as pl
import pytest
import torch
from tests.cli.conftest import SMALL
from tests.console import ALIDADE, alidade, error_line

from alidade.data.cifar10 import FILES, FOLDER, file_bytes
from alidade.store import load

CIFAR10 = ("reproduce", "landscape", "--data", "cifar10", "--data-dir")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("dmeo", "No such command 'dmeo'"),
        ("dmeo", "known: demo, reproduce, "),
        ("demo --seeds 0", "Invalid value for '--seeds'"),  # the rest is typer's, and changes with its version
        ("demo --seeds many", "Invalid value for '--seeds'"),
        ("demo --colour red", "No such option: --colour"),
        ("demo somewhere", "unexpected extra argument"),
        ("reproduce", "Missing argument 'NAME'"),
        ("reproduce landscapes", "expected one of training_speed, activations, noisy_norm"),
        ("reproduce all --scale huge", "'huge' is not one of 'quick', 'paper'"),
        ("reproduce all --data mnist", "'mnist' is not one of 'digits', 'cifar10'"),
        ("reproduce all --init zero", "'zero' is not one of 'he', 'glorot'"),
        ("reproduce all --device tpu", "'tpu' is not one of 'auto', 'cpu', 'cuda'"),
        ("reproduce all --l2 -1", "Invalid value for '--l2'"),
        ("reproduce all --l2 nan", "Invalid value for '--l2'"),
        ("reproduce all --max-minutes inf", "expected a finite number, got inf"),
        ("reproduce all --data digits --data-dir {tmp}", "--data-dir is for cifar10"),
        ("claims", "Missing argument 'DIR'"),
        ("claims {tmp}/gone", "expected a folder with runs, found none; make one with 'alidade demo --out"),
        ("report {tmp}/gone", "expected a folder with runs, found none"),
        ("export {tmp}", "Missing option '--to'"),
        ("export {tmp} --to xls", "'xls' is not one of 'parquet', 'csv'"),
        ("export {tmp}/gone --to csv", "expected a folder with runs, found none"),
    ],
)
def test_a_wrong_call(arguments: str, says: str, tmp_path: Path) -> None:
    result = alidade(*arguments.format(tmp=tmp_path).split(), cwd=tmp_path)
    assert says in error_line(result, 2)
    assert list(tmp_path.iterdir()) == []  # nothing was begun


@pytest.mark.parametrize("command", ["claims", "report", "export --to csv"])
def test_a_folder_without_runs(command: str, tmp_path: Path) -> None:
    name, *options = command.split()
    result = alidade(name, tmp_path, *options)
    assert "expected a finished run, found none; run 'alidade demo --out" in error_line(result, 1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there(tmp_path: Path) -> None:
    result = alidade(*SMALL, "--device", "cuda", "--out", tmp_path / "out")
    assert "expected a CUDA device for 'cuda', found none; use cpu or auto" in error_line(result, 2)
    assert not (tmp_path / "out").exists()


def test_an_out_that_cannot_be_written_is_noticed_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        line = error_line(alidade(*SMALL, "--out", out), 1)
        assert f"--out {out}: expected a folder that can be written" in line


def _cifar10(folder: Path) -> None:
    """Six files of the right size, full of holes: they take no space."""
    folder.mkdir()
    for name in FILES:
        with (folder / name).open("wb") as file:
            file.truncate(file_bytes())


def _missing(folder: Path) -> str:
    (folder / "data_batch_3.bin").unlink()
    return "data_batch_3.bin: expected 30730000 bytes, got no such file"


def _truncated(folder: Path) -> str:
    with (folder / "test_batch.bin").open("r+b") as file:
        file.truncate(file_bytes() - 1)
    return "test_batch.bin: expected 30730000 bytes, got 30729999 bytes"


def _bad_label(folder: Path) -> str:
    with (folder / "data_batch_5.bin").open("r+b") as file:
        file.seek(3073 * 41)
        file.write(b"\x0a")
    return "data_batch_5.bin: expected labels 0 to 9, got label 10 in record 41"


def _nothing(folder: Path) -> str:
    shutil.rmtree(folder)
    return f"expected the folder {FOLDER} or its parent"


@pytest.mark.parametrize("damage", [_missing, _truncated, _bad_label, _nothing])
def test_damaged_cifar10(damage: object, tmp_path: Path) -> None:
    _cifar10(tmp_path / FOLDER)
    says = damage(tmp_path / FOLDER)  # type: ignore[operator]
    result = alidade(*CIFAR10, tmp_path, "--out", tmp_path / "out")
    assert says in error_line(result, 1)
    assert not (tmp_path / "out").exists()


def test_damage_in_the_store_is_named_by_every_command_and_the_rest_is_served(
    small_study: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(small_study, copy)
    damaged = sorted(copy.glob("*/training.parquet"))[2]
    damaged.write_bytes(damaged.read_bytes()[:-9])
    warning = f"warning: {damaged}: expected the file as it was written, found: damaged; repeat the command that made"
    for arguments in (("claims", copy, "--json"), ("export", copy, "--to", "csv"), ("report", copy)):
        result = alidade(*arguments)
        assert result.returncode == 0, result.stderr
        assert result.stderr.startswith(warning)
        assert result.stdout
    assert f"{damaged}: expected the file" in (copy / "report.html").read_text()
    again = alidade(*SMALL, "--out", copy)
    assert again.returncode == 0, again.stderr
    place = copy / "damaged" / f"{damaged.parent.name}.0"
    assert f"warning: {damaged}: damaged; the run is now in {place} and is measured again" in again.stderr
    assert "4 runs: 3 finished before are reused, 1 to do" in again.stderr
    assert (place / "training.parquet").exists()
    frames = [load(folder).filter(~pl.col("quantity").str.ends_with("_seconds")) for folder in (copy, small_study)]
    assert frames[0].equals(frames[1])


def test_a_file_system_that_takes_no_more_keeps_what_was_finished(small_study: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands for a full disk: the manifest still fits, a segment does not."""
    copy = tmp_path / "copy"
    shutil.copytree(small_study, copy)
    lost, *kept = sorted(path.parent for path in copy.glob("*/DONE"))
    shutil.rmtree(lost)
    line = " ".join(["ulimit -f 2 && exec", str(ALIDADE), *map(str, SMALL), "--out", str(copy)])
    result = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith("error: 1 of 1 runs failed; the first: ")
    assert "could not be written (File too large); free space or change --out" in result.stderr
    assert "Traceback" not in result.stderr
    assert sorted(path.parent for path in copy.glob("*/DONE")) == kept
    assert alidade("claims", copy).returncode == 0


def test_figures_and_tables_of_a_study_as_files(small_study: Path, tmp_path: Path) -> None:
    result = alidade("report", small_study, "--out", tmp_path / "page.html", "--figures", tmp_path / "figures")
    assert result.returncode == 0, result.stderr
    listed = [Path(line) for line in result.stdout.splitlines()]
    assert listed[0] == tmp_path / "page.html"
    assert sorted(listed[1:]) == sorted((tmp_path / "figures").iterdir())
    assert {"figures.md", "verdicts.md", "verdicts.csv", "beside-the-paper.md"} < {path.name for path in listed}


def test_figures_where_no_folder_can_be(small_study: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = alidade("report", small_study, "--out", tmp_path / "page.html", "--figures", tmp_path / "file")
    assert "expected a folder that can be written, got: " in error_line(result, 1)


def test_another_init_means_other_runs(small_study: Path, tmp_path: Path) -> None:
    """With no time to run them: the plan alone."""
    result = alidade(*SMALL, "--init", "glorot", "--max-minutes", 0, "--out", tmp_path)
    assert "the time of --max-minutes is over; repeat the command to go on" in error_line(result, 1)
    he, glorot = (json.loads((folder / "study.json").read_text()) for folder in (small_study, tmp_path))
    assert (he["settings"]["init"], glorot["settings"]["init"]) == (None, "glorot")
    planned = [set(manifest["experiments"]["theorems"]) for manifest in (he, glorot)]
    assert planned[0].isdisjoint(planned[1])
    specs = [json.loads(path.read_text()) for path in small_study.glob("*/spec.json")]
    assert [spec["model"]["init"] for spec in specs] == ["he"] * 4


def test_an_error_of_our_own_is_one_line_with_a_way_to_see_more(small_study: Path, tmp_path: Path) -> None:
    program = (
        "import alidade.experiments as e, sys; from alidade.cli import main;"
        f"e.judge_study = lambda study: 1 / 0; sys.argv = ['alidade', 'claims', {str(small_study)!r}]; main()"
    )
    python = ALIDADE.with_name("python")
    result = subprocess.run([python, "-c", program], capture_output=True, text=True, check=False)
    assert "unexpected ZeroDivisionError: division by zero; for a report of it set ALIDADE" in error_line(result, 1)
    command, environment = [python, "-c", program], {"ALIDADE_TRACEBACK": "1"}
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert "Traceback" in result.stderr
