"""The distribution of every layer's outputs: the paper's Figures 1c, 2, 6, 8 and 9."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from alidade.core.activations import ActivationStatistics, LayerActivations
from alidade.core.errors import CallError, brief
from alidade.core.records import Floats
from alidade.core.sketch import Histogram, Moments
from alidade.landscape.batches import leaves_of
from alidade.landscape.isolation import public_name
from alidade.landscape.layers import ROOT, home
from alidade.landscape.loss import LossFunction
from alidade.landscape.objective import Objective

#: Numbers converted to float64 at a time, so that measuring a large layer needs megabytes, not gigabytes.
SLAB = 1 << 18

_UNITS_LAST = (nn.Linear, nn.Bilinear, nn.Embedding, nn.EmbeddingBag, nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention)


def activation_statistics(
    model: nn.Module,
    loss_fn: LossFunction | tuple[Any, Any],
    batch: Any,
    layers: Sequence[str] | None = None,
    statistics: str | None = None,
) -> ActivationStatistics:
    r"""Moments of every unit, and a histogram and quantiles of every layer, of one batch's activations.

    For unit :math:`j` over its n samples (examples, and positions or time steps too):
    :math:`\mu_j = \frac1n \sum_i a_{ij}`, :math:`\sigma_j^2 = \frac1n \sum_i (a_{ij} - \mu_j)^2` (biased), skewness
    and kurtosis :math:`\frac1n \sum_i ((a_{ij} - \mu_j) / \sigma_j)^k` for k = 3, 4, minimum and maximum. The
    activations are not kept: moments are merged slab by slab, and the histogram has bins of constant relative width,
    so a quantile has a relative error of at most 2^-8 and the size of the result does not depend on the batch
    (:mod:`alidade.core.sketch`). Results of several batches merge, results of two steps compare (``change``).

    Which axis of an output counts units follows from the kind of layer: the last one for linear, embedding,
    recurrent and attention layers; the channels for convolutions, batched or not; the first normalized axis for
    ``nn.LayerNorm`` and ``nn.RMSNorm``. For any other module it is axis 1, or the last, whichever is as long as one of
    the module's own parameters (vectors are looked at before matrices), and axis 1 if none is. ``unit_axis`` of the
    result says what was chosen.

    Args:
        model: any module; wrappers of data parallelism and compilation are looked through.
        loss_fn: ``loss_fn(model, batch)`` runs the forward pass; its value is not used here.
        batch: whatever ``loss_fn`` takes.
        layers: names of modules as in ``model.named_modules()`` ("(model)" is the model itself), measured in this
            order. None: every module that owns
            parameters, trainable or not, and is called, in order of first use, and among nested ones the innermost.
            The paper looks behind the norm and before the ReLU: name the normalization layers, or the convolutions
            where there is no norm.
        statistics: None leaves each normalization layer in its own mode; "batch" or "running" switches them.

    Returns:
        One :class:`LayerActivations` per layer, float64, units of the layer's output. If an output is a tuple, a
        mapping or a dataclass, its first floating-point tensor that is no single number is measured. The calls of a
        layer that is called several times are pooled. NaN and infinities are counted; the moments of a unit that had
        one are NaN.

    Raises:
        CallError: an unknown layer, one that was not called or gave no dense floating-point tensor, an unknown
            ``statistics``, running statistics that no batch has moved, a model without trainable parameters.

    Cost: one forward pass and 10 to 30 ns per activation on one CPU core; memory one slab of 2^18 numbers beside the
    forward pass without gradients. Activations on another device are copied to the CPU.

    Source: Santurkar et al. 2018, Fig. 1c, 2, 6, 8, 9; merging: Chan, Golub & LeVeque 1979, Pébay 2008.

    >>> model = nn.Sequential(nn.Linear(1, 2), nn.ReLU())
    >>> _ = model[0].weight.data.copy_(torch.tensor([[1.0], [2.0]])), model[0].bias.data.zero_()
    >>> batch = torch.tensor([[-1.0], [0.0], [1.0], [4.0]])
    >>> found = activation_statistics(model, lambda model, x: model(x).sum(), batch)
    >>> found["0"].units.mean, found["0"].units.variance
    (array([1., 2.]), array([ 3.5, 14. ]))
    >>> found["0"].quantiles((0.25, 0.5, 1.0)).round(2), found["0"].histogram.maximum
    (array([-1.,  0.,  8.]), 8.0)
    """
    return activations_of(Objective(model, loss_fn, batch, statistics, check_deterministic=False), layers)


def activations_of(objective: Objective, layers: Sequence[str] | None = None) -> ActivationStatistics:
    """The same under an objective's conditions: random numbers, autocast, statistics; micro-batches, processes merged.

    Cost: one forward pass. Arguments, results and errors are those of :func:`activation_statistics`.
    """
    watched = _modules_named(objective.model, layers)

    def local() -> ActivationStatistics:
        found = objective.inspect(lambda model, batch: _observe(objective, model, batch, watched, layers is not None))
        provenance = objective.provenance()
        return reduce(ActivationStatistics.merge, (ActivationStatistics(layers, provenance) for layers in found))

    return reduce(ActivationStatistics.merge, objective.ranks.gathered(local))


def _observe(
    objective: Objective, model: nn.Module, batch: Any, watched: Mapping[str, nn.Module], named: bool
) -> dict[str, LayerActivations]:
    """One forward pass with a hook on every watched module."""
    found: dict[str, LayerActivations] = {}

    def look(name: str, module: nn.Module, output: Any) -> None:
        tensor = _first_floating(output)
        if tensor is None and named:
            raise CallError(f"layers: expected a dense floating-point output of {name!r}, got {type(output).__name__}")
        if tensor is not None:
            seen = _measure(tensor.detach(), _unit_axis(module, tensor))
            found[name] = found[name].merge(seen) if name in found else seen

    with ExitStack() as stack:
        for name, module in watched.items():
            hook = module.register_forward_hook(lambda module, inputs, output, name=name: look(name, module, output))
            stack.callback(hook.remove)
        objective.loss_fn(model, batch)
    silent = [name for name in watched if name not in found]
    if silent and (named or not found):
        raise CallError(f"layers: expected layers that the forward pass calls, got {', '.join(map(repr, silent[:5]))}")
    return {name: found[name] for name in watched} if named else _innermost(found, watched)


def _innermost(found: Mapping[str, LayerActivations], watched: Mapping[str, nn.Module]) -> dict[str, LayerActivations]:
    """Without the modules that contain another one that was called: a network's own token is no layer."""
    called = {watched[name] for name in found}
    return {name: layer for name, layer in found.items() if called.isdisjoint(list(watched[name].modules())[1:])}


