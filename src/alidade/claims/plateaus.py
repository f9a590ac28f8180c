"""Readings of one run's line profiles about the plateau of the effective smoothness at 2 / learning rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log

import numpy as np
from numpy.typing import NDArray

from alidade.claims.claim import Runs
from alidade.claims.quantities import WARM_UP, BandSeries, after_warm_up, paper_step_sizes
from alidade.core.records import OK, Floats
from alidade.core.spec import RunSpec

#: "At the edge" means: smoothness x learning rate within these.
EDGE = (1.9, 2.1)
#: The gradient is gone after half a step where distance / norm is within these.
GONE = (0.8, 1.25)
#: A loss falls from one probe to the next if by more than this share.
FALLS = 1e-6
FEWEST_PROBES = 5


def edge_share(runs: Runs, run: str) -> float | None:
    """Share of probes with signed directional curvature x learning rate in ``EDGE`` at the smallest step size.

    Where the whole data set is the batch only probes count from which the loss falls to the next one: at a
    stationary point there is no step to speak of. None with fewer than five such probes.
    """
    spec = runs.specs[run]
    curvature = measured(runs, run, "directional_curvature")
    smallest = curvature.smallest_resolved()
    if smallest is None:
        return None
    at = curvature.at(smallest)
    if spec.model.kind == "deep_linear":
        counted = set(_falling(runs, run))
        at = {step: value for step, value in at.items() if step in counted}
    return _share_at_the_edge(list(at.values()), spec)


def smoothness_share(runs: Runs, run: str) -> float | None:
    """Share of probes whose effective smoothness x learning rate, largest over the paper's list, lies in ``EDGE``.

    The number of Fig. 10c and 13d, over the probes of ``edge_share``; None with fewer than five.
    """
    spec = runs.specs[run]
    sizes = paper_step_sizes(spec.optimizer.learning_rate, spec.model.kind)
    largest = after_warm_up(
        BandSeries("effective_smoothness", "max").of(runs.of(run, "effective_smoothness"), sizes), spec.steps
    )
    counted = set(_falling(runs, run)) if spec.model.kind == "deep_linear" else set(largest)
    return _share_at_the_edge([beta for step, beta in largest.items() if step in counted], spec)


def _share_at_the_edge(values: Sequence[float], spec: RunSpec) -> float | None:
    if len(values) < FEWEST_PROBES:
        return None
    scaled = np.asarray(values) * spec.optimizer.learning_rate
    return float(np.mean((scaled >= EDGE[0]) & (scaled <= EDGE[1])))


def saturation_log_ratio(runs: Runs, run: str) -> float | None:
    """Median log ratio of the smoothness at the smallest step size to that at half a learning rate.

    Over the probes at which half a step leaves nothing of the gradient (distance / norm within ``GONE``); None with
    fewer than five. At the edge of stability the ratio is 1, in a saturation it is the ratio of the step sizes.
    """
    half = runs.specs[run].optimizer.learning_rate / 2
    smoothness = measured(runs, run, "effective_smoothness")
    smallest = smoothness.smallest_resolved()
    if smallest is None:
        return None
    series = [
        smoothness.at(smallest),
        smoothness.at(half),
        measured(runs, run, "gradient_distance").at(half),
        measured(runs, run, "gradient_norm").at(),
    ]
    shared = sorted(set.intersection(*map(set, series)))
    small, large, distance, norm = (np.array([one[step] for step in shared]) for one in series)
    with np.errstate(divide="ignore", invalid="ignore"):  # a gradient of 0, whose ratio lies nowhere
        gone = (distance / norm >= GONE[0]) & (distance / norm <= GONE[1])
    if gone.sum() < FEWEST_PROBES:
        return None
    return float(np.median(np.log(small[gone] / large[gone])))


@dataclass(frozen=True)
class Profiles:
    """One quantity of a run's line profiles after the first tenth of the steps, ascending; each number once."""

    step: NDArray[np.int64]
    size: Floats  # to nine digits
    value: Floats
    ok: NDArray[np.bool_]

    def at(self, size: float | None = None) -> dict[int, float]:
        """By step: the ok values at a step size, or of a quantity that has none."""
        there = self.ok if size is None else self.ok & (self.size == float(f"{size:.9g}"))
        return dict(zip(self.step[there].tolist(), self.value[there].tolist(), strict=True))

    def smallest_resolved(self) -> float | None:
        """The smallest step size that most probes resolve: where only large values stand out, these would mislead."""
        sizes, place = np.unique(self.size, return_inverse=True)
        resolved = np.bincount(place, self.ok, sizes.size) / np.bincount(place, minlength=sizes.size)
        return min(sizes[(sizes > 0) & (resolved >= 0.5)].tolist(), default=None)


def measured(runs: Runs, run: str, quantity: str) -> Profiles:
    """What was measured of a quantity, whatever came out; not kept, because of a large study it is much."""
    rows = runs.of(run, quantity)
    step, size, value = (rows[name].to_numpy() for name in ("step", "step_size", "value"))
    ok = (rows["status"] == OK).to_numpy()
    listed, place = np.unique(size, return_inverse=True)  # NumPy: a study asks for this ten thousand times
    size = np.array([float(f"{one:.9g}") for one in listed])[place] if listed.size else size
    ascends = (step[1:] > step[:-1]) | ((step[1:] == step[:-1]) & (size[1:] >= size[:-1]))
    order = np.arange(step.size) if ascends.all() else np.lexsort((size, step))
    again = (np.diff(step[order], prepend=-1) == 0) & (np.diff(size[order], prepend=-1.0) == 0)
    kept = order[~again & (step[order] >= WARM_UP * runs.specs[run].steps)]
    return Profiles(step[kept], size[kept], value[kept], ok[kept])


def _falling(runs: Runs, run: str) -> list[int]:
    """Probed steps whose loss is larger than that of the next probed step."""
    at_start = measured(runs, run, "loss").at(0.0)
    steps, losses = list(at_start), list(at_start.values())
    pairs = zip(steps, losses, losses[1:], strict=False)
    return [step for step, now, then in pairs if now > 0 and then > 0 and log(now / then) > FALLS]
