"""Where deep linear networks end, and how much of their way down they spend at the edge of stability."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import polars as pl

from alidade.claims.claim import TIE, Runs
from alidade.claims.comparisons import last_value
from alidade.claims.plateaus import EDGE, smoothness_share
from alidade.core.spec import RunSpec
from alidade.report.charts import Frame, Panel, numbers, panel, strips
from alidade.report.figure import Figure, note
from alidade.report.outcomes import outcomes
from alidade.report.scales import Axis, linear_axis, log_axis
from alidade.report.series import Readings, over_seeds

if TYPE_CHECKING:
    from alidade.report.variants import Variant

_AHEAD = ("l1", "l2", "batch")
_EDGE = f"[{EDGE[0]}, {EDGE[1]}]"


def ends(readings: Readings) -> Figure | None:
    """Final losses, and the share of probes at the edge while the loss still falls, seed by seed (Fig. 5b, 13)."""
    if not all(_linear(variant) for variant in readings.variants):
        return None
    runs = Runs(readings.study.frame, readings.study.specs)  # type: ignore[arg-type]
    losses = _per_run(readings, lambda run: last_value(runs, run, "train_loss"))
    shares = _per_run(readings, lambda run: smoothness_share(runs, run))
    if losses.is_empty():
        return None
    return Figure(
        id="ends",
        title="Where each network ends, and whether it went along the edge",
        rows=(tuple(_panels(readings, losses, shares)),),
        lead=numbers(
            readings.variants,
            over_seeds(shares, geometric=False, by=("v",)),
            f"Share of probes with β × learning rate in {_EDGE}, while the loss falls",
            percent=True,
        ),
        how_to_read=(
            "Each dot is one seed, the bar their mean; further left is a lower loss. Seeds differ by the data that is "
            "drawn as well as by the weights, so compare within a seed. On the right, how often the effective "
            "smoothness β, the largest over the paper’s list of step sizes, stood within 5 % of 2 / learning rate. "
            "Only probes count from which the loss falls to the next one: at a stationary point there is no step to "
            "speak of, and whatever β shows there means nothing."
        ),
        note=note(readings, "train_loss", "", ["probes after the first tenth"]),
        variants=readings.variants,
        remarks=(*_order(readings, losses), *outcomes(readings)),
    )


def _linear(variant: Variant) -> bool:
    return isinstance(variant.spec, RunSpec) and variant.spec.model.kind == "deep_linear"


def _per_run(readings: Readings, value: Callable[[str], float | None]) -> pl.DataFrame:
    """One number of each run that has one: v, seed, y."""
    specs = readings.study.specs
    found = [(v.key, specs[run].seed, value(run)) for v in readings.variants for run in v.runs]
    schema = {"v": pl.String, "seed": pl.Int64, "y": pl.Float64}
    return pl.DataFrame([row for row in found if row[2] is not None], schema=schema, orient="row")


def _panels(readings: Readings, losses: pl.DataFrame, shares: pl.DataFrame) -> list[Panel]:
    drawn = [
        ("ends-loss", "Loss at the end", "squared error, log scale", losses, log_axis(losses["y"]), False),
        ("ends-edge", "At the edge of stability", "share of probes while the loss falls", shares,
         linear_axis(0.0, 1.0, percent=True), True),
    ]  # fmt: skip
    return [_strip(readings, *parts) for parts in drawn if not parts[3].is_empty()]


def _strip(
    readings: Readings, id_: str, title: str, subtitle: str, values: pl.DataFrame, x: Axis, percent: bool
) -> Panel:
    means = over_seeds(values, geometric=not percent, by=("v",))
    frame = Frame(id_, title, subtitle, readings.variants, x, x, x_title="", height=34 * len(readings.variants))
    return panel(frame, strips(frame, values, means), numbers(readings.variants, means, title, percent=percent))


def _order(readings: Readings, losses: pl.DataFrame) -> tuple[str, ...]:
    """On how many seeds the final losses stand in the order of the paper's Fig. 5b."""
    norms = {variant.key: variant.norm for variant in readings.variants}
    by_seed: dict[int, dict[str, float]] = {}
    for key, seed, loss in losses.iter_rows():
        by_seed.setdefault(seed, {})[str(norms[key])] = loss
    whole = [ends for ends in by_seed.values() if {*_AHEAD, "linf", "none"} <= ends.keys()]
    if not whole:
        return ()
    hold = sum(map(in_order, whole))
    return (
        f"Final losses stand in the order {{L1, L2, BatchNorm}} < L∞ < no norm on {hold} of {len(whole)} "
        f"seed{'s' if len(whole) != 1 else ''} (within {100 * (TIE - 1):.0f} % counts as a tie).",
    )


def in_order(ends: Mapping[str, float]) -> bool:
    """Whether L1, L2 and BatchNorm end below Linf, and Linf below no norm; ties within 1 % are allowed.

    >>> in_order({"l1": 1.0, "l2": 1.0, "batch": 1.0, "linf": 0.995, "none": 2.0})
    True
    >>> in_order({"l1": 1.0, "l2": 1.0, "batch": 1.1, "linf": 1.0, "none": 2.0})
    False
    """
    return max(ends[norm] for norm in _AHEAD) <= TIE * ends["linf"] and ends["linf"] <= TIE * ends["none"]
