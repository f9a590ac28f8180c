"""The script and the commands of the how-to do what they say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import alidade

PROJECT = Path(__file__).resolve().parents[2]
PAGE = (PROJECT / "docs" / "how-to" / "ddp-and-fsdp.md").read_text(encoding="utf-8")
SCRIPTS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
COMMANDS = re.findall(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("number", range(len(SCRIPTS)))
def test_the_commands_run(number: int, tmp_path: Path) -> None:
    command = COMMANDS[number]
    (file,) = re.findall(r"(\w+\.py)", command)
    (tmp_path / file).write_text(SCRIPTS[number], encoding="utf-8")
    scripts = str(Path(sys.executable).parent)
    environment = {**os.environ, "PATH": f"{scripts}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["bash", "-euc", command], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stderr
    (out,) = re.findall(rf"{file} (\S+)", command)
    found = alidade.load(tmp_path / out)
    assert set(found["step"]) >= {0, 5, 10, 15}
    assert not found["status"].str.starts_with("failed").any()
    assert (tmp_path / out / "report.html").exists()
