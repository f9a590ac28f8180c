"""Internal covariate shift: how much updating the layers before it changes a layer's gradient (the paper's Fig. 3)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor, nn

from alidade.core.errors import CallError
from alidade.core.records import BELOW_RESOLUTION, NON_FINITE, OK, UNDEFINED, CovariateShift
from alidade.landscape.conditions import Part, conditions_now
from alidade.landscape.differentiation import summed
from alidade.landscape.isolation import unwrap
from alidade.landscape.layers import Groups, Layers, groups_named
from alidade.landscape.loader import Batches
from alidade.landscape.mixtures import Mixtures, Request
from alidade.landscape.objective import Objective
from alidade.landscape.ranks import Ranks, mean_by_name
from alidade.landscape.shards import whole
from alidade.landscape.states import matched_state
from alidade.probes.line import gradient_error

Tensors = dict[str, Tensor]


def covariate_shift(
    model: nn.Module,
    loss_fn: Any,
    batch: Any,
    before: Mapping[str, Tensor],
    after: Mapping[str, Tensor],
    layers: Sequence[str | Sequence[str]] | Mapping[str, Sequence[str]] | None = None,
    statistics: str | None = None,
) -> CovariateShift:
    r"""Change of each layer's gradient when only the layers before it are updated, on the same batch.

    With :math:`W^t` the state ``before`` and :math:`W^{t+1}` the state ``after``, for layer :math:`i`
    (Santurkar et al. 2018, Definition 2.1):

    .. math::
        G_i = \nabla_{W_i} L(W_1^t, \dots, W_k^t), \qquad
        G'_i = \nabla_{W_i} L(W_1^{t+1}, \dots, W_{i-1}^{t+1}, W_i^t, \dots, W_k^t)

    and per layer: ``l2`` :math:`= \|G_i - G'_i\|` (nat/w, ideal 0), ``cosine`` of the angle between the two (ideal
    1), ``relative`` :math:`= \|G_i - G'_i\| / \|G_i\|`. The first layer has none before it: 0 and 1 by definition.

    A layer is a module that directly owns trainable parameters. "Before" is the order of first use, observed in
    the forward pass; a parameter that two modules share belongs to the first that uses it. Frozen parameters and
    buffers go with the layer that holds them; those of modules that are no layer stay as in ``before``. Every
    evaluation draws the random numbers that the model would draw next (dropout masks). The model's own weights are
    not used; it is left as it was, see :mod:`alidade.landscape.isolation`.

    Args:
        model: any module; wrappers of data parallelism and compilation are looked through.
        loss_fn: ``loss_fn(model, batch)`` returns a scalar Tensor; or a pair ``(forward, criterion)``.
        batch: whatever ``loss_fn`` takes.
        before: the state dictionary at step t.
        after: the state dictionary at step t + 1.
        layers: None measures all, in order of first use, those never used at the end. Or a list of names, or of
            lists of names that are measured together (the paper groups a convolution with its norm); or a
            dictionary from a label to such a list. The name of a module that owns nothing itself, such as a block,
            means the layers inside it. A group begins where its first member does.
        statistics: of normalization layers that keep running ones, as for :class:`~alidade.Objective`.

    Raises:
        CallError: state dictionaries that do not match the model, an unknown layer, a loss that is no scalar or
            does not depend on the parameters, running statistics that no batch has moved.
        RefusedError: the loss is not a function of the parameters: two evaluations differ.

    Cost, for n layers: one forward and backward pass; n - 1 evaluations that start near the layer, since what
    modules before it return is kept from one evaluation to the next, and that differentiate that layer alone; and
    one forward pass that they begin with. On convolutional networks with 9 layers or more this is two fifths of n
    full passes. Under gradient checkpointing, and for losses that contain gradients, n full passes and a forward.
    Memory: what the modules of one forward pass return, and two copies of the parameters.

    >>> import torch
    >>> model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)).double()
    >>> def state(first, second):
    ...     return {"0.weight": torch.tensor([[first]]).double(), "1.weight": torch.tensor([[second]]).double()}
    >>> def loss_fn(model, x):  # (w1 w0)^2 / 2, so that the gradient of w1 is w1 w0^2
    ...     return model(x).square().sum() / 2
    >>> shift = covariate_shift(model, loss_fn, torch.ones(1, 1).double(), state(1.0, 3.0), state(2.0, 5.0))
    >>> shift.layers, shift.l2.tolist(), shift.cosine.tolist(), shift.relative.tolist()
    (('0', '1'), [0.0, 9.0], [1.0, 1.0], [0.0, 3.0])
    """
    if isinstance(batch, Batches):
        raise CallError(
            "batch: expected the batch of one step, got Batches; the shift is that of a step's own gradient"
        )
    part = Part(batch, conditions_now(unwrap(model)))
    return shift_of_parts(model, loss_fn, [part], before, after, layers, statistics)


def shift_of_parts(
    model: nn.Module,
    loss_fn: Any,
    parts: Sequence[Part],
    before: Mapping[str, Tensor],
    after: Mapping[str, Tensor],
    layers: Any = None,
    statistics: str | None = None,
) -> CovariateShift:
    """As :func:`covariate_shift`, for the weighted sum of the losses of micro-batches under recorded conditions."""
    objective = Objective.of_parts(model, loss_fn, parts, check_deterministic=False)
    model, ranks = objective.model, objective.ranks

    before, after = (whole(state, ranks) if isinstance(state, Mapping) else state for state in (before, after))

    def watched() -> list[Mixtures]:
        states = matched_state(model, before, "before"), matched_state(model, after, "after")
        return [Mixtures(model, objective.loss_fn, part, states, statistics, ranks) for part in parts]

    mixtures = ranks.agreed(watched)
    own = reduce(Layers.extended_by, (each.layers for each in mixtures))
    seen = reduce(Layers.extended_by, ranks.gathered(lambda: own))
    groups = groups_named(seen, layers)
    pairs = _mean_pairs(ranks, mixtures, seen, groups)
    rounding = gradient_error(objective.dtype)
    numbers = [_compared(pair, rounding) for pair in pairs]
    return CovariateShift(
        layers=tuple(label for label, _ in groups),
        **{name: np.array([getattr(number, name) for number in numbers]) for name in _ARRAYS},
        status=tuple(number.status for number in numbers),
        provenance=replace(objective.provenance(direction="update"), statistics=mixtures[0].statistics),
    )


class _Pair(NamedTuple):
    """G and G' of one group, by parameter; ``shifted`` is None where it is G by definition."""

    base: Tensors
    shifted: Tensors | None = None


