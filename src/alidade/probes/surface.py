"""The loss over a plane through parameter space."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alidade.core.errors import CallError, brief
from alidade.core.records import Floats, Provenance
from alidade.core.surface import LossSurface
from alidade.landscape.arguments import check_objective, check_seed
from alidade.landscape.objective import Objective
from alidade.landscape.planes import (
    Plane,
    given_plane,
    plane_through,
    principal_plane,
    random_plane,
    trainable,
)
from alidade.landscape.ranks import require_one_process
from alidade.landscape.sweep import PlaneSweep
from alidade.probes.recorded import Recorded, digest_of, recorded

Tensors = dict[str, Tensor]

#: Room around a trajectory, as a part of its width.
MARGIN = 0.2
#: Points handed over at once, of which a slow network takes the first only.
_AT_ONCE = 1000


@torch.inference_mode(mode=False)
def loss_surface(
    objective: Objective,
    directions: str | Sequence[Mapping[str, Tensor]] | None = None,
    normalize: str | None = None,
    extent: float | tuple[tuple[float, float], tuple[float, float]] | None = None,
    points: int | tuple[int, int] = 51,
    *,
    trajectory: Sequence[Mapping[str, Tensor]] | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> LossSurface:
    r"""Losses :math:`L(\theta + x d_1 + y d_2)` on a grid over a plane (Li et al. 2018, equation 1).

    The plane, by ``directions``:

    * None or "random": two Gaussian directions from ``seed`` through the objective's parameters.
    * a pair of dictionaries, one tensor per trainable parameter, such as the gradient and an eigenvector.
    * "pca": through the last state of ``trajectory`` along the first two principal components of all its states,
      with the shares of the variance that they explain (Li et al. 2018, section 7).
    * three state dictionaries: the plane through these checkpoints; the first is the origin, the second lies on
      the first axis, the third above it (Garipov et al. 2018).

    Filter normalization makes each filter of a direction, the weights :math:`d_j` of one output unit, as long as
    that of the parameters: :math:`d_j \leftarrow d_j \|w_j\| / \|d_j\|` (Li et al. 2018, section 4). Biases, norm
    scales and shifts and zero filters stay at rest.

    Buffers stay the live model's in the whole plane. So with running statistics a checkpoint's loss here is not
    the one that it had with statistics of its own; with batch statistics it is.

    Args:
        objective: the loss. Its determinism is checked before the first point.
        directions: the plane, as above.
        normalize: "filter" (None for random directions) or "raw" (None for a pair: as it is given; random
            directions are then as long as the parameters). A plane through states is always raw: it would miss them.
        extent: half the width of both axes, or ((x_low, x_high), (y_low, y_high)). None: 1, and the states
            with a margin where the plane goes through states.
        points: grid points along both axes, or along each. An odd number has the origin in the middle.
        trajectory: T state dictionaries of the model, or dictionaries of its trainable parameters, to be projected
            orthogonally onto the plane. Their own losses and distances from the plane are measured too.
        seed: of the random directions; the global random state is not used.
        out: a file that takes the losses of a row, or of a second, as soon as they are measured. The same call with
            the same file goes on where an earlier one was interrupted or killed, with the same numbers.
        progress: called as ``progress(done, total)`` for each point of the grid; it must not touch the model.

    Raises:
        CallError: an unknown name, directions or states of wrong names or shapes, not finite, or on one line; an
            extent or a number of points that makes no grid; a file of another measurement.
        RefusedError: the objective is not deterministic, or no filter can move.
        WorkError: the file cannot be written.

    Cost, for n x m points and T states: n m + T + 1 forward passes, and one for the objective's first determinism
    check. Memory: five copies of the parameters, of small networks eight.

    >>> model = torch.nn.Linear(2, 1, bias=False).double()
    >>> _ = torch.nn.init.zeros_(model.weight)
    >>> batch = torch.diag(torch.tensor([2.0, 1.0])).double()
    >>> objective = Objective(model, lambda model, x: model(x).square().sum() / 2, batch)
    >>> axes = [{"weight": torch.tensor([row]).double()} for row in ([1.0, 0.0], [0.0, 1.0])]
    >>> surface = loss_surface(objective, axes, extent=1.0, points=3)  # 2 x^2 + y^2 / 2
    >>> surface.losses.tolist()
    [[2.5, 2.0, 2.5], [0.5, 0.0, 0.5], [2.5, 2.0, 2.5]]
    """
    check_objective(objective)
    check_seed(seed)
    if progress is not None and not callable(progress):
        raise CallError(f"progress: expected a function of (done, total), got {brief(progress)}")
    states = _states(objective, directions, trajectory)
    plane = _plane(objective, directions, normalize, states, seed)
    where = np.array([plane.project(state) for state in states]).reshape(-1, 3)
    x, y = _axes(extent, points, where[:, :2] if plane.name in ("pca", "checkpoints") else None)
    moved = objective.moved_to(plane.origin)
    with moved.repeated():
        loss = float(moved.value())
        if out is not None:
            require_one_process(objective.ranks, "loss_surface(out=...)")  # which would all write to one file
        about = {} if out is None else _about(moved, plane, x, y, states)
        with recorded(out, about, ("the origin", loss), moved.dtype) as known:
            losses = _on_grid(known, PlaneSweep(moved, plane), x, y, progress)
            at_states = _at_states(known, moved, states, losses.size)
    return LossSurface(
        x=x, y=y, losses=losses, loss=loss, directions=plane.name, normalize=plane.normalize,
        direction_norms=plane.lengths, cosine=plane.cosine, provenance=_provenance(objective, plane),
        trajectory=where[:, :2], trajectory_losses=at_states, off_plane=where[:, 2],
        explained_variance=plane.explained_variance,
    )  # fmt: skip


def _provenance(objective: Objective, plane: Plane) -> Provenance:
    return Provenance(
        objective.statistics, objective.dtype, objective.batch_size,
        coordinates="relative" if plane.normalize == "filter" else "raw", direction=plane.name,
    )  # fmt: skip


def _states(objective: Objective, directions: Any, trajectory: Any) -> list[Tensors]:
    """The trajectory's parameters; three checkpoints are their own trajectory, unless another is given."""
    label = "trajectory"
    if trajectory is None and _are_checkpoints(directions):
        label, trajectory = "directions", directions
    if trajectory is None:
        return []
    if isinstance(trajectory, str | bytes | Mapping) or not isinstance(trajectory, Sequence):
        raise CallError(f"{label}: expected a list of state dictionaries, got {brief(trajectory)}")
    return [
        trainable(objective.model, objective.parameters, state, f"{label}[{i}]") for i, state in enumerate(trajectory)
    ]


