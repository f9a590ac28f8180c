"""What each network reaches at each learning rate (Fig. 1: the learning rate is chosen for each network)."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import polars as pl

from alidade.core.spec import RunSpec
from alidade.report.charts import Frame, Numbers, Panel, colour, curves, data, panel, x_of, y_of
from alidade.report.figure import Figure, note, spread_words
from alidade.report.outcomes import END, at_the_end, outcomes
from alidade.report.scales import Axis, linear_axis, log_axis
from alidade.report.series import Readings, over_seeds, per_seed
from alidade.report.theme import DASHES, NORMS
from alidade.report.variants import Drawn
from alidade.report.words import plain

RATE_TITLE = "learning rate →"


def learning_rates(readings: Readings) -> Figure | None:
    """Accuracy at the end against the learning rate, each network's best marked."""
    train = _by_rate(readings, "train_accuracy")
    if train.is_empty() or train["x"].n_unique() < 2:
        return None
    best = _best(readings)
    x = _rates(train)
    parts = [
        ("rate-train", "Training accuracy at the end", train.filter(~pl.col("augmented"))),
        ("rate-test", "Test accuracy at the end", _by_rate(readings, "test_accuracy").filter(~pl.col("augmented"))),
        (
            "rate-test-augmented", "Test accuracy, augmented images",
            _by_rate(readings, "test_accuracy").filter(pl.col("augmented")),
        ),
    ]  # fmt: skip
    panels = tuple(_panel(id_, title, rows, best, x) for id_, title, rows in parts if not rows.is_empty())
    return Figure(
        id="learning-rates",
        title="Each network at each learning rate",
        rows=(panels,),
        lead=_lead(parts[-2][2], best),
        how_to_read=(
            "One dot per learning rate: the mean over seeds of the accuracy over the last tenth of the steps, with the "
            "range over seeds as tint. The ring marks the learning rate at which that network had the lowest mean "
            "training loss; the same one is marked on every panel, so nothing is chosen on the test set. Compare "
            "networks at equal learning rates vertically, and each at its own best from ring to ring. "
            f"{spread_words(readings)}"
        ),
        note=note(readings, "train_accuracy", extra=[f"end: mean over the last {100 * END:.0f} % of the steps"]),
        variants=readings.variants,
        remarks=outcomes(readings),
    )


def _by_rate(readings: Readings, quantity: str) -> pl.DataFrame:
    """The quantity at the end by norm (v), augmentation and learning rate (x): m, lo, hi, n."""
    return over_seeds(_named(readings, at_the_end(readings, quantity)), geometric=False, by=("v", "augmented", "x"))


def _named(readings: Readings, values: pl.DataFrame) -> pl.DataFrame:
    """Values of single runs with norm (v), augmentation and learning rate (x)."""
    specs = {v.key: v.spec for v in readings.variants if isinstance(v.spec, RunSpec)}
    norms = {key: spec.model.norm for key, spec in specs.items()}
    rates = {key: spec.optimizer.learning_rate for key, spec in specs.items()}
    augmented = {key: spec.data.augment for key, spec in specs.items()}
    return values.filter(pl.col("v").is_in(list(specs))).with_columns(
        pl.col("v").replace_strict(augmented, return_dtype=pl.Boolean).alias("augmented"),
        pl.col("v").replace_strict(rates, return_dtype=pl.Float64).alias("x"),
        pl.col("v").replace_strict(norms, return_dtype=pl.String).alias("v"),
    )


def _best(readings: Readings) -> dict[str, float]:
    """Each norm's learning rate with the lowest mean training loss, without augmentation."""
    losses = _named(readings, per_seed(readings.ok("train_loss"), geometric=False)).filter(~pl.col("augmented"))
    means = over_seeds(losses, geometric=False, by=("v", "x")).sort("m", "x")
    ordered = means.group_by("v", maintain_order=True).first()
    return dict(zip(ordered["v"], ordered["x"], strict=True))


def _rates(rows: pl.DataFrame) -> Axis:
    rates = sorted(rows["x"].unique())
    return log_axis(rates, ticks=rates if len(rates) <= 8 else None)


def _norms(rows: pl.DataFrame) -> list[Drawn]:
    present = set(rows["v"])
    return [Drawn(norm, label, tint, DASHES[0]) for norm, (tint, label) in NORMS.items() if norm in present]


def _panel(id_: str, title: str, rows: pl.DataFrame, best: dict[str, float], x: Axis) -> Panel:
    networks = _norms(rows)
    y = linear_axis(0, 1, percent=True)
    frame = Frame(id_, title, "fraction of right answers; rings: best training", networks, x, y, RATE_TITLE)
    drawn = rows.drop("augmented")
    ringed = drawn.filter(pl.col("x") == pl.col("v").replace_strict(best, default=None, return_dtype=pl.Float64))
    ring = alt.Chart(data(ringed.select("v", "x", "m"))).mark_point(size=190, filled=False, strokeWidth=2, opacity=1)
    layers = [
        *curves(frame, drawn, points=True),
        ring.encode(x=x_of(frame), y=y_of(frame, "m:Q"), color=colour(networks)),
    ]
    return panel(frame, layers, _said(networks, ringed, f"{title}, at the best learning rate").text)


def _lead(test: pl.DataFrame, best: dict[str, float]) -> Numbers:
    rows = test.filter(pl.col("x") == pl.col("v").replace_strict(best, default=None, return_dtype=pl.Float64))
    return _said(_norms(test), rows, "Test accuracy at the learning rate of the best training")


def _said(networks: Sequence[Drawn], rows: pl.DataFrame, about: str) -> Numbers:
    entries = []
    for network in networks:
        for row in rows.filter(pl.col("v") == network.key).to_dicts():
            spread = f", {100 * row['lo']:.1f} to {100 * row['hi']:.1f} %" if row["lo"] < row["hi"] else ""
            entries.append((network, f"{100 * row['m']:.1f} %", f"at {plain(row['x'])}{spread}"))
    return Numbers(about, tuple(entries))
