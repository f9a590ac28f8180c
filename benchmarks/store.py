"""What it takes to open a large study: 1,000 runs with 150 probes each.

Reach: `alidade claims` and `alidade report` in less than 10 seconds and 1 GiB each. The study is made up, and written
as the program writes one: two networks, 500 seeds, 150 probed steps in each run, with the rows that the first
line profile of the experiment `landscape` records at each of them (--profiles 5: all its profiles), and two rows for
each training step.

    OMP_NUM_THREADS=1 python benchmarks/store.py [--runs 1000] [--profiles 1]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from alidade.core.probes import LineProfileProbe
from alidade.core.records import LineProfile, Provenance, Row
from alidade.core.spec import NormName, RunSpec
from alidade.experiments import EXPERIMENTS
from alidade.experiments.experiment import Settings
from alidade.store import Segments, write_manifest, write_run
from alidade.store.segments import ROW_SCHEMA

PROBES = 150
ENVIRONMENT = {"python": "3.11", "cores": 2, "device": "cpu"}


def make(root: Path, runs: int, profiles: int = 1) -> dict[str, int]:
    """Write the study; returns how large it is."""
    settings = Settings(scale="quick", data="digits", fingerprint="0123456789abcdef", seeds=runs // 2)
    planned, rows = EXPERIMENTS["landscape"].runs(settings), 0
    planned = [run for run in planned if run.spec.model.norm in ("none", "batch")][:runs]
    noise = np.random.default_rng(0)
    for run in planned:
        tables = {"training": _training(run.spec, noise)}
        for probe in [probe for probe in run.probes if isinstance(probe, LineProfileProbe)][:profiles]:
            tables[probe.probe_id] = _profiles(run.spec.model.norm, probe, noise)
        rows += sum(table.height for table in tables.values())
        write_run(root, run.spec, Segments(tables), ENVIRONMENT)
    named = {"landscape": [run.spec.run_id for run in planned]}
    write_manifest(root, {"command": "made up", "settings": {"data": "digits"}, "experiments": named})
    size = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
    return {"runs": len(planned), "rows": rows, "megabytes": size // 1_000_000}


def _training(spec: RunSpec, noise: np.random.Generator) -> pl.DataFrame:
    """Loss and accuracy of every step."""
    steps = np.repeat(np.arange(spec.steps), 2)
    values = np.exp(-steps / spec.steps) * noise.lognormal(0.0, 0.1, steps.size)
    told = {"quantity": ["train_loss", "train_accuracy"] * spec.steps, "unit": ["nat", "1"] * spec.steps}
    same = {"layer": None, "step_size": None, "statistics": "none", "dtype": "float32", "status": "ok"}
    table = pl.DataFrame({"step": steps, "value": values, **told}).with_columns(
        pl.lit(value).alias(name) for name, value in same.items()
    )
    return table.select(pl.col(name).cast(kind) for name, kind in ROW_SCHEMA.items())


def _profiles(norm: NormName, probe: LineProfileProbe, noise: np.random.Generator) -> pl.DataFrame:
    """The rows of one profile, at 150 steps with other numbers at each."""
    one = pl.DataFrame(list(_rows(probe)), schema={**ROW_SCHEMA}, orient="row")
    steps = pl.DataFrame({"step": np.arange(PROBES)}, schema={"step": pl.Int64})
    table = steps.join(one.drop("step"), how="cross").select(list(ROW_SCHEMA))
    factor = 1.0 if norm == "batch" else 1.5
    return table.with_columns(value=pl.col("value") * pl.Series(factor * noise.lognormal(0.0, 0.1, table.height)))


def _rows(probe: LineProfileProbe) -> Iterator[dict[str, Any]]:
    sizes = np.array(probe.step_sizes)
    provenance = Provenance("batch", "float32", 64, coordinates=probe.coordinates)
    arrays = (1.0 + sizes, sizes, 1.0 - sizes / 2, np.ones_like(sizes), np.ones_like(sizes), np.full_like(sizes, 1e-6))
    profile = LineProfile(
        sizes, *arrays, status=("ok",) * sizes.size, loss=1.0, gradient_norm=1.0, direction_norm=1.0,
        provenance=provenance,
    )  # fmt: skip
    for row in profile.rows(0):
        yield {name: getattr(row, name) for name in Row.__dataclass_fields__}


#: Runs a command of ours in a process of its own and says what it took; the peak is that of the whole process.
_MEASURED = """
import resource, sys, time
began = time.perf_counter()
from alidade.cli.commands import app
app(sys.argv[1:], standalone_mode=False)
print(time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
      time.process_time(), file=sys.stderr)
"""


def measure(*arguments: str) -> dict[str, float]:
    """Seconds, seconds of processor time and peak memory of one command, imports included."""
    began = time.perf_counter()
    line = [sys.executable, "-c", _MEASURED, *arguments]
    result = subprocess.run(line, capture_output=True, text=True, check=False, env=dict(os.environ))
    if result.returncode != 0:
        raise SystemExit(result.stderr)
    _, mebibytes, processor = map(float, result.stderr.split()[-3:])
    return {
        "seconds": round(time.perf_counter() - began, 2),
        "processor_seconds": processor,
        "peak_mebibytes": mebibytes,
    }


if __name__ == "__main__":
    from side_by_side import write

    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--profiles", type=int, default=1)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        size = make(Path(folder), wanted.runs, wanted.profiles)
        found = {name: measure(name, folder) for name in ("claims", "report")}
    load = os.getloadavg()[1]  # of all processes, over five minutes: seconds on a crowded machine say little
    write(__file__, {"probes": PROBES, "profiles": wanted.profiles, **size, **found, "load_average": load})
