"""Norms, ratios and angles of each layer's parameters: a frozen value."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from alidade.core.errors import CallError
from alidade.core.records import NON_FINITE, OK, UNDEFINED, Floats, Provenance, Row

Kind = Literal["weight", "bias", "scale"]

#: Unit of each quantity; w is the unit of a weight.
UNITS = {
    "norm": "w", "gradient_norm": "nat/w", "gradient_ratio": "nat/w^2", "update_norm": "w", "update_ratio": "1",
    "effective_learning_rate": "1/nat", "angular_update": "rad",
}  # fmt: skip

#: What is asked of the weights only: these measure a direction, and a bias has none of its own.
WEIGHTS_ONLY = ("effective_learning_rate", "angular_update")


@dataclass(frozen=True)
class LayerScalars:
    """One entry per layer and kind of parameter, in order of registration.

    Kinds: "weight" pools the layer's parameters of two or more dimensions (a recurrent layer has several), "bias"
    those of fewer that are called bias, and "scale" all others (the weight of a normalization layer, the
    magnitudes of weight normalization). What is 0/0, or needs a learning rate or an update that was not given, is NaN
    with status "undefined".
    """

    layers: tuple[str, ...]  # (E,) name of the module; "(model)" is the model itself
    kinds: tuple[Kind, ...]  # (E,)
    norm: Floats  # (E,) ||W||
    gradient_norm: Floats  # (E,) ||g||
    gradient_ratio: Floats  # (E,) ||g|| / ||W||
    update_norm: Floats  # (E,) ||u||, u = lr g or the update really taken
    update_ratio: Floats  # (E,) ||u|| / ||W||
    effective_learning_rate: Floats  # (E,) lr / ||W||^2
    angular_update: Floats  # (E,) angle between W and W - u, in [0, pi]
    lr: Floats  # (E,) NaN where none was given, or not one for the whole entry
    provenance: Provenance

    def entry(self, layer: str, kind: Kind = "weight") -> int:
        """The index of a layer's entry.

        Raises:
            CallError: there is no such entry.
        """
        pairs = list(zip(self.layers, self.kinds, strict=True))
        if (layer, kind) not in pairs:
            raise CallError(f"entry: expected one of {', '.join(map(str, pairs))}, got {(layer, kind)}")
        return pairs.index((layer, kind))

    def status(self, quantity: str) -> tuple[str, ...]:
        """Of each entry: ok; non_finite, where weights, gradient or update are; undefined, where it has no value.

        Raises:
            CallError: an unknown quantity.
        """
        if quantity not in UNITS:
            raise CallError(f"status: expected one of {', '.join(UNITS)}, got {quantity!r}")
        values, given = getattr(self, quantity), self.provenance.direction == "update"
        broken = ~np.isfinite(self.norm) | ~np.isfinite(self.gradient_norm) | np.isinf(self.update_norm)
        broken = broken | np.isinf(values) | (given & np.isnan(self.update_norm))
        return tuple(
            OK if good else NON_FINITE if bad else UNDEFINED
            for good, bad in zip(np.isfinite(values), broken, strict=True)
        )

    def rows(self, step: int, prefix: str = "") -> Iterator[Row]:
        """Tidy rows; ``prefix`` and the kind stand before the quantity: ``weight_norm``, ``bias_gradient_ratio``."""
        for quantity, unit in UNITS.items():
            statuses = self.status(quantity)
            for index, (layer, kind) in enumerate(zip(self.layers, self.kinds, strict=True)):
                if kind != "weight" and quantity in WEIGHTS_ONLY:
                    continue
                value = float(getattr(self, quantity)[index])
                yield Row(
                    step=step, quantity=f"{prefix}{kind}_{quantity}", value=value, unit=unit,
                    layer=layer, statistics=self.provenance.statistics, dtype=self.provenance.dtype,
                    status=statuses[index],
                )  # fmt: skip