class _Numbers(NamedTuple):
    l2: float
    cosine: float
    relative: float
    gradient_norm: float
    resolution: float
    status: str


_ARRAYS = ("l2", "cosine", "relative", "gradient_norm", "resolution")


def _requests(layers: Layers, groups: Groups) -> dict[int, Request]:
    """What to evaluate for each group that is used and has layers before it."""
    requests = {}
    for index, (_, group) in enumerate(groups):
        preceding = layers.preceding(group)
        if preceding and layers.begin(group) < math.inf:
            requests[index] = Request(group, preceding, tuple(layers.parameters(group)))
    return requests


def _pairs(mixtures: Mixtures, layers: Layers, groups: Groups, requests: Mapping[int, Request]) -> list[_Pair]:
    """G and G' of each group on one micro-batch."""
    mixtures.adopt(layers)
    order = sorted(requests, key=lambda index: layers.begin(requests[index].group))
    shifted = dict(zip(order, mixtures.gradients([requests[index] for index in order]), strict=True))
    return [
        _Pair({name: mixtures.gradient[name] for name in layers.parameters(group)}, shifted.get(index))
        for index, (_, group) in enumerate(groups)
    ]


def _mean_pairs(ranks: Ranks, mixtures: Sequence[Mixtures], layers: Layers, groups: Groups) -> list[_Pair]:
    """Sums over the micro-batches, means over the processes."""
    requests = _requests(layers, groups)

    def local() -> Tensors:
        parts = [_pairs(each, layers, groups, requests) for each in mixtures]
        return {
            f"{index} {which} {name}": summed([getattr(pairs[index], which)[name] for pairs in parts])
            for index, pair in enumerate(parts[0])
            for which in (("base",) if pair.shifted is None else _Pair._fields)
            for name in pair.base
        }

    means = mean_by_name(ranks, local)
    return [
        _Pair(*(_of(means, f"{index} {which} ") for which in _Pair._fields[: 1 + (index in requests)]))
        for index in range(len(groups))
    ]


def _of(means: Tensors, prefix: str) -> Tensors:
    return {name.removeprefix(prefix): mean for name, mean in means.items() if name.startswith(prefix)}


def _compared(pair: _Pair, rounding: float) -> _Numbers:
    """Norms and angle in float64, one parameter at a time."""
    change = first = second = both = 0.0
    for name, base in pair.base.items():
        g = base.double()
        moved = g if pair.shifted is None else pair.shifted[name].double()
        change += float((g - moved).square().sum())
        first += float(g.square().sum())
        second += float(moved.square().sum())
        both += float((g * moved).sum())
    l2, norm, shifted_norm = math.sqrt(change), math.sqrt(first), math.sqrt(second)
    defined = first * second > 0
    resolution = 0.0 if pair.shifted is None else rounding * (norm + shifted_norm)
    return _Numbers(
        l2=l2,
        cosine=both / math.sqrt(first * second) if defined else math.nan,
        relative=l2 / norm if norm > 0 else math.nan,
        gradient_norm=norm,
        resolution=resolution,
        status=_status(l2 + norm + shifted_norm, defined, l2 < resolution),
    )


def _status(anything: float, defined: bool, rounded_away: bool) -> str:
    if not math.isfinite(anything):
        return NON_FINITE
    if not defined:
        return UNDEFINED
    return BELOW_RESOLUTION if rounded_away else OK
