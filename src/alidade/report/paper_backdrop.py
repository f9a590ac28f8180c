"""The paper's curves behind ours: which of them belong behind which panel.

A curve belongs to a variant of the same network, norm and learning rate that learns without augmentation. The deep
linear network is the paper's at every scale, so steps are shared. A VGG that trains for fewer steps is a smaller one:
the paper's steps are then mapped by fraction of training.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import polars as pl

from alidade.core.spec import RunSpec
from alidade.report.charts import Panel
from alidade.report.figure import Backdrop, Figure
from alidade.report.paper_curves import STEPS, paper_curves
from alidade.report.paper_layers import SIGNAL, with_curves
from alidade.report.variants import Variant
from alidade.report.words import listed

#: The paper's name of each kind of network.
NETWORKS = {"vgg": "vgg", "deep_linear": "dln"}
#: Layers of the VGG with 8 convolutions that stand where the paper's stand among 13: ours, the paper's.
_OF_EIGHT = {2: 2, 3: 5, 5: 9, 6: 10, 8: 13}

#: Figures whose series come first in a section: Fig. 3 is a run of its own, Fig. 13 shows every norm.
_PREFERRED = {"covariate_shift": (3,), "deep_linear": (13,)}

Kind = Literal["line", "band", "width", "sizes", "times_rate"]


@dataclass(frozen=True)
class Behind:
    """What of the paper stands behind a panel: a quantity of its table, and how it is drawn."""

    quantity: str
    kind: Kind = "line"
    layer: int | None = None  # of our network, counted from 1
    only: str | None = None  # key of the one variant that the panel shows


#: Panels by the end of their id. The groups ``only`` and ``layer`` are a variant's key and a layer's number.
_PANELS: tuple[tuple[str, str, Kind], ...] = (  # pattern, quantity, kind
    ("training-loss", "train_loss", "line"),
    ("train-accuracy", "train_accuracy", "line"),
    ("test-accuracy", "test_accuracy", "line"),
    (r"loss-band-(?P<only>v\d+)", "loss", "band"),
    (r"gradient-distance-band-(?P<only>v\d+)", "gradient_distance", "band"),
    ("loss-width", "loss", "width"),
    ("smoothness", "effective_smoothness", "line"),
    ("edge-smoothness", "effective_smoothness", "times_rate"),
    ("profile-gradient", "gradient_distance_at_step_size", "sizes"),
    ("shift-loss", "train_loss", "line"),
    (r"shift-l2-layer(?P<layer>\d+)", "ics_l2", "line"),
    (r"shift-cosine-layer(?P<layer>\d+)", "ics_cosine", "line"),
    *(
        (rf"{moment}-{move}-layer(?P<layer>\d+)", f"{moment}_{move}", "line")
        for moment in ("mean", "variance")
        for move in ("change", "drift")
    ),
)


def behind(panel_id: str) -> Behind | None:
    """What of the paper belongs behind the panel; None for most.

    >>> behind("loss-band-v1")
    Behind(quantity='loss', kind='band', layer=None, only='v1')
    """
    for pattern, quantity, kind in _PANELS:
        found = re.search(f"(?:^|--){pattern}$", panel_id)
        if found:
            groups = found.groupdict()
            layer = groups.get("layer")
            return Behind(quantity, kind, int(layer) if layer else None, groups.get("only"))
    return None


def beside_the_paper(figure: Figure, section: str) -> Figure:
    """The figure, of an experiment's section, with the paper's curves behind its panels.

    They show at first only where every run is as long as the paper's.
    """
    prefer = _PREFERRED.get(section, ())
    rows = tuple(tuple(_backed(panel, figure, prefer) for panel in row) for row in figure.rows)
    if not any(SIGNAL in panel.spec.get("datasets", {}) for row in rows for panel in row):
        return figure
    return replace(figure, rows=rows, backdrop=Backdrop(caption(figure.variants), shown_at_first(figure.variants)))


def shown_at_first(variants: Sequence[Variant]) -> bool:
    """Whether every network that the paper trained takes as many steps here."""
    return all(spec.steps == _paper_steps(spec) for spec in _comparable(variants))


def caption(variants: Sequence[Variant]) -> str:
    """What stands beside the switch: how the paper's runs and ours relate."""
    specs = _comparable(variants)
    if shown_at_first(variants):
        return "thin and pale, on the same steps"
    theirs = listed([_thousands(n) for n in sorted({_paper_steps(spec) for spec in specs})])
    ours = listed([_thousands(n) for n in sorted({spec.steps for spec in specs})])
    if all(_factor(spec) == 1 for spec in specs):
        return f"thin and pale, on the same steps: its runs go on to {theirs}, these stop at {ours}"
    return (
        f"thin and pale. Its runs took {theirs} steps, these {ours}, so its steps are mapped by fraction of training; "
        "its network is larger and its data may differ: compare shapes, not heights"
    )


def _factor(spec: RunSpec) -> float:
    """Of our step to the paper's."""
    return 1.0 if spec.model.kind == "deep_linear" else spec.steps / _paper_steps(spec)


