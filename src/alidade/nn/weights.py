"""Weights at the start of training."""

from __future__ import annotations

import torch
from torch import nn

from alidade.core.errors import CallError


def initialize(network: nn.Module, init: str) -> None:
    """Draw the weights of convolutions and linear layers anew; biases become 0.

    "he": variance 2 / fan_in before a ReLU, 1 / fan_in in the linear head. "glorot": 2 / (fan_in + fan_out).
    """
    if init not in ("he", "glorot"):
        raise CallError(f"init: expected 'he' or 'glorot', got {init!r}")
    for module in network.modules():
        if not isinstance(module, nn.Conv2d | nn.Linear):
            continue
        if init == "glorot":
            nn.init.xavier_uniform_(module.weight)
        else:
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu" if isinstance(module, nn.Conv2d) else "linear")
        if module.bias is not None:
            with torch.no_grad():
                module.bias.zero_()
