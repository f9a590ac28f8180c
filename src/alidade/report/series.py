"""From the tidy table to what a chart draws: one row per variant and position, with mean and spread over seeds.

Frames here share a few short columns: ``v`` the variant's key, ``seed``, ``x`` the position (a training step, a
step size or a loss), ``y`` a value; after ``over_seeds`` the mean ``m``, the extremes ``lo`` and ``hi``, and the
number of seeds ``n``. Only rows with status "ok" become values; ``refused`` lists the others.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import polars as pl

from alidade.claims.quantities import RELATIVE_STEPS, WARM_UP, paper_step_sizes
from alidade.claims.statistics import SMOOTHING_STEPS
from alidade.core.records import BELOW_RESOLUTION, OK
from alidade.core.spec import RunSpec
from alidade.report.variants import Variant, variants

if TYPE_CHECKING:
    from alidade.store import Study

T = TypeVar("T")

MOST_POINTS = 240  # on one line
RELATIVE, UPDATE = "relative_", "update_"
LOSS_BINS = 10
PROBES_PER_BIN = 3
#: Columns of the tidy table that figures are made of.
_DRAWN = ("run", "seed", "step", "quantity", "layer", "step_size", "value", "statistics", "status")
#: What may be drawn.
_GOOD = (pl.col("status") == OK) & pl.col("value").is_finite()
Reduction = Literal["width", "max", "min"]


@dataclass(frozen=True)
class Readings:
    """A study's numbers, each row labelled with its variant."""

    study: Study

    @cached_property
    def variants(self) -> tuple[Variant, ...]:
        """What is compared."""
        return variants(self.study.specs)

    def rows(self, quantity: str, *wanted: pl.Expr) -> pl.DataFrame:
        """Rows of the tidy table with the variant's key as ``v``."""
        return self._labelled(quantity, *wanted).select("v", *_DRAWN).collect()

    def _labelled(self, quantity: str, *wanted: pl.Expr) -> pl.LazyFrame:
        """The rows, before any is copied: of a large study only the columns that are asked for are."""
        keys = {run: variant.key for variant in self.variants for run in variant.runs}
        places = {run: place for variant in self.variants for place, run in enumerate(variant.runs)}
        return (
            self.study.by_quantity.of(quantity)
            .lazy()
            .filter(*wanted)
            .with_columns(
                pl.col("run").replace_strict(keys, return_dtype=pl.Enum(sorted(set(keys.values())))).alias("v"),
                pl.col("seed").fill_null(pl.col("run").replace_strict(places, return_dtype=pl.Int64)),
                pl.col("step_size").round_sig_figs(9),
            )
        )

    @cached_property
    def unit(self) -> str:
        """Unit of the loss: the deep linear network is trained on a sum of squares."""
        planned = [variant.spec for variant in self.variants if isinstance(variant.spec, RunSpec)]
        return "squared error" if planned and all(s.model.kind == "deep_linear" for s in planned) else "nat"

    def _once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What ``make`` gives, which is made once: figures share it, and of a large study it takes long."""
        if key not in self._made:
            self._made[key] = make()
        made: T = self._made[key]
        return made

    @cached_property
    def _made(self) -> dict[Hashable, Any]:
        return {}

    def only(self, keep: Callable[[Variant], bool]) -> Readings:
        """The readings of some variants; what tells these apart is named anew."""
        return Readings(part_of(self.study, [run for v in self.variants if keep(v) for run in v.runs]))

    @cached_property
    def last_steps(self) -> dict[str, int]:
        """The last step of each variant, by key."""
        cut, last = self.study.by_quantity, pl.col("step").max()
        of_each = [cut.of(quantity).group_by("run").agg(last) for quantity in cut.names]  # all at once would be copied
        ends = dict(pl.concat(of_each).group_by("run").agg(last).iter_rows()) if of_each else {}
        measured = {variant.key: [ends[run] for run in variant.runs if run in ends] for variant in self.variants}
        return {key: max(steps) for key, steps in measured.items() if steps}

    @cached_property
    def along(self) -> str:
        """Prefix of the raw line profiles: along the gradient, or else along the optimizer's update."""
        return UPDATE if not self.has("loss") and self.has(UPDATE + "loss") else ""

    def has(self, quantity: str) -> bool:
        """Whether any value of the quantity may be drawn."""
        return bool(self.study.by_quantity.of(quantity).select(_GOOD.any()).item())

    def layers(self, quantity: str) -> list[str]:
        """The layers of which a quantity was measured, in the order of the network."""
        return self.study.by_quantity.of(quantity)["layer"].drop_nulls().unique(maintain_order=True).to_list()

    def ok(self, quantity: str, layer: str | None = None) -> pl.DataFrame:
        """Rows of a quantity (of one layer, where it is named) that hold a number: v, seed, x (step), eta, y."""
        there = [] if layer is None else [pl.col("layer") == layer]
        return (
            self._labelled(quantity, _GOOD, *there)
            .select(
                "v", "seed", pl.col("step").alias("x"), pl.col("step_size").alias("eta"), pl.col("value").alias("y")
            )
            .collect()
        )

    def sizes(self, variant: Variant, prefix: str = "") -> tuple[float, ...]:
        """All step sizes of a variant's line profiles, ascending."""
        return self._once(("sizes", variant.key, prefix), lambda: self._sizes(variant, prefix))

    def _sizes(self, variant: Variant, prefix: str) -> tuple[float, ...]:
        rows = self.study.by_quantity.of(f"{prefix}loss").lazy()
        rows = rows.filter((pl.col("step_size") != 0) & pl.col("run").is_in(list(variant.runs)))
        sizes = rows.select(pl.col("step_size").round_sig_figs(9).unique()).collect().to_series()
        return tuple(sorted(sizes.drop_nulls().to_list()))

    def named_list(self, variant: Variant, prefix: str = "") -> tuple[float, ...]:
        """The list that a band is taken over: the paper's where it was measured, else all that were."""
        measured = self.sizes(variant, prefix)
        wanted: tuple[float, ...] = ()
        if prefix == RELATIVE:
            wanted = RELATIVE_STEPS
        elif not prefix and variant.learning_rate:
            kind = variant.spec.model.kind if isinstance(variant.spec, RunSpec) else "vgg"
            wanted = paper_step_sizes(variant.learning_rate, kind)
        named = tuple(sorted(float(f"{size:.9g}") for size in wanted))
        return named if named and set(named) <= set(measured) else measured

    def smoothed(self, quantity: str, window: int) -> pl.DataFrame:
        """Trailing mean of a training metric over ``window`` steps, per run."""
        rows = self.ok(quantity).sort("v", "seed", "x")
        mean = pl.col("y").rolling_mean(window, min_samples=1).over("v", "seed")
        return rows.with_columns(mean.alias("y")).select("v", "seed", "x", "y")

    def level(self, window: int) -> pl.DataFrame:
        """The training loss: a trailing mean of it at every step, or the loss at the probed steps without that."""
        if self.has("train_loss"):
            return self.smoothed("train_loss", window)
        return self.base(self.along if self.has(self.along + "loss") else RELATIVE)

    def base(self, prefix: str) -> pl.DataFrame:
        """The loss where the line profiles start: v, seed, x, y."""
        rows = self._labelled(f"{prefix}loss", _GOOD, pl.col("step_size") == 0)
        return rows.select("v", "seed", pl.col("step").alias("x"), pl.col("value").alias("y")).collect()

    def band(self, quantity: str, prefix: str = "") -> pl.DataFrame:
        """[min, max] of a quantity over the named list: v, seed, x, low, high; only where the list is complete."""
        return self._edges(quantity, prefix).select("v", "seed", "x", "low", "high")

    def reduced(self, quantity: str, how: Reduction, prefix: str = "") -> pl.DataFrame:
        """One number per probe over the named list: the width of the band, or one of its edges."""
        value = {"width": pl.col("high") - pl.col("low"), "max": pl.col("high"), "min": pl.col("low")}[how]
        return self._edges(quantity, prefix).select("v", "seed", "x", value.alias("y"))

    def _edges(self, quantity: str, prefix: str) -> pl.DataFrame:
        return self._once(("edges", quantity, prefix), lambda: self._listed(quantity, prefix))

    def _listed(self, quantity: str, prefix: str) -> pl.DataFrame:
        parts, good = [], self.ok(prefix + quantity)
        for variant in self.variants:
            named = self.named_list(variant, prefix)
            rows = good.filter((pl.col("v") == variant.key) & pl.col("eta").is_in(list(named)))
            edges = rows.group_by("v", "seed", "x").agg(
                pl.col("y").min().alias("low"), pl.col("y").max().alias("high"), pl.len().alias("count")
            )
            parts.append(edges.filter(pl.col("count") == len(named)))
        return pl.concat(parts).sort("v", "seed", "x")

    def refused(self, quantity: str, prefix: str = "") -> pl.DataFrame:
        """Where numbers of a quantity are not drawn: v, x (step), eta, kind ("small" or "infinite"), count."""
        rows = self.rows(prefix + quantity, pl.col("status") != OK)
        kind = pl.when(pl.col("status") == BELOW_RESOLUTION).then(pl.lit("small")).otherwise(pl.lit("infinite"))
        known = rows.filter(pl.col("status").is_in([BELOW_RESOLUTION, "non_finite"]))
        return (
            known.with_columns(kind.alias("kind"))
            .group_by("v", pl.col("step").alias("x"), pl.col("step_size").alias("eta"), "kind")
            .agg(pl.len().alias("count"))
            .sort("v", "x", "eta", "kind")
        )

    def refused_in_list(self, quantity: str, prefix: str = "") -> pl.DataFrame:
        """``refused`` for the step sizes of the named lists, by step: v, x, kind."""
        rows = self.refused(quantity, prefix)
        lists = {variant.key: self.named_list(variant, prefix) for variant in self.variants}
        parts = [rows.filter((pl.col("v") == key) & pl.col("eta").is_in(list(sizes))) for key, sizes in lists.items()]
        return pl.concat(parts).select("v", "x", "kind").unique(maintain_order=True)

    def training_loss(self) -> pl.DataFrame:
        """The loss level of each run at each step, smoothed as the claims do: v, seed, step, loss."""
        level = self._once(("level",), lambda: self.level(SMOOTHING_STEPS).sort("x"))
        return level.rename({"x": "step", "y": "loss"})

    def against_loss(self, values: pl.DataFrame) -> pl.DataFrame:
        """Values by step (v, seed, x, y, ...) with the training loss of that step as the new x."""
        by_step = values.rename({"x": "step"}).sort("step")
        joined = by_step.join_asof(self.training_loss(), on="step", by=["v", "seed"], check_sortedness=False)
        return joined.drop("step").rename({"loss": "x"}).filter(pl.col("x") > 0)