def _paper_steps(spec: RunSpec) -> int:
    return STEPS[NETWORKS[spec.model.kind]]


def _comparable(variants: Sequence[Variant]) -> list[RunSpec]:
    """The specs of variants whose like the paper trained."""
    specs = [variant.spec for variant in variants if isinstance(variant.spec, RunSpec)]
    return [spec for spec in specs if not spec.data.augment and not _of(spec).is_empty()]


def _of(spec: RunSpec) -> pl.DataFrame:
    """The paper's points for the same network, norm and learning rate."""
    rate = spec.optimizer.learning_rate
    same_rate = (pl.col("learning_rate") / rate - 1).abs() < 1e-6
    return paper_curves().filter(same_rate, network=NETWORKS[spec.model.kind], norm=spec.model.norm)


def _thousands(count: int) -> str:
    return f"{count:,}".replace(",", "\u202f")


def _backed(panel: Panel, figure: Figure, prefer: Sequence[int]) -> Panel:
    wanted = behind(panel.id)
    rows = curves_behind(wanted, figure.variants, prefer) if wanted else pl.DataFrame()
    if wanted is None or rows.is_empty():
        return panel
    if wanted.kind == "sizes":
        rows = _at_slider(rows, figure)
    drawn = rows.filter(pl.col("v") == wanted.only) if wanted.only else rows  # none: its axis widens with the others
    return with_curves(panel, drawn, figure.variants, rows, shown_at_first(figure.variants))


def curves_behind(wanted: Behind, variants: Sequence[Variant], prefer: Sequence[int] = ()) -> pl.DataFrame:
    """The points of the paper that belong behind a panel.

    Returns:
        v (the variant's key) and x (the step, mapped), with y for lines, low and high for bands; for ``sizes`` s is
        the mapped step and x the step size. Empty where the paper shows nothing of the kind.
    """
    parts = [_of_variant(wanted, variant, prefer) for variant in variants]
    kept = [part for part in parts if not part.is_empty()]
    return pl.concat(kept) if kept else pl.DataFrame()


def _of_variant(wanted: Behind, variant: Variant, prefer: Sequence[int]) -> pl.DataFrame:
    specs = _comparable([variant])
    if not specs:
        return pl.DataFrame()
    spec = specs[0]
    rows = _of(spec).with_columns(pl.lit(variant.key).alias("v"), (pl.col("step") * _factor(spec)).alias("x"))
    rows = rows.filter(pl.col("x") <= spec.steps)
    layer = _paper_layer(spec, wanted.layer)
    if wanted.kind in ("band", "width"):
        return _edges(rows, wanted, prefer)
    mine = _first_shown(rows.filter(pl.col("layer").eq_missing(layer), quantity=wanted.quantity), prefer)
    if wanted.kind == "sizes":
        return mine.select("v", pl.col("x").alias("s"), pl.col("step_size").alias("x"), pl.col("value").alias("y"))
    scale = spec.optimizer.learning_rate if wanted.kind == "times_rate" else 1.0
    return mine.select("v", "x", (scale * pl.col("value")).alias("y"))


def _edges(rows: pl.DataFrame, wanted: Behind, prefer: Sequence[int]) -> pl.DataFrame:
    low, high = (
        _first_shown(rows.filter(quantity=f"{wanted.quantity}_{end}"), prefer).select(
            "v", "x", pl.col("value").alias(as_)
        )
        for end, as_ in (("min", "low"), ("max", "high"))
    )
    both = low.join(high, on=["v", "x"], maintain_order="left")
    if wanted.kind == "band":
        return both
    return both.select("v", "x", (pl.col("high") - pl.col("low")).alias("y"))


def _first_shown(rows: pl.DataFrame, prefer: Sequence[int]) -> pl.DataFrame:
    """One figure's series: of a preferred one, else of the first that shows it."""
    figures = rows["figure"].unique().sort().to_list()
    chosen = next((figure for figure in (*prefer, *figures) if figure in figures), None)
    return rows.filter(figure=chosen) if figures else rows


def _paper_layer(spec: RunSpec, layer: int | None) -> int | None:
    """The paper's layer that ours stands for; 0, which it lacks, where there is none."""
    if layer is None or spec.model.kind != "vgg" or spec.model.conv_layers != 8:
        return layer
    return _OF_EIGHT.get(layer, 0)


def _at_slider(rows: pl.DataFrame, figure: Figure) -> pl.DataFrame:
    """The rows of the paper's step nearest to each step that the figure's slider can choose."""
    steps = list(figure.stepper["steps"]) if figure.stepper else []
    chosen = pl.DataFrame({"at": steps}, schema={"at": pl.Float64}).sort("at")
    parts = []
    for key in rows["v"].unique(maintain_order=True):
        own = rows.filter(v=key).sort("s")
        known = own.select(pl.col("s").unique().sort())
        nearest = chosen.join_asof(known, left_on="at", right_on="s", strategy="nearest", coalesce=False)
        parts.append(nearest.join(own, on="s").select("v", pl.col("at").cast(pl.Int64).alias("s"), "x", "y"))
    return pl.concat(parts)
