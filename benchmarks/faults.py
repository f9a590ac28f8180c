"""What dying costs a study: kills at random moments, and then the same command until it is finished.

Reach: after 50 times kill -9 no measurement is lost, none is there twice, and every run is bit for bit that of a study
that nobody disturbed. Killed are the command with all its workers, the command alone, one worker alone, and everything
while a checkpoint is being written; after every fifth kill comes an interruption as by Ctrl-C. Whenever a study is
finished before it is killed, it is compared, and the next one begins. Every moment comes from one seed, as far as the
machine lets it.

    OMP_NUM_THREADS=1 python benchmarks/faults.py [--kills 50]
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

from alidade.store import load

#: The smallest study that the command line offers, side by side on two cores: two runs of 120 steps.
STUDY = ("reproduce", "theorems", "--data", "digits", "--seeds", "2", "--checkpoint-seconds", "0.1")
KEY = ["run", "seed", "step", "quantity", "layer", "step_size"]
KINDS = ("everything", "everything, while a checkpoint is written", "the command", "one worker")
CTRL_C = "Ctrl-C"
PATIENCE = 900.0  # seconds; a hanging command must end


class Disturbed:
    """A study that is killed again and again, and compared whenever it is finished."""

    def __init__(self, root: Path, undisturbed: Path, seed: int = 0) -> None:
        self._root, self._expected, self._how = root, numbers(undisturbed), random.Random(seed)
        self.deaths: Counter[str] = Counter()
        self.found: Counter[str] = Counter()  # of all finished studies together
        self._begin()

    def kill(self, kind: str, longest: float) -> None:
        """One kill of this kind, within ``longest`` seconds of the command; studies that end before are compared."""
        while True:
            process = command(self._out)
            done = self._at_some_moment(process, kind, longest)
            if not done:
                self.deaths[kind] += 1
                HOW[kind](process)
            _, said = process.communicate(timeout=PATIENCE)
            self._note(said)
            nobody_left(process.pid)
            if not done:
                return
            self.compare(process.returncode, said)

    def finish(self) -> None:
        """Nobody disturbs the study any more."""
        process = command(self._out)
        _, said = process.communicate(timeout=PATIENCE)
        self._note(said)
        self.compare(process.returncode, said)

    def compare(self, code: int, said: str) -> None:
        """Hold a finished study against the undisturbed one, and begin another."""
        if code != 0:
            raise SystemExit(f"expected a study that is finished in the end, got exit code {code}: {said}")
        found = numbers(self._out)
        self.found += Counter(studies=1, measurements=self._expected.height, runs=found["run"].n_unique())
        self.found["lost"] += self._expected.join(found, on=KEY, how="anti", nulls_equal=True).height
        self.found["doubled"] += found.height - found.unique(KEY).height
        self.found["runs that differ"] += sum(
            not found.filter(pl.col("run") == run).equals(self._expected.filter(pl.col("run") == run), null_equal=True)
            for run in self._expected["run"].unique()
        )
        left = [p for pattern in ("*/checkpoint", "*/.*.partial", "*/FAILED") for p in self._out.glob(pattern)]
        self.found["files left over"] += len(left)
        shutil.rmtree(self._out)
        self._begin()

    def _begin(self) -> None:
        self._out = self._root / f"study-{self.found['studies']}"

    def _at_some_moment(self, process: subprocess.Popen[str], kind: str, longest: float) -> bool:
        """Wait for the moment to kill; True where the command ended before."""
        moment = time.monotonic() + self._how.uniform(0.0, longest)
        awaited: Callable[[], object] = lambda: time.monotonic() > moment  # noqa: E731
        if "written" in kind:
            awaited = lambda: list(self._out.glob("*/.*.partial"))  # noqa: E731
        elif kind == "one worker":
            awaited = lambda: time.monotonic() > moment and workers(process.pid)  # noqa: E731
        deadline = time.monotonic() + PATIENCE
        while process.poll() is None and not awaited():
            time.sleep(0.0 if "written" in kind else 0.01)
            if time.monotonic() > deadline:
                raise SystemExit(f"waited {PATIENCE} s for the moment of: {kind}")
        return process.poll() is not None

    def _note(self, said: str) -> None:
        steps = re.findall(r"goes on after (\d+) steps", said)
        self.found += Counter({"resumed from a checkpoint": len(steps), "steps not repeated": sum(map(int, steps))})


def command(out: Path) -> subprocess.Popen[str]:
    """The study's command, in a session of its own."""
    line = [str(Path(sys.executable).with_name("alidade")), *STUDY, "--out", str(out)]
    return subprocess.Popen(
        line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )  # fmt: skip


def numbers(out: Path) -> pl.DataFrame:
    """All that is reproducible of a study."""
    return load(out).filter(~pl.col("quantity").str.ends_with("_seconds"))


def members(session: int) -> list[tuple[int, str]]:
    """Process id and command line of every living process of a session."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, *fields = (entry / "stat").read_text().rpartition(")")[2].split()
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue  # it has gone
            if int(fields[2]) == session and state != "Z" and line:
                found.append((int(entry.name), line))
    return found


def workers(session: int) -> list[int]:
    """The processes of a command that train."""
    return [pid for pid, line in members(session) if "spawn_main" in line]


def nobody_left(session: int) -> None:
    """Wait until no process of a command lives."""
    deadline = time.monotonic() + PATIENCE
    while members(session):
        if time.monotonic() > deadline:
            raise SystemExit(f"waited {PATIENCE} s")
        time.sleep(0.02)


def _kill_all(process: subprocess.Popen[str]) -> None:
    os.killpg(process.pid, signal.SIGKILL)


def _kill_a_worker(process: subprocess.Popen[str]) -> None:
    for pid in workers(process.pid)[:1]:
        os.kill(pid, signal.SIGKILL)
    process.wait(PATIENCE)  # the other runs go on


HOW: dict[str, Callable[[subprocess.Popen[str]], None]] = {
    KINDS[0]: _kill_all,
    KINDS[1]: _kill_all,
    KINDS[2]: lambda process: process.kill(),
    KINDS[3]: _kill_a_worker,
    CTRL_C: lambda process: os.killpg(process.pid, signal.SIGINT),
}


def disturb(kills: int, root: Path, undisturbed: Path, longest: float, seed: int = 0) -> dict[str, Any]:
    """``kills`` times kill -9, of all kinds in turn, and Ctrl-C now and then; what was found, as JSON."""
    study = Disturbed(root, undisturbed, seed)
    for number in range(kills):
        study.kill(KINDS[number % len(KINDS)], longest)
        if number % 5 == 4:
            study.kill(CTRL_C, longest)
        print(f"{number + 1} of {kills} kills; found so far: {dict(study.found)}", file=sys.stderr, flush=True)
    study.finish()
    interruptions = study.deaths.pop(CTRL_C, 0)
    return {"kills": dict(study.deaths), "interruptions": interruptions, "found": dict(sorted(study.found.items()))}


if __name__ == "__main__":
    from side_by_side import write

    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=50)
    wanted = parser.parse_args().kills
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        first = command(Path(folder) / "undisturbed")
        first.communicate(timeout=PATIENCE)
        seconds = time.monotonic() - began
        found = disturb(wanted, Path(folder), Path(folder) / "undisturbed", longest=seconds)
    write(__file__, {"study": " ".join(STUDY), "undisturbed_seconds": seconds, **found})
    clean = not any(found["found"][name] for name in ("lost", "doubled", "runs that differ", "files left over"))
    sys.exit(0 if clean and sum(found["kills"].values()) == wanted else 1)
