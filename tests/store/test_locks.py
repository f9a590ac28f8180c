"""Two processes on one run: the second is told who holds it."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from alidade.core.errors import WorkError
from alidade.store.locks import HeldError, Holding

PROGRAM = """
import sys
from pathlib import Path
from alidade.core.errors import WorkError
from alidade.store.locks import Holding
try:
    holding = Holding(Path(sys.argv[1]))
except WorkError as error:
    print(error)
else:
    print("held", flush=True)
    sys.stdin.readline()
"""


def _other(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM), str(folder)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_the_second_process_is_told_who_holds_the_run(tmp_path: Path) -> None:
    with Holding(tmp_path / "run"):
        said = _first_line(other := _other(tmp_path / "run"))
        other.communicate()
    who = rf"locked by process {os.getpid()} on {re.escape(socket.gethostname())} since \d{{4}}-\d\d-\d\dT"
    assert re.search(who, said)
    assert said.startswith(str(tmp_path / "run"))
    assert said.endswith("wait for it or stop it")
    with Holding(tmp_path / "run"):  # and it is free again
        pass


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    other = _other(tmp_path)
    assert _first_line(other) == "held"
    with pytest.raises(HeldError, match=f"locked by process {other.pid} on "):
        Holding(tmp_path)
    other.kill()
    other.communicate()
    with Holding(tmp_path):
        pass


def test_one_process_may_hold_a_run_twice(tmp_path: Path) -> None:
    first = Holding(tmp_path)
    with Holding(tmp_path):
        pass
    other = _other(tmp_path)
    assert f"process {os.getpid()}" in _first_line(other)  # until the last lets go
    other.communicate()
    first.release()
    other = _other(tmp_path)
    assert _first_line(other) == "held"
    other.communicate("\n")


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file")
    with pytest.raises(WorkError, match=r"could not be written .*; free space or change --out") as caught:
        Holding(tmp_path / "file" / "run")
    assert "\n" not in str(caught.value)
