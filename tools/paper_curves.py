"""Make the table of the paper's curves that the package carries, from the digitized series as CSV.

The series were read off the vector figures of Santurkar, Tsipras, Ilyas and Madry 2018, "How Does Batch
Normalization Help Optimization?", arXiv:1805.11604v3; docs/reference/paper-curves.md says how, and how exactly.
Values are kept bit for bit; only the columns' types are made small.

    python tools/paper_curves.py ../shared/reference/paper_curves.csv
"""

from __future__ import annotations

import sys
from pathlib import Path

import polars as pl

from alidade.report.paper_curves import PATH, SCHEMA


def main(source: Path) -> None:
    """Read the CSV, sort it by series, write the Parquet file of the package and say how large it is."""
    table = pl.read_csv(source, schema_overrides=SCHEMA).select(list(SCHEMA))
    words = pl.col("panel", "network", "norm", "quantity").cast(pl.Categorical)
    series = [name for name in SCHEMA if name not in ("step", "value")]
    ordered = table.sort(*series, "step", nulls_last=True).with_columns(words)
    ordered.write_parquet(PATH, compression="zstd", compression_level=22, statistics=False)
    print(f"{PATH.name}: {ordered.height} rows, {PATH.stat().st_size} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