def part_of(study: Study, runs: Iterable[str]) -> Study:
    """The study as far as some of its runs are concerned, in the order of ``runs``."""
    kept = {run: study.specs[run] for run in runs if run in study.specs}
    frame = study.frame if len(kept) == len(study.specs) else study.by_quantity.only(kept)
    return replace(study, frame=frame, specs=kept)


def over_seeds(values: pl.DataFrame, geometric: bool, by: Sequence[str] = ("v", "x")) -> pl.DataFrame:
    """Mean ``m``, extremes ``lo`` and ``hi`` and number ``n`` of the values ``y`` of the seeds.

    The geometric mean suits positive quantities that are drawn on a logarithmic axis; values that are not
    positive are left out of it and show as a smaller ``n``.
    """
    kept = values.filter(pl.col("y") > 0) if geometric else values
    mean = pl.col("y").log().mean().exp() if geometric else pl.col("y").mean()
    return (
        kept.group_by(*by)
        .agg(mean.alias("m"), pl.col("y").min().alias("lo"), pl.col("y").max().alias("hi"), pl.len().alias("n"))
        .sort(*by)
    )


def over_training(readings: Readings, values: pl.DataFrame, geometric: bool = True) -> pl.DataFrame:
    """Each seed's mean over training after the warm-up, as the claims take it, then over seeds: v, m, lo, hi, n."""
    late = per_seed(since(readings, values, WARM_UP), geometric=False)
    return over_seeds(late, geometric=geometric, by=("v",))


