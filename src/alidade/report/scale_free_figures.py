"""The landscape in units of the weights, and along random directions."""

from __future__ import annotations

from alidade.report.charts import Panel, numbers
from alidade.report.figure import Figure, note
from alidade.report.panels import over_loss, over_steps
from alidade.report.series import RELATIVE, Readings, Reduction, over_training

RANDOM = "random_"


def twins(readings: Readings) -> Figure | None:
    """The same three readings in relative coordinates, where rescaling a filter changes nothing."""
    rows = _readings(readings, RELATIVE, "twin", relative=True)
    if not rows:
        return None
    widths = readings.reduced("loss", "width", RELATIVE)
    return Figure(
        id="scale-free",
        title="In units of the weights: the scale-free twins",
        rows=rows,
        lead=numbers(
            readings.variants,
            over_training(readings, widths),
            f"Mean width of the relative loss band over training ({readings.unit})",
        ),
        how_to_read=(
            "BatchNorm makes a network blind to the length of its filters, so a plain comparison can be manufactured "
            "by rescaling weights that the network ignores. Here every filter is measured in units of its own length: "
            "a step size of 0.1 changes each filter by about a tenth of itself (root mean square). Only what survives "
            "here is a property of the function. Upper row along training, lower row the same numbers against the "
            "training loss of that step."
        ),
        note=note(readings, RELATIVE + "loss", RELATIVE),
        variants=readings.variants,
    )


def random_directions(readings: Readings) -> Figure | None:
    """The three readings along a random direction, which the paper only mentions."""
    free = _readings(readings, RANDOM + RELATIVE, "random-free", relative=True)
    raw = _readings(readings, RANDOM, "random", relative=False)
    rows = (*raw, *free[:1]) if raw else free
    prefix = RANDOM if raw else RANDOM + RELATIVE
    if not rows:
        return None
    return Figure(
        id="random",
        title="Along a random direction",
        rows=rows,
        lead=numbers(
            readings.variants,
            over_training(readings, readings.reduced("loss", "width", prefix)),
            f"Mean width of the loss band over training ({readings.unit})",
        ),
        how_to_read=(
            "The same walk along directions drawn at random, fresh at every probe, for which the paper says, without a "
            "figure, that they behave “similarly”. In as many dimensions as a network has, such a direction is nearly "
            "perpendicular to the gradient, so the levels differ from those along it by far: compare networks, not "
            "figures. First along training, then the same numbers against the training loss of that step"
            + (
                ", last along training in units of the weights, where no scaling of filters can make a difference."
                if raw and free
                else "."
            )
        ),
        note=note(readings, prefix + "loss", prefix),
        variants=readings.variants,
    )


def _readings(readings: Readings, prefix: str, name: str, relative: bool) -> tuple[tuple[Panel, ...], ...]:
    """Loss band, gradient distance and effective smoothness: along training, and at equal loss."""
    if not readings.has(prefix + "loss"):
        return ()
    unit = readings.unit
    distance = "in gradient norms" if relative else f"{unit} per unit of weight"
    smooth = unit if relative else f"{unit} per squared unit of weight"
    words = ", in relative steps" if prefix == RANDOM + RELATIVE else ""
    kinds: list[tuple[str, str, str, Reduction, str]] = [
        ("loss", f"{name}-loss", f"Width of the loss band{words}", "width", f"{unit}, log scale"),
        ("gradient_distance", f"{name}-gradient", f"Largest gradient distance{words}", "max", f"{distance}, log scale"),
        ("effective_smoothness", f"{name}-smoothness", f"Largest effective smoothness{words}", "max",
         f"{smooth}, log scale"),
    ]  # fmt: skip
    values = [(kind, readings.reduced(kind[0], kind[3], prefix)) for kind in kinds]
    drawn = [(kind, rows) for kind, rows in values if not rows.is_empty()]
    steps = tuple(over_steps(readings, k[1], k[2], k[4], rows) for k, rows in drawn)
    losses = tuple(over_loss(readings, f"{k[1]}-at-loss", f"{k[2]}, at equal loss", k[4], rows) for k, rows in drawn)
    return (steps, losses) if drawn else ()
