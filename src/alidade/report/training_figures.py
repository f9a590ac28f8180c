"""How the networks train, and where the noisy norm stands among them."""

from __future__ import annotations

import polars as pl

from alidade.claims.quantities import WARM_UP
from alidade.report.charts import Frame, Panel, curves, numbers, panel, refused, strips
from alidade.report.figure import Figure, note, spread_words
from alidade.report.outcomes import END, at_the_end, outcomes, smoothing_window
from alidade.report.panels import step_axis
from alidade.report.scales import linear_axis, log_axis
from alidade.report.series import Readings, over_seeds, per_seed, since, thinned


def training(readings: Readings) -> Figure | None:
    """Loss and accuracy along training (Fig. 1 of the paper): trailing means over mini-batches."""
    window = smoothing_window(readings)
    level = readings.level(window)
    if level.is_empty():
        return None
    ends = per_seed(since(readings, level, 1 - END), geometric=False)
    panels = [_loss(readings, level, "Training loss", "training-loss", "train_loss")]
    if readings.has("train_objective"):
        penalized = readings.smoothed("train_objective", window)
        panels.append(
            _loss(readings, penalized, "The same with the L2 penalty", "training-objective", "train_objective")
        )
    if readings.has("train_accuracy"):
        panels.append(_accuracy(readings, "train_accuracy", "Training accuracy", window))
    if readings.has("test_accuracy"):
        panels.append(_accuracy(readings, "test_accuracy", "Test accuracy", 1))
    return Figure(
        id="training",
        title="How fast each network learns",
        rows=(tuple(panels),),
        lead=numbers(
            readings.variants,
            over_seeds(ends, geometric=True, by=("v",)),
            f"Training loss over the last tenth of the steps ({readings.unit})",
        ),
        how_to_read=(
            "Lower loss and higher accuracy sooner is better. Everything below compares networks that stand at "
            f"different heights, so keep this picture in mind. {spread_words(readings)} {_accuracy_words(readings)}"
        ),
        note=note(readings, "train_loss", extra=[f"training curves: trailing mean over {window} steps"]),
        variants=readings.variants,
        remarks=outcomes(readings),
    )


def _accuracy_words(readings: Readings) -> str:
    penalty = (
        "The second panel adds (λ / 2) ‖θ‖², which is what was descended and what the line profiles below measure. "
        if readings.has("train_objective")
        else ""
    )
    if not readings.has("test_accuracy"):
        return f"{penalty}The loss is that of the batch before each step."
    words = "Training numbers are of the mini-batch before each step; test accuracy is measured in evaluation mode."
    return penalty + words


def _loss(readings: Readings, level: pl.DataFrame, title: str, id_: str, quantity: str) -> Panel:
    rows = thinned(over_seeds(level, geometric=True))
    frame = Frame(
        id_, title, f"{readings.unit}, log scale", readings.variants,
        step_axis(readings), log_axis([*rows["lo"], *rows["hi"]]),
    )  # fmt: skip
    layers = [*curves(frame, rows), *refused(frame, readings.refused(quantity))]
    return panel(frame, layers, numbers(readings.variants, _last(rows), f"{title} at the end ({readings.unit})"))


def _accuracy(readings: Readings, quantity: str, title: str, window: int) -> Panel:
    rows = thinned(over_seeds(readings.smoothed(quantity, window), geometric=False))
    frame = Frame(
        quantity.replace("_", "-"), title, "fraction of right answers", readings.variants,
        step_axis(readings), linear_axis(0, 1, percent=True),
    )  # fmt: skip
    words = numbers(readings.variants, _last(rows), f"{title} at the end", percent=True)
    return panel(frame, curves(frame, rows), words)


def _last(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.sort("x").group_by("v", maintain_order=True).last()


def noisy(readings: Readings) -> Figure | None:
    """The noisy norm (Algorithm 1) against the others: each seed's end level and mean smoothness."""
    if not any(variant.norm == "noisy" for variant in readings.variants):
        return None
    panels = _noisy_panels(readings)
    if not panels:
        return None
    accuracy = over_seeds(at_the_end(readings, "train_accuracy"), geometric=False, by=("v",))
    return Figure(
        id="noisy",
        title="A norm whose activations jump at every step",
        rows=tuple(tuple(panels[i : i + 2]) for i in range(0, len(panels), 2)),
        lead=numbers(readings.variants, accuracy, "Training accuracy over the last tenth of the steps", percent=True),
        how_to_read=(
            "Noisy BatchNorm adds fresh random shifts and scales after every normalization, so its activations are "
            "anything but stable from step to step. If stable activations were why BatchNorm helps, it would train "
            "like the network without a norm; if smoothness is why, it sits with BatchNorm on all panels. Each dot "
            "is one seed, each bar the mean of its row; the loss level stands beside the smoothness. At test time the "
            "noise is off, so the running statistics gathered under it no longer fit: the test accuracy of the noisy "
            "network says little about its training."
        ),
        note=note(readings, "train_loss", "", [f"end: mean over the last {100 * END:.0f} % of the steps"]),
        variants=readings.variants,
    )


def _noisy_panels(readings: Readings) -> list[Panel]:
    """Level and smoothness, as far as they were measured."""
    unit = readings.unit
    candidates = [
        _strip(
            readings, "noisy-loss", "Training loss at the end", f"{unit}, log scale",
            at_the_end(readings, "train_loss"),
        ),
        _strip(
            readings, "noisy-accuracy", "Training accuracy at the end", "fraction of right answers",
            at_the_end(readings, "train_accuracy"), percent=True,
        ),
        _strip(
            readings, "noisy-band", "Mean width of the loss band", f"{unit}, log scale",
            _late(readings, readings.reduced("loss", "width")),
        ),
        _strip(
            readings, "noisy-smoothness", "Mean effective smoothness", f"{unit} per squared unit of weight, log scale",
            _late(readings, readings.reduced("effective_smoothness", "max")),
        ),
    ]  # fmt: skip
    return [candidate for candidate in candidates if candidate]


def _late(readings: Readings, values: pl.DataFrame) -> pl.DataFrame:
    return per_seed(since(readings, values, WARM_UP), geometric=False)


def _strip(
    readings: Readings, id_: str, title: str, subtitle: str, values: pl.DataFrame, percent: bool = False
) -> Panel | None:
    if values.is_empty():
        return None
    means = over_seeds(values, geometric=not percent, by=("v",))
    x = linear_axis(0.0, 1.0, percent=True) if percent else log_axis(values["y"])
    height = 34 * len(readings.variants)
    frame = Frame(id_, title, subtitle, readings.variants, x, x, x_title="", height=height)
    return panel(frame, strips(frame, values, means), numbers(readings.variants, means, title, percent=percent))
