"""The real console script, in processes of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ALIDADE = Path(sys.executable).with_name("alidade")
PATIENCE = 600  # seconds; busy machines are slow, hanging ones must end


def alidade(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    command = [str(ALIDADE), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE, cwd=cwd)


def start(*arguments: object) -> subprocess.Popen[str]:
    """Start a command in a session of its own, so that ``members`` finds whatever it started."""
    command = [str(ALIDADE), *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )  # fmt: skip


def error_line(result: subprocess.CompletedProcess[str], code: int) -> str:
    """The error that a command ended with: its exit code, and one line that is no traceback."""
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    *before, last = result.stderr.rstrip("\n").split("\n")
    assert last.startswith("error: "), result.stderr
    assert not any("error" in line.lower() for line in before), result.stderr
    return last


def members(session: int) -> list[tuple[int, str]]:
    """Process id and command line of every living process of a session."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, *fields = (entry / "stat").read_text().rpartition(")")[2].split()
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue  # it has gone
            if int(fields[2]) == session and state != "Z" and command:  # dying ones have lost their command line
                found.append((int(entry.name), command))
    return found


def workers(session: int) -> list[int]:
    """Process ids of the processes that train."""
    return [pid for pid, command in members(session) if "spawn_main" in command and "multiprocessing" in command]


def wait_for(condition: Callable[[], object], what: str) -> None:
    """Wait until the condition holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited {PATIENCE} s for {what}"
        time.sleep(0.02)


def end(process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
    """Wait for a started command."""
    out, err = process.communicate(timeout=PATIENCE)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def is_posix_with_proc() -> bool:
    """Whether processes can be looked at as ``members`` does."""
    return os.name == "posix" and Path("/proc/self/stat").exists()
