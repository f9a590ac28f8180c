from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from alidade.probes.environment import _container_cores, environment, usable_cores


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "200000 100000\n"}, 2),
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "max 100000\n"}, sys.maxsize),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, sys.maxsize),
        ({"cpu.max": "nonsense"}, sys.maxsize),
        ({}, sys.maxsize),
    ],
)
def test_a_containers_limit_is_respected(files: dict[str, str], cores: int, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert _container_cores(tmp_path) == cores


@pytest.mark.skipif(sys.platform != "linux", reason="affinity is asked of Linux")
def test_a_process_that_may_use_one_core_uses_one() -> None:
    allowed = min(os.sched_getaffinity(0))
    program = (
        f"import os; os.sched_setaffinity(0, [{allowed}]);"
        "from alidade.probes.environment import usable_cores; print(usable_cores())"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "1"
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)


def test_the_environment_names_versions_and_no_one() -> None:
    described = environment("cpu")
    assert {"python", "processor", "cores", "device", "torch", "alidade"} <= set(described)
    text = json.dumps(described, allow_nan=False)
    assert os.uname().nodename not in text
    assert str(Path.home()) not in text
