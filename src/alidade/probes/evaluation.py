"""Loss and accuracy on held-out data."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alidade.landscape.isolation import call_at, isolated, unwrap


@dataclass(frozen=True)
class Evaluation:
    """Mean cross-entropy in nats and fraction of right answers."""

    loss: float
    accuracy: float
    examples: int


def evaluate(model: nn.Module, images_NCHW: Tensor, labels_N: Tensor, chunk: int = 500) -> Evaluation:
    """Mean loss and accuracy in eval mode; the model is left as it was.

    Cost: one forward pass over the data, ``chunk`` images at a time.

    >>> model = nn.Sequential(nn.Flatten(), nn.Identity())  # the image is its own logits
    >>> evaluate(model, torch.eye(3).reshape(3, 1, 1, 3), torch.tensor([0, 1, 1])).accuracy
    0.6666666666666666
    """

    def work(model: nn.Module) -> Evaluation:
        loss, right = 0.0, 0
        model.eval()
        for images, labels in zip(images_NCHW.split(chunk), labels_N.split(chunk), strict=True):
            logits = model(images)
            loss += float(F.cross_entropy(logits, labels, reduction="sum"))
            right += int((logits.argmax(1) == labels).sum())
        return Evaluation(loss / len(labels_N), right / len(labels_N), len(labels_N))

    model = unwrap(model)
    with isolated(model), torch.no_grad():
        copies = {  # a forward pass may write to its parameters: an embedding with max_norm does
            name: nn.Parameter(p.detach().clone(), p.requires_grad) for name, p in model.named_parameters()
        }
        return call_at(model, copies, work)