def since(readings: Readings, values: pl.DataFrame, fraction: float) -> pl.DataFrame:
    """The values from this fraction of each run's steps on."""
    starts = {key: fraction * step for key, step in readings.last_steps.items()}
    return values.filter(pl.col("x") >= pl.col("v").replace_strict(starts, return_dtype=pl.Float64))


def per_seed(values: pl.DataFrame, geometric: bool, by: Sequence[str] = ("v", "seed")) -> pl.DataFrame:
    """One number per seed: the mean of ``y`` over all probes."""
    kept = values.filter(pl.col("y") > 0) if geometric else values
    mean = pl.col("y").log().mean().exp() if geometric else pl.col("y").mean()
    return kept.group_by(*by).agg(mean.alias("y")).sort(*by)


def binned_by_loss(values: pl.DataFrame, geometric: bool) -> pl.DataFrame:
    """Means of ``y`` over the probes within equal bins of log ``x``: v, x, m, n (probes); at least three in a bin."""
    kept = values.filter(((pl.col("y") > 0) | (not geometric)) & (pl.col("x") > 0))
    kept = kept.with_columns(pl.col("x").log().alias("log_x"))
    if kept.is_empty():
        return pl.DataFrame(schema={"v": pl.String, "x": pl.Float64, "m": pl.Float64, "n": pl.UInt32})
    mean = pl.col("y").log().mean().exp() if geometric else pl.col("y").mean()
    low, high = float(kept["log_x"].min()), float(kept["log_x"].max())  # type: ignore[arg-type]
    width = max(high - low, 1e-9) / LOSS_BINS
    position = ((pl.col("log_x") - low) / width).floor().clip(0, LOSS_BINS - 1).alias("bin")
    return (
        kept.with_columns(position)
        .group_by("v", "bin")
        .agg(
            pl.col("log_x").mean().exp().alias("x"),
            mean.alias("m"),
            pl.len().alias("n"),
        )
        .filter(pl.col("n") >= PROBES_PER_BIN)
        .sort("v", "x")
        .select("v", "x", "m", "n")
    )


def thinned(frame: pl.DataFrame, most: int = MOST_POINTS, column: str = "x") -> pl.DataFrame:
    """At most ``most`` positions, evenly taken; the last one is kept."""
    positions = frame[column].unique().sort()
    if len(positions) <= most:
        return frame
    stride = -(-len(positions) // most)
    kept = positions.gather_every(stride).append(positions.tail(1)).unique()
    return frame.filter(pl.col(column).is_in(kept.implode()))


def shared_loss(values: pl.DataFrame) -> tuple[float, float] | None:
    """The range of losses ``x`` that every variant visits, between its 5 % and 95 % points; None without overlap."""
    ranges = values.group_by("v").agg(pl.col("x").quantile(0.05).alias("low"), pl.col("x").quantile(0.95).alias("high"))
    if ranges.is_empty():
        return None
    low, high = float(ranges["low"].max()), float(ranges["high"].min())  # type: ignore[arg-type]
    return (low, high) if low < high else None