def _are_checkpoints(directions: Any) -> bool:
    return isinstance(directions, list | tuple) and len(directions) == 3


def _plane(objective: Objective, directions: Any, normalize: str | None, states: list[Tensors], seed: int) -> Plane:
    if normalize not in (None, "filter", "raw"):
        raise CallError(f"normalize: expected 'filter', 'raw' or None, got {brief(normalize)}")
    model, origin = objective.model, {name: value.clone() for name, value in objective.parameters.items()}
    if directions is None or (isinstance(directions, str) and directions == "random"):
        return random_plane(model, origin, normalize or "filter", seed)
    if isinstance(directions, list | tuple) and len(directions) == 2:
        return given_plane(model, origin, directions, normalize or "raw")
    through = isinstance(directions, str) and directions == "pca"
    if (through or _are_checkpoints(directions)) and normalize == "filter":
        raise CallError(
            "normalize: expected 'raw' or None for a plane through states, got 'filter': it would miss them"
        )
    if through:
        return principal_plane(states)
    if _are_checkpoints(directions):
        return plane_through([trainable(model, origin, s, f"directions[{i}]") for i, s in enumerate(directions)])
    several = isinstance(directions, list | tuple)
    came = f"a {type(directions).__name__} of {len(directions)}" if several else brief(directions)
    raise CallError(
        f"directions: expected None, 'random', 'pca', a pair of directions or three state dictionaries, got {came}"
    )


