"""The paper's plots as runs of one seed, so that a claim's own statistic can be taken of what the paper drew.

Only what a plot shows becomes rows. A band's lower edge stands at the first of its list of step sizes and its upper
edge at the others: whatever is a function of a band's edges is exact, anything about a single step size is not.
"""

from __future__ import annotations

from functools import cache

import polars as pl

from alidade.claims.claim import Runs
from alidade.claims.quantities import paper_step_sizes
from alidade.core.records import OK
from alidade.core.spec import DataSpec, DeepLinearSpec, ModelSpec, OptimizerSpec, RunSpec
from alidade.report.paper_curves import STEPS, paper_curves

#: Our name of what the paper plots along training, and the figures that show it best: of the run that the others
#: share, and where there is a choice the one with most norms. Fig. 3 is a run of its own and comes last.
_PLAIN = {
    "train_accuracy": "train_accuracy",
    "test_accuracy": "test_accuracy",
    "train_loss": "train_loss",
    "ics_l2": "covariate_shift_l2",
    "ics_cosine": "covariate_shift_cosine",
    "mean_change": "activation_mean_change",
    "variance_change": "activation_variance_change",
}
_EDGES = {
    "loss_min": ("loss", "low"),
    "loss_max": ("loss", "high"),
    "gradient_distance_min": ("gradient_distance", "low"),
    "gradient_distance_max": ("gradient_distance", "high"),
    "effective_smoothness": ("effective_smoothness", "both"),  # the plot shows the largest over the list
}
_ORDER = (12, 13, 10, 4, 5, 2, 1, 8, 3)
_LAYERS = {"ics": {"vgg": "conv{}", "dln": "linear{}"}, "activation": {"vgg": "features.norm{}"}}


@cache
def paper_runs() -> Runs:
    """Every network that the paper drew as a run with seed 0, with the rows that its plots give.

    >>> runs = paper_runs()
    >>> runs.of(runs.pick("batch", 0.5)[0], "test_accuracy")["value"].max()
    0.8112
    """
    drawn = paper_curves().select("network", "norm", "learning_rate").unique().sort(pl.all())
    specs = {spec.run_id: (network, spec) for network, spec in map(_spec, drawn.iter_rows())}
    frames = [_rows(run, network, spec) for run, (network, spec) in specs.items()]
    return Runs(pl.concat(frames), {run: spec for run, (_, spec) in specs.items()})


def _spec(drawn: tuple[str, str, float]) -> tuple[str, RunSpec]:
    network, norm, rate = drawn
    model = DeepLinearSpec(norm=norm) if network == "dln" else ModelSpec(conv_layers=13, width=1, norm=norm)  # type: ignore[arg-type]
    return network, RunSpec(
        model=model,
        data=DataSpec(name="gaussian" if network == "dln" else "cifar10"),
        optimizer=OptimizerSpec(learning_rate=rate),
        batch_size=1_000 if network == "dln" else 128,
        steps=STEPS[network],
        seed=0,
    )


def _rows(run: str, network: str, spec: RunSpec) -> pl.DataFrame:
    """The tidy rows of one run, each quantity from one figure."""
    rate = spec.optimizer.learning_rate
    mine = paper_curves().filter(network=network, norm=spec.model.norm, learning_rate=rate)
    order = pl.col("figure").replace_strict({figure: i for i, figure in enumerate(_ORDER)}, default=None)
    best = mine.with_columns(order.alias("order")).drop_nulls("order")
    best = best.filter(pl.col("order") == pl.col("order").min().over("quantity", "layer"))
    parts = [_named(best.filter(quantity=name), ours, network) for name, ours in _PLAIN.items()]
    sizes = paper_step_sizes(rate, spec.model.kind)
    for name, (ours, edge) in _EDGES.items():
        at = {"low": sizes[:1], "high": sizes[1:], "both": sizes}[edge]
        parts += [_named(best.filter(quantity=name), ours, network, size) for size in at]
    return pl.concat(parts).select(pl.lit(run).alias("run"), pl.lit(0).alias("seed"), pl.all())


def _named(rows: pl.DataFrame, quantity: str, network: str, size: float | None = None) -> pl.DataFrame:
    kind = "ics" if quantity.startswith("covariate") else "activation"
    layer = pl.format(_LAYERS[kind].get(network, "{}"), pl.col("layer"))
    return rows.select(
        pl.col("step").cast(pl.Int64),
        pl.lit(quantity).alias("quantity"),
        pl.when(pl.col("layer").is_not_null()).then(layer).otherwise(None).alias("layer"),
        pl.lit(size, dtype=pl.Float64).alias("step_size"),
        "value",
        pl.lit(OK).alias("status"),
    )
