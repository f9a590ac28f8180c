"""The main job, through the console script: from one command to a page, verdicts and a table."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from tests.console import ALIDADE, alidade, error_line

from alidade.core.records import COLUMNS
from alidade.store import SCHEMA, load

RUNS = 6  # two seeds of three networks
PROMISED = ["claim", "experiment", "paper", "verdict", "statistic", "estimate", "interval", "threshold", "n", "runs"]


def _reproducible(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.filter(~pl.col("quantity").str.ends_with("_seconds"))


def _log(demo_dir: Path) -> dict[str, object]:
    return json.loads((demo_dir.parent / "demo.json").read_text())


def _runs(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.glob("*/DONE"))


def test_the_demo_says_where_its_report_is(demo_dir: Path) -> None:
    log = _log(demo_dir)
    assert log["out"] == f"report: {demo_dir / 'report.html'}\n"
    assert (demo_dir / "report.html").stat().st_size > 100_000
    assert len(_runs(demo_dir)) == RUNS


def test_without_a_terminal_progress_is_plain_lines(demo_dir: Path) -> None:
    first, *lines = str(_log(demo_dir)["err"]).splitlines()
    assert first == "6 runs: 0 finished before are reused, 6 to do"
    form = r"\[(\d)/6\] (none|batch|noisy) lr 0\.1 seed 10[01]  loss \d\.\d{3}  accuracy \d\.\d\d  \d+\.\d min left"
    assert [re.fullmatch(form, line)[1] for line in lines] == list("123456")  # type: ignore[index]


def test_what_is_there_is_reused_and_what_is_lost_comes_back_bit_for_bit(demo_dir: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(demo_dir, copy)
    lost = next(run for run in _runs(copy) if '"norm": "none"' in (run / "spec.json").read_text())
    kept = [run for run in _runs(copy) if run != lost]
    before = {path: path.read_bytes() for run in kept for path in run.iterdir()}
    shutil.rmtree(lost)
    again = alidade("demo", "--out", copy, "--seeds", 2)
    assert again.returncode == 0, again.stderr
    assert again.stderr.startswith("6 runs: 5 finished before are reused, 1 to do\n[1/1] ")
    assert {path: path.read_bytes() for run in kept for path in run.iterdir()} == before
    assert _reproducible(load(copy)).equals(_reproducible(load(demo_dir)))

    third = alidade("demo", "--out", copy, "--seeds", 2)
    assert (third.returncode, third.stderr) == (0, "6 runs: 6 finished before are reused, 0 to do\n")
    assert third.stdout == f"report: {copy / 'report.html'}\n"


def test_the_table_holds_every_step_size_with_its_provenance(demo_dir: Path) -> None:
    frame = load(demo_dir)
    assert frame.columns == list(COLUMNS)
    lines = frame.filter(pl.col("quantity").is_in(["loss", "relative_loss"]))
    sizes = lines.group_by("quantity").agg(pl.col("step_size").round(9).unique().sort()).sort("quantity")
    assert sizes["step_size"].to_list() == [
        [0, 0.001, 0.01, 0.05, 0.1, 0.2, 0.4],
        [0, 0.01, 0.03, 0.1, 0.3],
    ]
    per_run = lines.group_by("run", "quantity", "step_size").agg(pl.col("step").sort())
    assert per_run["step"].to_list() == [list(range(0, 121, 2))] * per_run.height
    assert {"resolution", "directional_curvature", "relative_effective_smoothness"} <= set(frame["quantity"])
    assert set(frame["seed"]) == {100, 101}
    assert set(lines["statistics"]) == {"none", "batch"}
    assert frame.filter((pl.col("status") == "ok") & ~pl.col("value").is_finite()).is_empty()


def test_claims_answer_as_the_contract_says(demo_dir: Path) -> None:
    result = alidade("claims", demo_dir, "--json")
    assert (result.returncode, result.stderr) == (0, "")
    assert alidade("claims", demo_dir, "--json").stdout == result.stdout
    verdicts = {verdict["claim"]: verdict for verdict in json.loads(result.stdout)}
    expected = {"faster_training", "noisy_norm_trains"}
    for name in ("loss_band", "gradient_band", "effective_smoothness"):
        expected |= {name, f"{name}_equal_loss", f"{name}_scale_free", f"{name}_scale_free_equal_loss"}
    assert expected <= set(verdicts)
    assert "larger_learning_rates" not in verdicts  # the demo has no run that bears on it
    runs = {path.name for path in _runs(demo_dir)}
    for verdict in verdicts.values():
        assert [key for key in verdict if key in PROMISED] == PROMISED
        assert verdict["verdict"] in ("supported", "refuted", "undecided")
        assert verdict["estimate"] is not None or verdict["verdict"] == "undecided"
        assert set(verdict["runs"]) <= runs
        assert verdict["n"] <= 2
    assert verdicts["faster_training"]["n"] == 2
    assert verdicts["faster_training"]["estimate"] > 1


def test_claims_for_a_person_name_each_claim_in_full(demo_dir: Path) -> None:
    table = alidade("claims", demo_dir).stdout.splitlines()
    named = [verdict["claim"] for verdict in json.loads(alidade("claims", demo_dir, "--json").stdout)]
    assert [line.split()[0] for line in table[1:]] == named
    assert table[0].split()[:3] == ["claim", "verdict", "estimate"]


def test_csv_and_parquet_are_the_same_table(demo_dir: Path, tmp_path: Path) -> None:
    csv = alidade("export", demo_dir, "--to", "csv")
    (tmp_path / "table.csv").write_text(csv.stdout)
    parquet = alidade("export", demo_dir, "--to", "parquet", "--out", tmp_path / "new" / "table.parquet")
    assert parquet.stdout == f"{tmp_path / 'new' / 'table.parquet'}\n"
    frame = pl.read_parquet(tmp_path / "new" / "table.parquet")
    assert frame.equals(load(demo_dir))
    assert pl.read_csv(tmp_path / "table.csv", schema=SCHEMA).equals(frame)
    assert (csv.returncode, csv.stderr) == (0, "")


def test_parquet_goes_into_the_folder_unless_told_otherwise(small_study: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(small_study, copy)
    assert alidade("export", copy, "--to", "parquet").stdout == f"{copy / 'export.parquet'}\n"
    assert pl.read_parquet(copy / "export.parquet").equals(load(small_study))
    assert alidade("export", copy, "--to", "csv", "--out", copy / "t.csv").stdout == f"{copy / 't.csv'}\n"
    assert load(copy).equals(load(small_study))  # exports do not disturb the study


def test_the_page_is_built_again_byte_for_byte(demo_dir: Path, tmp_path: Path) -> None:
    result = alidade("report", demo_dir, "--out", tmp_path / "page.html")
    assert result.stdout == f"{tmp_path / 'page.html'}\n"
    assert (tmp_path / "page.html").read_bytes() == (demo_dir / "report.html").read_bytes()


def test_help_loads_nothing_heavy() -> None:
    program = "import sys; sys.argv = ['alidade', '--help']; from alidade.cli import main; main()"
    shown = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", program], capture_output=True, text=True, check=True
    )
    assert "reproduce" in shown.stdout
    loaded = {line.rpartition("|")[2].strip() for line in shown.stderr.splitlines()}
    assert "typer" in loaded  # so that the absence of the others says something
    assert not loaded & {"torch", "altair", "polars", "scipy", "sklearn", "ray"}


@pytest.mark.parametrize("command", ["export {folder} --to csv | head -n 1", "claims {folder} --json | true"])
def test_a_reader_that_leaves_early_is_no_reason_to_complain(command: str, small_study: Path) -> None:
    line = f"{ALIDADE} {command.format(folder=small_study)}"
    result = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert result.stderr == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_that_cannot_be_written_is_an_error(small_study: Path) -> None:
    with Path("/dev/full").open("w") as full:
        command = [ALIDADE, "export", small_study, "--to", "csv"]
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert "No space left on device" in error_line(result, 1)
