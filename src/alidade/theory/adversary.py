"""Networks driven towards a violation: gradient ascent on how far a statement is from holding."""

import dataclasses

import torch
from torch import Tensor

from alidade.theory.evidence import Evidence
from alidade.theory.networks import Networks
from alidade.theory.observation import Observation, Probes

STEPS, RATE = 12, 0.1
MOVED = ("beta", "V", "U")  # the tail; gamma and sigma stay, because some hypotheses are about them


def drive(networks: Networks, probes: Probes, evidence: Evidence) -> Networks:
    """Climb the violation of a statement by normalized gradient steps in the tail of each network.

    The violation is minus the relative slack of a bound, the relative error of an identity. Each step changes each
    tensor by RATE times its own root mean square. Where the statement does not cover the result, the network
    stays as it came.

    Args:
        networks: Where to start.
        probes: The random numbers that the statement uses, held fixed.
        evidence: The statement.

    Returns:
        Networks of the same number and batch size.
    """
    driven = networks
    for _ in range(STEPS):
        leaves = {name: getattr(driven, name).detach().requires_grad_() for name in MOVED}
        bound = evidence(Observation(dataclasses.replace(driven, **leaves), probes, differentiable=True))
        distance = bound.relative_slack.abs() if bound.kind == "identity" else -bound.relative_slack
        steps = torch.autograd.grad(distance.sum(), list(leaves.values()), materialize_grads=True)
        moved = zip(leaves, (leaf.detach() for leaf in leaves.values()), steps, strict=True)
        driven = dataclasses.replace(driven, **{name: leaf + _step(leaf, step) for name, leaf, step in moved})
    covered = evidence(Observation(driven, probes)).ok
    kept = {
        name: torch.where(covered.reshape(-1, *[1] * (getattr(driven, name).ndim - 1)), getattr(driven, name), before)
        for name in MOVED
        for before in [getattr(networks, name)]
    }
    return dataclasses.replace(driven, **kept)


def _step(tensor: Tensor, gradient: Tensor) -> Tensor:
    gradient = gradient.nan_to_num(0.0, 0.0, 0.0)
    return RATE * gradient * _root_mean_square(tensor) / _root_mean_square(gradient).clamp(min=1e-300)


def _root_mean_square(tensor: Tensor) -> Tensor:
    """Per network, shaped to multiply the tensor. Large entries are scaled out before the square."""
    dims = tuple(range(1, tensor.ndim))
    largest = tensor.abs().amax(dim=dims, keepdim=True).clamp(min=1e-300)
    return largest * (tensor / largest).square().mean(dim=dims, keepdim=True).sqrt()
