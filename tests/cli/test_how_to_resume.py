"""The commands of docs/how-to/resume.md do what the page says, in their order."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import polars as pl
import pytest
from tests.console import ALIDADE, PATIENCE, is_posix_with_proc

from alidade.store import load

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "resume.md"
BLOCK = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)
MAY_END = {"timeout": (-9, 137), "--max-minutes": (1,)}  # besides 0: killed, or out of time

pytestmark = pytest.mark.skipif(not is_posix_with_proc(), reason="needs timeout(1)")


def _commands() -> list[str]:
    text = "".join(BLOCK.findall(PAGE.read_text(encoding="utf-8")))
    return [line.removeprefix("$ ") for line in text.splitlines()]


def test_the_commands_of_the_page(tmp_path: Path) -> None:
    path = f"{ALIDADE.parent}{os.pathsep}{os.environ['PATH']}"
    commands = _commands()
    assert len(commands) == 5
    for command in commands:
        result = subprocess.run(
            shlex.split(command), capture_output=True, text=True, check=False, timeout=PATIENCE, cwd=tmp_path,
            env={**os.environ, "PATH": path},
        )  # fmt: skip
        allowed = [0, *(code for word, codes in MAY_END.items() if word in command for code in codes)]
        assert result.returncode in allowed, result.stderr
        assert "Traceback" not in result.stderr
    frames = [
        load(tmp_path / "runs" / name).filter(~pl.col("quantity").str.ends_with("_seconds"))
        for name in ("mine", "pieces")
    ]
    assert frames[0].equals(frames[1])
    assert frames[0]["run"].n_unique() == 2
