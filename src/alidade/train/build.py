"""The only place where names become objects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alidade.core.errors import CallError
from alidade.core.spec import DeepLinearSpec, RunSpec
from alidade.data import Batches, Dataset
from alidade.data.gaussian import gaussian_regression
from alidade.nn import deep_linear, vgg

Batch = tuple[Tensor, Tensor]

_DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True)
class Task:
    """What a run trains and on what: the network, the batch of every step, the loss and what else is recorded."""

    model: nn.Module
    batches: Callable[[int], Batch]
    criterion: Callable[[Tensor, Tensor], Tensor]
    kind: Literal["classification", "regression"]
    test: Batch | None
    full_batch: bool
    l2: float

    def loss_fn(self, model: nn.Module, batch: Batch) -> Tensor:
        r"""The criterion plus :math:`(\lambda / 2) \sum \theta^2`: what is descended and probed."""
        inputs, targets = batch
        return self.with_penalty(model, self.criterion(model(inputs), targets))

    def with_penalty(self, model: nn.Module, loss: Tensor) -> Tensor:
        """The loss, and the penalty where there is one."""
        return loss + l2_penalty(model, self.l2) if self.l2 else loss


def build_task(spec: RunSpec, data: Dataset | None, device: str) -> Task:
    """The spec's network, its weights drawn from torch's global random state, and its data.

    Raises:
        CallError: the spec is of a network for images, and ``data`` is None.
    """
    if isinstance(spec.model, DeepLinearSpec):
        return _regression(spec, spec.model, device)
    if data is None:
        raise CallError(f"data: expected the images of {spec.data.name!r}, got None")
    model, dtype = spec.model, _DTYPES[spec.dtype]
    data = replace(data, train_images=data.train_images.to(dtype), test_images=data.test_images.to(dtype))
    network = vgg(model.conv_layers, model.width, model.norm, model.init, data.train_images.shape[1], len(data.classes))
    return Task(
        model=network.to(device, dtype),
        batches=Batches(data, spec.batch_size, spec.seed, device, spec.data.augment),
        criterion=F.cross_entropy,
        kind="classification",
        test=(data.test_images.to(device), data.test_labels.to(device)),
        full_batch=spec.batch_size == len(data.train_labels),
        l2=spec.l2,
    )


def _regression(spec: RunSpec, model: DeepLinearSpec, device: str) -> Task:
    """The whole data set is the batch of every step, and the loss a sum over it, as the paper's plots imply."""
    dtype = _DTYPES[spec.dtype]
    drawn = gaussian_regression(spec.seed, spec.batch_size, model.width)
    batch = (drawn.inputs.to(device, dtype), drawn.targets.to(device, dtype))
    network = deep_linear(model.layers, model.width, model.norm, model.init)
    return Task(network.to(device, dtype), lambda step: batch, _squared_error, "regression", None, True, spec.l2)


def _squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).square().sum()


def build_optimizer(spec: RunSpec, model: nn.Module) -> torch.optim.Optimizer:
    """The spec's optimizer: plain SGD, without momentum, at a fixed learning rate."""
    return torch.optim.SGD(model.parameters(), lr=spec.optimizer.learning_rate)


def l2_penalty(model: nn.Module, factor: float) -> Tensor:
    """Half the factor times the sum of all squared trainable parameters."""
    squares = [p.square().sum() for p in model.parameters() if p.requires_grad]
    return 0.5 * factor * torch.stack(squares).sum()


def accuracy(outputs: Any, targets: Tensor) -> float:
    """Share of right answers."""
    return float((outputs.argmax(1) == targets).double().mean())
