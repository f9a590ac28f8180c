from __future__ import annotations

import random
from itertools import product
from pathlib import Path

import polars as pl
import pytest
from tests.studies import run_spec, write_study

from alidade.store import load, open_study
from alidade.store.by_quantity import ByQuantity
from alidade.store.segments import COMPACT

QUANTITIES, RUNS = ("loss", "norm", "never"), ("a", "b", "gone")


def _rows(order: str) -> pl.DataFrame:
    """Twelve rows with numbers that tell their order, as a study keeps them, run by run, or in any order."""
    keys = list(product(QUANTITIES[:2], RUNS[:2], range(3)))
    if order == "by run":
        keys.sort(key=lambda key: (key[1], key[2], key[0]))
    elif order == "any":
        random.Random(0).shuffle(keys)
    quantity, run, step = zip(*keys, strict=True)
    return pl.DataFrame({"run": run, "quantity": quantity, "step": step, "value": range(12)})


@pytest.mark.parametrize("text", [pl.String(), COMPACT["run"]])
@pytest.mark.parametrize("order", ["by quantity", "by run", "any"])
def test_a_part_is_what_a_filter_finds_in_the_same_order(order: str, text: pl.DataType) -> None:
    rows = _rows(order).cast({"run": text, "quantity": text})
    cut = ByQuantity(rows)
    assert set(cut.names) == {"loss", "norm"}
    for quantity in QUANTITIES:
        assert cut.of(quantity).equals(rows.filter(pl.col("quantity") == quantity))
        for run in RUNS:
            wanted = (pl.col("quantity") == quantity) & (pl.col("run") == run)
            assert cut.of(quantity, run).equals(rows.filter(wanted))
            some = ByQuantity(cut.only({run, "gone"}))
            assert some.of(quantity).equals(rows.filter(wanted))
            assert set(some.names) == set(rows.filter(pl.col("run") == run)["quantity"])


def test_of_nothing_there_is_nothing() -> None:
    assert ByQuantity(pl.DataFrame()).of("loss", "a").is_empty()
    assert ByQuantity(_rows("any").clear()).names == ()


def test_a_study_is_opened_by_quantity_and_handed_out_as_it_was_recorded(tmp_path: Path) -> None:
    """More runs than are made one table at a time; in the files of a run stand the probe's rows first."""
    write_study(tmp_path, seeds=range(100, 119))
    runs = sorted(run_spec(seed).run_id for seed in range(100, 119))
    opened, recorded = open_study(tmp_path), load(tmp_path)
    assert recorded["run"].rle().struct.field("value").to_list() == runs
    for run in runs:
        files = [pl.read_parquet(tmp_path / run / f"{name}.parquet") for name in ("probe", "training")]
        assert recorded.filter(run=run).drop("run", "seed").equals(pl.concat(files))
    assert opened.frame["quantity"].rle().len() == recorded["quantity"].n_unique() > 1
    for quantity in opened.by_quantity.names:
        assert opened.table.filter(quantity=quantity).equals(recorded.filter(quantity=quantity))
