"""The only place where names become objects."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alidade.core.spec import RunSpec
from alidade.landscape.loss import LossFunction
from alidade.nn import vgg


def build_model(spec: RunSpec, in_channels: int, classes: int) -> nn.Module:
    """The spec's network, its weights drawn from torch's global random state."""
    model = spec.model
    return vgg(model.conv_layers, model.width, model.norm, model.init, in_channels, classes)


def build_optimizer(spec: RunSpec, model: nn.Module) -> torch.optim.Optimizer:
    """The spec's optimizer: plain SGD, without momentum, at a fixed learning rate."""
    return torch.optim.SGD(model.parameters(), lr=spec.optimizer.learning_rate)


def build_loss(spec: RunSpec) -> LossFunction:
    r"""Mean cross-entropy plus :math:`(\lambda / 2) \sum \theta^2`, as ``loss_fn(model, (images, labels))``."""

    def loss_fn(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        images, labels = batch
        loss = F.cross_entropy(model(images), labels)
        return loss + l2_penalty(model, spec.l2) if spec.l2 else loss

    return loss_fn


def l2_penalty(model: nn.Module, factor: float) -> Tensor:
    """Half the factor times the sum of all squared trainable parameters."""
    squares = [p.square().sum() for p in model.parameters() if p.requires_grad]
    return 0.5 * factor * torch.stack(squares).sum()
