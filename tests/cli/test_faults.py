"""Kills at random moments, Ctrl-C among them: what is measured in the end is what nobody disturbed would have got."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.faults import KINDS, PATIENCE, command, disturb
from tests.console import is_posix_with_proc

pytestmark = pytest.mark.skipif(not is_posix_with_proc(), reason="looks at processes through /proc")

KILLS = 10


@pytest.mark.slow
def test_no_measurement_is_lost_and_none_doubled(tmp_path: Path) -> None:
    undisturbed = command(tmp_path / "undisturbed")
    undisturbed.communicate(timeout=PATIENCE)
    found = disturb(KILLS, tmp_path, tmp_path / "undisturbed", longest=12.0, seed=1)
    assert sum(found["kills"].values()) == KILLS
    assert set(found["kills"]) == set(KINDS)
    assert found["interruptions"] == KILLS // 5
    assert found["found"]["measurements"] > 1_000
    for name in ("lost", "doubled", "runs that differ", "files left over"):
        assert found["found"][name] == 0, found
    assert found["found"]["resumed from a checkpoint"] > 0  # or nothing but the beginning was tested
