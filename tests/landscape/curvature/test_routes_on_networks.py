"""Four routes to one product on the networks of the project and on torch's other layers, in float64.

Central differences of a deep copy's gradient are the judge. Of step h they are off by h^2 times the third derivative
and by eps / h, which is 1e-8 and 1e-9 of the size here; 1e-5 leaves room for steep networks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tests.cases import cross_entropy
from tests.reference.curvature import central_difference
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from alidade import CurvatureOperator, Objective
from alidade.nn import deep_linear, norm, resnet, transformer, vgg

ROUTES = ("kept", "rebuilt", "forward_over_reverse", "difference")
ACCURACY = 1e-5
Setting = tuple[nn.Module, Callable[[nn.Module, Any], Tensor], Any]


def _images(n: int, channels: int = 1, side: int = 8) -> tuple[Tensor, Tensor]:
    return torch.randn(n, channels, side, side, dtype=torch.float64), torch.arange(n) % 4


def _smoothed(model: nn.Module) -> nn.Module:
    """Kinks replaced by smooth functions, so that every route has one and the same answer."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.ReLU):
                setattr(parent, name, nn.Softplus())
            elif isinstance(child, nn.MaxPool2d):
                setattr(parent, name, nn.AvgPool2d(child.kernel_size))
    return model.double()


def _vgg(name: str) -> Setting:
    model = _smoothed(vgg(8, width=1 / 32, norm=name, in_channels=1, classes=4))
    return model, cross_entropy, _images(6, side=32)


def _resnet(name: str) -> Setting:
    return _smoothed(resnet(8, width=0.25, norm=name, in_channels=1, classes=4)), cross_entropy, _images(6)


def _deep_linear(name: str) -> Setting:
    batch = torch.randn(7, 4).double(), torch.randn(7, 4).double()
    return deep_linear(4, 4, norm=name).double(), lambda m, b: (m(b[0]) - b[1]).square().mean(), batch


def _transformer(name: str) -> Setting:
    model = transformer(vocab=7, context=5, layers=1, heads=2, width=6, norm=name).double()
    tokens = torch.arange(15).view(3, 5) % 7
    return model, lambda m, x: F.cross_entropy(m(x)[:, :-1].flatten(0, 1), x[:, 1:].flatten()), tokens


class _Recurrent(nn.Module):
    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.core, self.head = kind(3, 5, batch_first=True), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.core(x)[0][:, -1])


class _Checkpointed(nn.Module):
    """Checkpointing runs the norm again in the backward pass, outside of the forward pass's modes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.head = nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Linear(7, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(checkpoint(lambda y: self.norm(self.first(y)).tanh(), x, use_reentrant=False))


def _layer(*layers: nn.Module) -> Setting:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), *layers, nn.Softplus(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(36, 4))
    return model.double(), cross_entropy, _images(6)


SETTINGS: dict[str, Callable[[], Setting]] = {
    **{f"vgg {name}": lambda name=name: _vgg(name) for name in ("none", "batch", "noisy", "l2", "layer")},
    **{f"resnet {name}": lambda name=name: _resnet(name) for name in ("batch", "group", "rms", "noisy")},
    **{f"deep linear {n}": lambda n=n: _deep_linear(n) for n in ("none", "batch", "noisy", "l1", "linf")},
    **{f"transformer {name}": lambda name=name: _transformer(name) for name in ("layer", "rms", "none")},
    "instance": lambda: _layer(nn.InstanceNorm2d(4, affine=True)),
    "instance, tracked": lambda: _layer(nn.InstanceNorm2d(4, affine=True, track_running_stats=True)),
    "batch without affine": lambda: _layer(nn.BatchNorm2d(4, affine=False)),
    "batch, cumulative": lambda: _layer(nn.BatchNorm2d(4, momentum=None)),
    "batch, not tracked": lambda: _layer(nn.BatchNorm2d(4, track_running_stats=False)),
    "batch of channels last": lambda: _channels_last(),
    "weight noise and norm": lambda: _layer(norm("noisy", 4), nn.Dropout(0.3)),
    "local response": lambda: _layer(nn.LocalResponseNorm(2)),
    "lstm": lambda: (_Recurrent(nn.LSTM).double(), cross_entropy, _sequences()),
    "gru": lambda: (_Recurrent(nn.GRU).double(), cross_entropy, _sequences()),
    "checkpointed": lambda: (_Checkpointed().double(), cross_entropy, _vectors()),
}  # fmt: skip


def _channels_last() -> Setting:
    model, loss_fn, (images, labels) = _layer(nn.BatchNorm2d(4))
    return model.to(memory_format=torch.channels_last), loss_fn, (images.to(memory_format=torch.channels_last), labels)


def _sequences() -> tuple[Tensor, Tensor]:
    return torch.randn(6, 4, 3, dtype=torch.float64), torch.arange(6) % 4


def _vectors() -> tuple[Tensor, Tensor]:
    return torch.randn(8, 5, dtype=torch.float64), torch.arange(8) % 4


#: Where torch.func cannot go; there the operator takes another way.
WITHOUT = {"checkpointed": ("forward_over_reverse",)}


@pytest.mark.parametrize("training", [True, False], ids=["batch", "running"])
@pytest.mark.parametrize("name", SETTINGS)
def test_four_routes_agree(name: str, training: bool) -> None:
    torch.manual_seed(3)
    model, loss_fn, batch = SETTINGS[name]()
    with torch.no_grad():
        for parameter in model.parameters():  # scales and shifts away from 1 and 0
            parameter += 0.1 * torch.randn_like(parameter)
        loss_fn(model, batch)  # a batch is tracked
    model.train(training)
    objective = Objective(model, loss_fn, batch)
    state = torch.get_rng_state()
    operators = {
        route: CurvatureOperator(objective, route=route) for route in ROUTES if route not in WITHOUT.get(name, ())
    }
    vector = torch.randn(operators["kept"].dimension, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    named = {key: value.numpy() for key, value in operators["kept"].block.named(vector).items()}
    torch.set_rng_state(state)  # the judge draws the noise that the objective saw
    judge = central_difference(model, loss_fn, batch, named, 1e-5 / np.linalg.norm(vector.numpy()))
    for route, operator in operators.items():
        error = np.linalg.norm(operator.matvec(vector).numpy() - judge) / np.linalg.norm(judge)
        assert error < ACCURACY, route
        assert (operator.route, operator.problem) == (route, None)
    exact = operators["kept"].matvec(vector)
    assert torch.allclose(operators["rebuilt"].matvec(vector), exact, rtol=0, atol=1e-11 * float(exact.norm()))
    by_objective = operators["kept"].block.flat(objective.hvp(operators["kept"].block.named(vector)))
    assert torch.allclose(by_objective, exact, rtol=0, atol=1e-10 * float(exact.norm()))
