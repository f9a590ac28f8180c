"""Theorem 4.1 along real training: by how much each BatchNorm layer lowers its gradient, and by which term."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from alidade.core.errors import CallError, RefusedError, brief
from alidade.core.records import NON_FINITE, OK, UNDEFINED, Provenance, Row
from alidade.landscape.objective import Objective
from alidade.theory.layers import BATCH_NORMS, LipschitzTerms, layer_theorem_4_1_terms


@dataclass(frozen=True)
class LipschitzReduction:
    r"""Theorem 4.1 for some layers: after = factor (before - mean - alignment), per unit and summed.

    ``terms`` has one entry per layer with arrays per unit; ``units_left_out`` counts units to which the theorem
    does not apply (constant input, gain 0, one sample).
    """

    layers: tuple[str, ...]
    terms: tuple[LipschitzTerms, ...]
    provenance: Provenance

    def rows(self, step: int) -> Iterator[Row]:
        r"""Per layer: sums over units of the squared norms, and how much of the reduction is which term's.

        ``theorem_4_1_ratio`` is :math:`\|\partial\hat L/\partial y\|^2 / \|\partial L/\partial z\|^2`. It splits into
        ``theorem_4_1_factor``, the mean of gamma^2 / sigma^2 weighted by what it multiplies, times 1 minus
        ``theorem_4_1_mean`` minus ``theorem_4_1_alignment``, shares of the squared norm before.
        """
        for layer, terms in zip(self.layers, self.terms, strict=True):
            for name, (value, unit) in _summed(terms).items():
                status = UNDEFINED if not bool(terms.ok.any()) else OK if _finite(value) else NON_FINITE
                yield Row(
                    step, f"theorem_4_1_{name}", value, unit, layer=layer,
                    statistics=self.provenance.statistics, dtype="float64", status=status,
                )  # fmt: skip


def lipschitz_reduction(objective: Objective, layers: Sequence[str] | None = None) -> LipschitzReduction:
    r"""By how much BatchNorm layers lower the gradient on the batch of an objective (Santurkar et al. 2018, Thm 4.1).

    For each unit of a layer with input y, normalized :math:`\hat y`, output :math:`z = \gamma \hat y + \beta` and
    :math:`g = \partial L / \partial z` over the m samples (positions of a convolution count):

    .. math:: \|\partial\hat L/\partial y\|^2 = \frac{\gamma^2}{\sigma^2}
              \Big(\|g\|^2 - \frac1m \langle 1, g\rangle^2 - \frac1m \langle g, \hat y\rangle^2\Big),

    in the corrected form with the layer's own eps (:func:`alidade.theory.theorem_4_1_terms`).

    Args:
        objective: any model with BatchNorm layers that use batch statistics; a single batch.
        layers: names; None is every BatchNorm layer that the forward pass calls with batch statistics.

    Raises:
        CallError: no such layer, an unknown name, a layer that is not a BatchNorm or runs on running statistics, or
            one that sees fewer than two samples per unit.
        RefusedError: no such layer has a gradient, as inside of reentrant checkpointing.

    Cost: one forward pass and one backward pass down to the first such layer.

    >>> torch.manual_seed(0).initial_seed()
    0
    >>> model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 1)).double()
    >>> x = torch.randn(16, 3, dtype=torch.float64)
    >>> reduction = lipschitz_reduction(Objective(model, lambda model, x: model(x).square().mean(), x))
    >>> values = {row.quantity: row.value for row in reduction.rows(0)}
    >>> factor, mean, alignment = (values[f"theorem_4_1_{n}"] for n in ("factor", "mean", "alignment"))
    >>> abs(values["theorem_4_1_ratio"] - factor * (1 - mean - alignment)) < 1e-12
    True
    """
    watched = _watched(objective, layers)
    seen = objective.differentiate(lambda model, loss: _terms(model, watched, loss))
    return LipschitzReduction(tuple(seen), tuple(seen.values()), objective.provenance())


def _watched(objective: Objective, layers: Sequence[str] | None) -> tuple[str, ...]:
    norms = {name: m for name, m in objective.model.named_modules() if isinstance(m, BATCH_NORMS)}
    if layers is None:
        found = tuple(name for name, module in norms.items() if module.training or module.running_mean is None)
        if not found:
            raise CallError("layers: expected a BatchNorm layer with batch statistics, got a model without one")
        return found
    if isinstance(layers, str) or not layers:
        raise CallError(f"layers: expected None or a non-empty list of names, got {brief(layers)}")
    if unknown := [name for name in layers if name not in norms]:
        raise CallError(
            f"layers: expected BatchNorm layers ({', '.join(norms) or 'there are none'}), got {unknown[0]!r}"
        )
    return tuple(layers)


def _terms(model: nn.Module, watched: tuple[str, ...], loss: Any) -> dict[str, LipschitzTerms]:
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}

    def look(name: str, y: Tensor, z: Tensor) -> Tensor:
        inputs[name], outputs[name] = y.detach(), z
        return z.clone()  # what an in-place ReLU changes is the clone

    modules = dict(model.named_modules())
    with ExitStack() as stack:
        for name in watched:
            check = modules[name].register_forward_pre_hook(lambda module, args, name=name: _check(name, args[0]))
            stack.callback(check.remove)
            hook = modules[name].register_forward_hook(lambda module, args, z, name=name: look(name, args[0], z))
            stack.callback(hook.remove)
        value = loss(model)
    called = [name for name in watched if name in outputs and outputs[name].requires_grad]
    if not called:
        raise RefusedError(
            f"layers: expected BatchNorm layers that the loss depends on, got {', '.join(map(repr, watched[:5]))}, "
            "called without gradients; reentrant checkpointing hides them: use_reentrant=False"
        )
    gradients = torch.autograd.grad(value, [outputs[name] for name in called], allow_unused=True)
    return {
        name: layer_theorem_4_1_terms(modules[name], inputs[name], torch.zeros_like(outputs[name]) if g is None else g)
        for name, g in zip(called, gradients, strict=True)
    }


def _check(name: str, y: Tensor) -> None:
    samples = y.numel() // max(1, y.shape[1])
    if samples < 2:
        raise CallError(f"batch: expected at least 2 samples per unit of layer {name!r}, got {samples}")


def _summed(terms: LipschitzTerms) -> dict[str, tuple[float, str]]:
    before, after, mean, alignment = (float(t.sum()) for t in (terms.before, terms.after, terms.mean, terms.alignment))
    left = before - mean - alignment
    return {
        "before": (before, "nat^2"),
        "after": (after, "nat^2"),
        "ratio": (_quotient(after, before), "1"),
        "factor": (_quotient(after, left), "1"),
        "mean": (_quotient(mean, before), "1"),
        "alignment": (_quotient(alignment, before), "1"),
        "units_left_out": (float((~terms.ok).sum()), "1"),
    }


def _quotient(over: float, under: float) -> float:
    return over / under if under > 0 else float("nan")


def _finite(value: float) -> bool:
    return abs(value) < float("inf")
