"""Losses along the straight line between two checkpoints."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from itertools import count
from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from alidade.core.errors import CallError, RefusedError, brief
from alidade.core.records import Floats, Provenance, Statistics
from alidade.core.surface import Interpolation
from alidade.landscape.arguments import check_model
from alidade.landscape.batches import Supply, check_batch
from alidade.landscape.conditions import Part
from alidade.landscape.differentiation import graphs_if_needed, summed
from alidade.landscape.isolation import Isolation, call_at, unwrap
from alidade.landscape.loader import Batches, examples_of, lengths_of, parts_of, require_mixable
from alidade.landscape.loss import LossFunction, as_loss_function, as_scalar, require_same
from alidade.landscape.objective import Objective
from alidade.landscape.parallelism import spread_of
from alidade.landscape.planes import dot
from alidade.landscape.ranks import require_one_process
from alidade.landscape.states import matched_state
from alidade.landscape.statistics import MODES, check_statistics, describe_statistics, switch_statistics
from alidade.probes.recorded import Recorded, digest_of, recorded

Tensors = dict[str, Tensor]

Progress = Callable[[int, int], object]

_BUFFERS = ("interpolated", "first", "second")


@torch.inference_mode(mode=False)
def interpolate(
    model: nn.Module,
    loss_fn: Any,
    batch: Any,
    first: Mapping[str, Tensor],
    second: Mapping[str, Tensor],
    points: int = 25,
    statistics: str | None = None,
    *,
    recompute: Iterable[Any] | None = None,
    buffers: str = "interpolated",
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> Interpolation:
    r"""Losses at :math:`(1 - t) \theta_1 + t \theta_2` for t from 0 to 1 (Goodfellow et al. 2015).

    All parameters move, also those without ``requires_grad``. At the ends the tensors are exactly those of the
    checkpoints. ``barrier`` of the result is the largest rise above the chord between the ends (Entezari et al.
    2022).

    Between two networks with BatchNorm neither network's running statistics fit, nor does their mean: the loss with
    running statistics is then high for that reason alone. ``recompute`` measures them afresh at every point: each
    layer that keeps them starts anew and takes a cumulative average over the given batches, with the loss function
    run on each (Garipov et al. 2018). Other layers keep their mode meanwhile.

    Args:
        model: any module; wrappers of data parallelism and compilation are looked through. Its own weights are not
            used, and it is left as it was.
        loss_fn: ``loss_fn(model, batch)`` returns a scalar Tensor; or a pair ``(forward, criterion)``.
        batch: whatever ``loss_fn`` takes; a whole data set: :class:`alidade.Batches`.
        first: the state dictionary at t = 0.
        second: the state dictionary at t = 1.
        points: K, at least 2.
        statistics: as for :class:`~alidade.Objective`: None, "batch" or "running".
        recompute: batches as ``loss_fn`` takes them; None leaves the running statistics as ``buffers`` says.
        buffers: "interpolated" (those of whole numbers come from ``first``), "first" or "second".
        out: a file that takes each loss as soon as it is measured. The same call with the same file goes on where an
            earlier one was interrupted or killed, with the same numbers.
        progress: called as ``progress(done, total)`` for each point; it must not touch the model.

    Raises:
        CallError: state dictionaries that do not match the model, an unknown name, too few points, running
            statistics that no batch has moved, ``recompute`` where nothing uses running statistics; a file of another
            measurement.
        RefusedError: the loss is not a function of the parameters; a layer's statistics cannot start anew; batch
            statistics over the batches of a loader.
        WorkError: the file cannot be written.

    Cost: K + 1 forward passes over the batches, and K + 1 for each batch to recompute from. Memory: one copy of the
    parameters and of the batches.

    >>> model = nn.Linear(1, 1, bias=False).double()
    >>> ends = [{"weight": torch.tensor([[w]]).double()} for w in (-1.0, 1.0)]
    >>> def loss_fn(model, x):  # (w^2 - 1)^2: two minima and a barrier between them
    ...     return (model(x).square() - 1).square().sum()
    >>> line = interpolate(model, loss_fn, torch.ones(1, 1).double(), *ends, points=5)
    >>> line.losses.tolist(), line.barrier, line.distance
    ([0.0, 0.5625, 1.0, 0.5625, 0.0], 1.0, 2.0)
    """
    inner = unwrap(model)
    check_model(inner)
    require_one_process(spread_of(model).ranks, "interpolate")
    if not isinstance(batch, Batches):
        check_batch(batch)
    _check_names(points, statistics, buffers)
    if progress is not None and not callable(progress):
        raise CallError(f"progress: expected a function of (done, total), got {brief(progress)}")
    ends = matched_state(inner, first, "first"), matched_state(inner, second, "second")
    parts, batches = parts_of(inner, batch), _supplies(recompute)
    run = _Run(inner, as_loss_function(loss_fn), parts, statistics, batches, Isolation(inner), ends, buffers)
    fractions = np.linspace(0.0, 1.0, int(points))
    objective = Objective.of_parts(inner, loss_fn, [parts[0]], check_deterministic=False)
    (once, used), graphs = graphs_if_needed(run.first)
    about = {} if out is None else run.about(fractions, objective)
    with recorded(out, about, ("t = 0", float(once)), objective.dtype) as known:
        run.along(fractions, graphs, known, progress)
    require_same(once, once.new_tensor(known.losses[0]), objective.dtype)
    return Interpolation(
        fractions=fractions,
        losses=np.array([known.losses[index] for index in range(len(fractions))]),
        distance=run.distance(),
        buffers=buffers,
        recomputed_batches=len(batches),
        provenance=Provenance(
            used, objective.dtype, examples_of(parts), partition=lengths_of(parts), direction="checkpoints"
        ),
    )


def _check_names(points: Any, statistics: Any, buffers: Any) -> None:
    if not isinstance(points, Integral) or isinstance(points, bool) or points < 2:
        raise CallError(f"points: expected a whole number from 2, got {brief(points)}")
    if statistics not in MODES:
        raise CallError(f"statistics: expected None, 'batch' or 'running', got {brief(statistics)}")
    if buffers not in _BUFFERS:
        raise CallError(f"buffers: expected one of {', '.join(map(repr, _BUFFERS))}, got {brief(buffers)}")


def _supplies(recompute: Any) -> list[Supply]:
    if recompute is None:
        return []
    if isinstance(recompute, str | bytes | Mapping | Tensor) or not isinstance(recompute, Iterable):
        raise CallError(f"recompute: expected a list of batches as loss_fn takes them, got {brief(recompute)}")
    batches = list(recompute)
    for batch in batches:
        check_batch(batch)
    if not batches:
        raise CallError("recompute: expected at least one batch, got none")
    return [Supply(batch) for batch in batches]


class _Run(NamedTuple):
    """What is evaluated at each point, and how."""

    model: nn.Module
    loss_fn: LossFunction
    parts: Sequence[Part]
    statistics: str | None
    batches: list[Supply]
    isolation: Isolation
    ends: tuple[Tensors, Tensors]
    buffers: str

    def at(self, t: float) -> tuple[Tensor, Statistics]:
        """The loss, and which statistics it used; random numbers are those of the start at every point."""
        first = self.parts[0]
        with self.isolation.evaluation(first.conditions.randomness) as places, first.replayed(self.model):
            live = {place.name: place.members[place.key] for place in places.parameters}
            mixed = self._between(t, set(live))
            leaves = {n: nn.Parameter(mixed.pop(n), requires_grad=p.requires_grad) for n, p in live.items()}
            found: tuple[Tensor, Statistics] = call_at(self.model, leaves, self._loss, mixed, places)
            return found

    def first(self, graphs: bool) -> tuple[Tensor, Statistics]:
        """The loss at t = 0, and which statistics it used."""
        with torch.set_grad_enabled(graphs):
            return self.at(0.0)

    def along(self, fractions: Floats, graphs: bool, known: Recorded, progress: Progress | None) -> None:
        """Measure what is not known yet."""
        with self.isolation.held(self.parts[0].conditions.randomness), torch.set_grad_enabled(graphs):
            for index, t in enumerate(fractions):
                if index not in known.losses:
                    known.keep(index, float(self.at(float(t))[0]))
                if progress is not None:
                    progress(index + 1, len(fractions))

    def about(self, fractions: Floats, objective: Objective) -> dict[str, Any]:
        """What tells one line from another, but for the batches: these show in the loss at its start."""
        return {
            "measurement": "interpolation", "format": 2, "digest": digest_of([fractions], *self.ends),
            "buffers": self.buffers, "statistics": self.statistics, "recompute": len(self.batches),
            "dtype": objective.dtype, "batch_size": examples_of(self.parts),
        }  # fmt: skip

    def distance(self) -> float:
        """Norm of the difference of all parameters."""
        names = {place.name for place in self.isolation.places().parameters}
        away = {name: self.ends[1][name].double() - self.ends[0][name].double() for name in names}
        return math.sqrt(dot(away, away))

    def _between(self, t: float, parameters: set[str]) -> Tensors:
        """New tensors; exactly those of the checkpoints at the ends. A buffer that one of them lacks is left out."""
        first, second = self.ends
        mixed = {}
        for name in (name for name in first if name in second):
            kind = "interpolated" if name in parameters else self.buffers
            if kind == "interpolated" and first[name].is_floating_point():
                mixed[name] = torch.lerp(first[name], second[name], t)
            else:
                mixed[name] = (second if kind == "second" else first)[name].clone()
        return mixed

    def _loss(self, model: nn.Module) -> tuple[Tensor, Statistics]:
        if self.batches:
            switch_statistics(model, self.statistics)
            _recompute(model, self.loss_fn, self.batches)
        check_statistics(model, self.statistics)
        switch_statistics(model, self.statistics)
        require_mixable(self.parts, lambda: describe_statistics(model))
        return summed([self._of_part(model, part) for part in self.parts]), describe_statistics(model)

    def _of_part(self, model: nn.Module, part: Part) -> Tensor:
        """The weighted loss of a batch, each from the same random numbers."""
        part.conditions.randomness.install()
        with part.supply.restored():
            loss = as_scalar(self.loss_fn(model, part.supply.fresh())).detach()
        return loss if part.weight == 1 else part.weight * loss


def _recompute(model: nn.Module, loss_fn: LossFunction, batches: list[Supply]) -> None:
    """Give the layers that use running statistics the averages over these batches; to be called inside isolation."""
    layers = [m for m in model.modules() if m._buffers.get("running_mean") is not None and not m.training]
    if not layers:
        raise CallError("recompute: expected a layer that uses running statistics; pass statistics='running'")
    with ExitStack() as stack:
        for layer in layers:
            stack.callback(_averaging(layer))
        for batch in batches:
            with batch.restored():
                loss_fn(model, batch.fresh())
    for layer in layers:
        layer.training = False


def _averaging(layer: nn.Module) -> Callable[[], None]:
    """Let a layer start anew, with the cumulative average of its calls; returns what ends that.

    It needs new = (1 - momentum) old + momentum batch: then 1 / n in the n-th call is the mean of the first n.
    """
    if not hasattr(layer, "momentum"):
        raise RefusedError(f"recompute: expected layers with a momentum, got {type(layer).__name__} without one")
    for name, buffer in layer._buffers.items():
        if name.startswith("running_") and buffer is not None:
            buffer.zero_()  # even a NaN is forgotten
    calls = count(1)

    def weigh(module: nn.Module, inputs: Any) -> None:
        vars(module)["momentum"] = 1 / next(calls)

    layer.training = True
    return layer.register_forward_pre_hook(weigh).remove
