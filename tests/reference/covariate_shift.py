"""Naive twin of covariate_shift: for each layer a copy of the model, loaded with the mixed state, and a full pass."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from tests.reference.line_profile import flat


def gradient_at(model: Any, loss_fn: Any, batch: Any, state: dict[str, torch.Tensor], keys: list[str]) -> np.ndarray:
    """Gradient with respect to the parameters named by ``keys``, by .backward(), with the current random state."""
    random = torch.get_rng_state()
    twin = copy.deepcopy(model)
    twin.load_state_dict(state)
    twin.zero_grad(set_to_none=True)
    loss_fn(twin, batch).backward()
    torch.set_rng_state(random)
    named = dict(twin.named_parameters(remove_duplicate=False))
    return flat(
        {
            key: np.zeros(named[key].shape) if named[key].grad is None else named[key].grad.double().numpy()
            for key in keys
            if key in named and named[key].requires_grad
        }
    )


def shifts(
    model: Any,
    loss_fn: Any,
    batch: Any,
    before: dict[str, torch.Tensor],
    after: dict[str, torch.Tensor],
    layers: dict[str, list[str]],
) -> dict[str, np.ndarray]:
    """Definition 2.1 for layers in their order; each is given by its keys of the state dictionaries.

    The first key of each name of a tied parameter counts for the gradient; list the other names after it.
    """
    rows, updated = [], dict(before)
    for keys in layers.values():
        own = list({before[key].data_ptr(): key for key in reversed(keys)}.values())
        G = gradient_at(model, loss_fn, batch, before, own)
        moved = gradient_at(model, loss_fn, batch, updated, own)
        norms = np.linalg.norm(G), np.linalg.norm(moved)
        l2 = np.linalg.norm(G - moved)
        rows.append((l2, G @ moved / (norms[0] * norms[1]), l2 / norms[0], norms[0]))
        updated |= {key: after[key] for key in keys}
    names = ("l2", "cosine", "relative", "gradient_norm")
    return dict(zip(names, np.array(rows).T, strict=True))


def states(model: Any, loss_fn: Any, batch: Any, lr: float) -> tuple[dict[str, Any], dict[str, Any]]:
    """State dictionaries before and after one step of plain SGD, detached from the model."""
    twin = copy.deepcopy(model)
    before = {key: value.clone() for key, value in twin.state_dict().items()}
    loss_fn(twin, batch).backward()
    torch.optim.SGD([p for p in twin.parameters() if p.requires_grad], lr).step()
    after = {key: value.clone() for key, value in twin.state_dict().items()}
    return _tied_again(model, before), _tied_again(model, after)


def _tied_again(model: Any, state: dict[str, Any]) -> dict[str, Any]:
    """Names of one tensor in the model name one tensor in the state, as in a live state dictionary."""
    first: dict[int, str] = {}
    for key, value in model.state_dict().items():
        state[key] = state[first.setdefault(value.data_ptr(), key)]
    return state
