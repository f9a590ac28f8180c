"""The curves of the paper's figures, as numbers: what its plots show, beside which ours are drawn.

Source: Santurkar, Tsipras, Ilyas and Madry 2018, arXiv:1805.11604v3, read off the vector paths of the figures; the
error is below 0.5 % of an axis (docs/reference/paper-curves.md). ``tools/paper_curves.py`` made the file.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import polars as pl

PATH = Path(__file__).parent / "paper_curves.parquet"

#: Columns of the table. ``layer`` and ``step_size`` are null where a quantity has none.
SCHEMA: dict[str, type[pl.DataType]] = {
    "figure": pl.Int8,
    "panel": pl.String,
    "network": pl.String,  # vgg | dln
    "norm": pl.String,  # none | batch | noisy | l1 | l2 | linf
    "learning_rate": pl.Float64,
    "layer": pl.Int8,  # counted from 1
    "quantity": pl.String,
    "step_size": pl.Float64,
    "step": pl.Int32,
    "value": pl.Float64,
}

#: Training steps of the paper's runs, by network (Appendix A).
STEPS = {"vgg": 15_000, "dln": 10_000}


@cache
def paper_curves() -> pl.DataFrame:
    """Every digitized point, one row each: 28,899 rows of ``SCHEMA``, sorted by series and step.

    Accuracies are fractions; losses, distances and smoothness are in the unit of the paper's loss.

    >>> band = paper_curves().filter(figure=4, panel="a", norm="none", step=1000)
    >>> dict(zip(band["quantity"], band["value"].round(2)))
    {'loss_max': 8.13, 'loss_min': 2.7}
    """
    return pl.read_parquet(PATH).cast(SCHEMA)  # type: ignore[arg-type]