def _axes(extent: Any, points: Any, around: Floats | None) -> tuple[Floats, Floats]:
    """Coordinates along both axes; the middle of an odd number of points is exact."""
    counts = points if isinstance(points, tuple | list) and len(points) == 2 else (points, points)
    for count in counts:
        if not isinstance(count, Integral) or isinstance(count, bool) or count < 2:
            raise CallError(f"points: expected a whole number from 2, or a pair of them, got {brief(points)}")
    limits = _limits(extent) if extent is not None or around is None else _box(around)
    first, second = (_axis(low, high, int(n)) for (low, high), n in zip(limits, counts, strict=True))
    return first, second


def _axis(low: float, high: float, count: int) -> Floats:
    steps = (2 * np.arange(count) - (count - 1)) / (count - 1)
    return (low + high) / 2 + (high - low) / 2 * steps


def _limits(extent: Any) -> list[tuple[float, float]]:
    pairs = [(-extent, extent)] * 2 if isinstance(extent, Real) else [(-1.0, 1.0)] * 2 if extent is None else extent
    try:
        limits = [(float(low), float(high)) for low, high in pairs]
    except (TypeError, ValueError):
        limits = []
    if len(limits) != 2 or not all(math.isfinite(low) and math.isfinite(high) and low < high for low, high in limits):
        raise CallError(
            "extent: expected a positive number or ((x_low, x_high), (y_low, y_high)) with each low below its high, "
            f"got {brief(extent)}"
        )
    return limits


def _box(around: Floats) -> list[tuple[float, float]]:
    """Around the states, with a margin."""
    low, high = around.min(axis=0), around.max(axis=0)
    return [(float(a - MARGIN * (b - a)), float(b + MARGIN * (b - a))) for a, b in zip(low, high, strict=True)]


def _on_grid(
    known: Recorded, sweep: PlaneSweep, x: Floats, y: Floats, progress: Callable[[int, int], object] | None
) -> Floats:
    """The losses on the grid, row by row; of those that the file has, progress is told first."""
    size = len(x) * len(y)
    missing = [index for index in range(size) if index not in known.losses]
    tell = progress or (lambda done, total: None)
    for done in range(size - len(missing)):
        tell(done + 1, size)
    while missing:
        at = [(float(x[index // len(y)]), float(y[index % len(y)])) for index in missing[:_AT_ONCE]]
        before, found = size - len(missing), list[float]()
        try:
            found = sweep.losses(at)
        finally:
            for loss in found or sweep.rescued:
                known.keep(missing.pop(0), loss)
        for done in range(before, size - len(missing)):
            tell(done + 1, size)
    return np.array([known.losses[index] for index in range(size)]).reshape(len(x), len(y))


def _at_states(known: Recorded, moved: Objective, states: list[Tensors], first: int) -> Floats:
    """The losses at the states, whose indices begin with ``first``."""
    for index, state in enumerate(states, first):
        if index not in known.losses:
            known.keep(index, float(moved.value(_cloned(state))))
    return np.array([known.losses[first + t] for t in range(len(states))])


def _cloned(state: Tensors) -> Tensors:
    """A forward pass may write to its parameters."""
    return {name: value.clone() for name, value in state.items()}


def _about(moved: Objective, plane: Plane, x: Floats, y: Floats, states: list[Tensors]) -> dict[str, Any]:
    """What tells one surface from another, but for the batch: that shows in the loss at the origin."""
    digest = digest_of((x, y), plane.origin, plane.first, plane.second, *states)
    return {
        "measurement": "loss_surface", "format": 2, "points": [len(x), len(y)], "digest": digest,
        "statistics": moved.statistics, "dtype": moved.dtype, "batch_size": moved.batch_size,
    }  # fmt: skip
