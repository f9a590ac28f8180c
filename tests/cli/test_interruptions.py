"""Ctrl-C, kills and deadlines: finished runs stay, nobody is left behind, and the same command goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from tests.cli.conftest import SMALL, SMALL_RUNS
from tests.console import alidade, end, error_line, is_posix_with_proc, members, start, wait_for, workers

from alidade.store import load

pytestmark = pytest.mark.skipif(not is_posix_with_proc(), reason="looks at processes through /proc")

#: Told from a hang, not measured: 0.2 seconds on an idle machine, many more where other tests have the cores.
SECONDS = 60.0


def _finished(out: Path) -> int:
    return len(list(out.glob("*/DONE")))


def _until_a_run_is_finished(out: Path) -> subprocess.Popen[str]:
    process = start(*SMALL, "--out", out)
    wait_for(lambda: _finished(out) or process.poll() is not None, "a finished run")
    return process


def _assert_nobody_left(session: int) -> None:
    began = time.monotonic()
    while left := members(session):
        assert time.monotonic() - began < SECONDS, left
        time.sleep(0.02)


def _assert_goes_on_as_if_nothing_had_happened(out: Path, kept: int, undisturbed: Path) -> None:
    again = alidade(*SMALL, "--out", out)
    assert again.returncode == 0, again.stderr
    assert again.stderr.startswith(f"4 runs: {kept} finished before are reused, {SMALL_RUNS - kept} to do\n")
    frames = [load(folder).filter(~pl.col("quantity").str.ends_with("_seconds")) for folder in (out, undisturbed)]
    assert frames[0].equals(frames[1])


def test_ctrl_c_ends_at_once_and_the_same_command_goes_on(small_study: Path, tmp_path: Path) -> None:
    process = _until_a_run_is_finished(tmp_path)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    result = end(process)
    assert time.monotonic() - began < SECONDS
    kept = _finished(tmp_path)
    line = error_line(result, 130)
    assert line.startswith(
        f"error: interrupted: {kept} of 4 runs are finished and kept in {tmp_path}; to go on, repeat: "
    )
    assert line.endswith(f"alidade reproduce theorems --data digits --seeds 4 --out {tmp_path}")
    _assert_nobody_left(process.pid)
    assert 1 <= kept < SMALL_RUNS
    _assert_goes_on_as_if_nothing_had_happened(tmp_path, kept, small_study)


def _holds_back_ctrl_c(pid: int) -> bool:
    """Whether a process blocks or ignores the signal, from its first instruction on."""
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return bool((int(status["SigBlk"], 16) | int(status["SigIgn"], 16)) >> (signal.SIGINT - 1) & 1)


def _twice_to_the_group(process: subprocess.Popen[str]) -> None:
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(0.05)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGINT)


@pytest.mark.parametrize(
    "press", [lambda process: os.killpg(process.pid, signal.SIGINT), _twice_to_the_group], ids=["once", "twice"]
)
def test_ctrl_c_of_a_terminal_reaches_the_workers_too_and_they_stay_silent(
    press: Callable[[subprocess.Popen[str]], None], tmp_path: Path
) -> None:
    """While the workers still import torch: they must not answer on their own."""
    process = start(*SMALL, "--out", tmp_path)
    wait_for(lambda: workers(process.pid), "the first worker")
    assert all(map(_holds_back_ctrl_c, workers(process.pid)))
    began = time.monotonic()
    press(process)
    result = end(process)
    assert time.monotonic() - began < SECONDS
    assert error_line(result, 130).startswith("error: interrupted")
    assert result.stdout == ""
    _assert_nobody_left(process.pid)


@pytest.mark.parametrize("seconds", [0.4, 1.0, 2.0])
def test_ctrl_c_while_torch_is_imported(seconds: float, tmp_path: Path) -> None:
    process = start(*SMALL, "--out", tmp_path)
    time.sleep(seconds)
    began = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    result = end(process)
    assert time.monotonic() - began < SECONDS
    assert error_line(result, 130).startswith("error: interrupted")
    _assert_nobody_left(process.pid)


def test_workers_die_with_a_parent_that_was_killed(small_study: Path, tmp_path: Path) -> None:
    process = _until_a_run_is_finished(tmp_path)
    assert workers(process.pid)
    process.kill()
    process.communicate()
    _assert_nobody_left(process.pid)
    kept = _finished(tmp_path)
    assert 1 <= kept < SMALL_RUNS
    _assert_goes_on_as_if_nothing_had_happened(tmp_path, kept, small_study)


def test_workers_die_with_a_parent_that_was_killed_while_they_were_starting(tmp_path: Path) -> None:
    process = start(*SMALL, "--out", tmp_path)
    wait_for(lambda: workers(process.pid), "the first worker")
    process.kill()
    process.communicate()
    wait_for(lambda: not members(process.pid), "the workers to notice when torch is imported")
    assert _finished(tmp_path) == 0


def test_a_worker_that_is_killed_is_reported_and_what_was_finished_is_kept(tmp_path: Path) -> None:
    process = _until_a_run_is_finished(tmp_path)
    os.kill(workers(process.pid)[0], signal.SIGKILL)
    result = end(process)
    assert result.returncode == 1
    *_, page, line = result.stderr.splitlines()
    assert line.endswith("the first: a worker process died (out of memory?); repeat the command to go on")
    assert page == f"a report of the finished runs: {tmp_path / 'report.html'}"
    assert "Traceback" not in result.stderr
    _assert_nobody_left(process.pid)
    assert 1 <= _finished(tmp_path) < SMALL_RUNS
    assert len(set(load(tmp_path)["run"])) == _finished(tmp_path)


def test_the_time_allowed_is_kept(tmp_path: Path) -> None:
    process = start(*SMALL, "--max-minutes", 0.01, "--out", tmp_path)
    wait_for(lambda: workers(process.pid), "the first worker")
    began = time.monotonic()
    result = end(process)
    assert time.monotonic() - began < 0.6 + SECONDS
    assert "the time of --max-minutes is over; repeat the command to go on" in error_line(result, 1)
    _assert_nobody_left(process.pid)
