from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]

# Written in parts, so that this file does not hold what it looks for.
MACHINE_PATH = re.compile(
    r"(?<![\w.~/-])/(" + "|".join(["wo" + "rk", "ro" + "ot", "ho" + "me", "Us" + "ers", "o" + "pt"]) + r")/\w"
)
REGISTRY = re.compile(
    "|".join(["pypi" + r"\.org", "python" + "hosted", "registry" + r"\.npm", "conda" + r"\.anaconda"])
)
TAB = "\t"


def tracked_texts() -> Iterator[tuple[Path, str]]:
    """Every text file that git tracks, or would take."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    for name in filter(None, listed.stdout.split("\0")):
        path = PROJECT / name
        if path.is_file():
            try:
                yield path.relative_to(PROJECT), path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue  # a picture


@pytest.mark.parametrize("pattern", [MACHINE_PATH, REGISTRY], ids=["machine path", "registry host"])
def test_no_file_knows_the_machine_that_it_was_written_on(pattern: re.Pattern[str]) -> None:
    found = [(str(path), match[0]) for path, text in tracked_texts() for match in pattern.finditer(text)]
    assert found == []


def test_tabs_stand_only_where_make_wants_them() -> None:
    exempt = ("Makefile", "report.html")  # a report carries the bundle of Vega
    assert [str(path) for path, text in tracked_texts() if TAB in text and path.name not in exempt] == []


def test_the_patterns_find_what_they_should() -> None:
    assert MACHINE_PATH.search("open('/" + "home/me/data')")
    assert not MACHINE_PATH.search("src/" + "work/loop.py")
    assert REGISTRY.search("https://pypi." + "org/simple")