def _modules_named(model: nn.Module, layers: Sequence[str] | None) -> dict[str, nn.Module]:
    modules = {public_name(name) or ROOT: module for name, module in model.named_modules(remove_duplicate=False)}
    owners = _owners(model, modules)
    if layers is None:
        return owners
    if isinstance(layers, str) or not isinstance(layers, Sequence) or not layers or not all(map(_is_text, layers)):
        raise CallError(f"layers: expected None or a non-empty list of names of modules, got {brief(layers)}")
    wanted = [public_name(name) or ROOT for name in layers]
    unknown = [name for name in wanted if name not in modules]
    if unknown:
        raise CallError(
            f"layers: expected names of modules, got {unknown[0]!r}; those with parameters are {', '.join(owners)}"
        )
    return {name: modules[name] for name in wanted}


def _is_text(name: Any) -> bool:
    return isinstance(name, str)


def _owners(model: nn.Module, modules: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """Modules with parameters of their own; one that has two names goes by the first."""
    owned = dict.fromkeys(home(name) for name, _ in model.named_parameters(remove_duplicate=False))
    names: dict[nn.Module, str] = {}
    for name in owned:
        names.setdefault(modules[name], name)
    return {name: module for module, name in names.items()}


def _first_floating(output: Any) -> Tensor | None:
    """The first dense floating-point tensor in an output of any nesting; a number, such as a loss, only if alone."""
    found = [tensor for tensor in leaves_of(output) if isinstance(tensor, Tensor) and _is_dense(tensor)]
    return next((tensor for tensor in found if tensor.ndim), found[0] if found else None)


def _is_dense(tensor: Tensor) -> bool:
    return tensor.layout == torch.strided and not tensor.is_nested and tensor.is_floating_point()


def _unit_axis(module: nn.Module, output: Tensor) -> int:
    """The axis of an output that counts units (see :func:`activation_statistics`)."""
    dims, last = output.ndim, max(output.ndim - 1, 0)
    if isinstance(module, _UNITS_LAST) or not dims:
        return last
    if isinstance(module, nn.LayerNorm | nn.RMSNorm):
        return dims - len(module.normalized_shape)
    if isinstance(module, nn.modules.conv._ConvNd):
        return dims - 1 - len(module.kernel_size)
    shapes = [tuple(p.shape) for p in module.parameters(recurse=False)]
    vectors = {shape[0] for shape in shapes if len(shape) == 1}
    for lengths in (vectors, {length for shape in shapes for length in shape}):
        for axis in (1, last):
            if axis <= last and output.shape[axis] in lengths:
                return axis
    return min(1, last)


def _measure(output: Tensor, axis: int) -> LayerActivations:
    pieces = [(Moments.of(slab), Histogram.of(slab)) for slab in _slabs(output, axis)]
    moments = reduce(Moments.merge, (piece[0] for piece in pieces))
    histogram = reduce(Histogram.merge, (piece[1] for piece in pieces))
    return LayerActivations(moments, histogram, axis)


def _slabs(output: Tensor, axis: int) -> Iterator[Floats]:
    """The output as float64 arrays (units, samples) of at most about ``SLAB`` numbers."""
    shape = output.shape if output.ndim else torch.Size([1])
    outer, units, inner = shape[:axis].numel(), shape[axis], shape[axis + 1 :].numel()
    view = output.reshape(outer, units, inner)
    rows = max(1, SLAB // max(1, units * inner))
    columns = inner if rows > 1 or units * inner <= SLAB else max(1, SLAB // units)
    for row in range(0, max(outer, 1), rows):
        for column in range(0, max(inner, 1), max(columns, 1)):
            piece = view[row : row + rows, :, column : column + columns].cpu().double().numpy()
            yield np.ascontiguousarray(piece.transpose(1, 0, 2)).reshape(units, -1)
