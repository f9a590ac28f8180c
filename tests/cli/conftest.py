from __future__ import annotations

from pathlib import Path

import pytest
from filelock import FileLock
from tests.console import alidade

#: Four short runs: the smallest study that the command line offers.
SMALL = ("reproduce", "theorems", "--data", "digits", "--seeds", 4)
SMALL_RUNS = 4


@pytest.fixture(scope="session")
def small_study(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The folder of the small study, run once for all workers and never disturbed."""
    base = tmp_path_factory.getbasetemp()
    shared_by_workers = base if worker_id == "master" else base.parent
    folder = shared_by_workers / "small_study"
    with FileLock(shared_by_workers / "small_study.lock"):
        if not (folder / "report.html").exists():
            result = alidade(*SMALL, "--out", folder)
            assert result.returncode == 0, result.stderr
    return folder
