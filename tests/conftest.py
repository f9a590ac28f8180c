"""What every test may use."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from hypothesis import settings

from tests.console import alidade

PROJECT = Path(__file__).resolve().parents[1]
SHARED_DATA = PROJECT.parent / "shared" / "data"  # lies beside the project where it was handed out with it

settings.register_profile("project", deadline=None)  # speed is never tested: a busy machine is no failure
settings.load_profile("project")

torch.set_num_threads(1)  # tests run side by side; two threads on busy cores cost several times more


@pytest.fixture(scope="session")
def cifar10_dir(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The folder cifar-10-batches-bin with the real images, unpacked once for all workers."""
    unpack = SHARED_DATA / "unpack_cifar10"
    if not unpack.is_file():
        pytest.skip(f"the real CIFAR-10 is not there: {unpack} is missing")
    base = tmp_path_factory.getbasetemp()
    shared_by_workers = base if worker_id == "master" else base.parent
    folder = shared_by_workers / "cifar10"
    with FileLock(shared_by_workers / "cifar10.lock"):
        if not folder.exists():
            partial = shared_by_workers / "cifar10.partial"
            subprocess.run([sys.executable, unpack, partial], check=True, stdout=subprocess.DEVNULL)
            partial.rename(folder)
    return folder / "cifar-10-batches-bin"


@pytest.fixture(scope="session")
def demo_dir(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The folder of ``alidade demo --seeds 2``, run once for all workers; demo.json beside it says how it went."""
    base = tmp_path_factory.getbasetemp()
    shared_by_workers = base if worker_id == "master" else base.parent
    folder, log = shared_by_workers / "demo", shared_by_workers / "demo.json"
    with FileLock(shared_by_workers / "demo.lock"):
        if not log.exists():
            began = time.monotonic()
            result = alidade("demo", "--out", folder, "--seeds", 2)
            seconds = time.monotonic() - began
            outcome = {"code": result.returncode, "out": result.stdout, "err": result.stderr, "seconds": seconds}
            log.write_text(json.dumps(outcome))
    outcome = json.loads(log.read_text())
    assert outcome["code"] == 0, outcome["err"]
    return folder
