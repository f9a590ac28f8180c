"""Models, losses and batches that every probe must cope with: cases as data."""

from __future__ import annotations

import random
from collections import OrderedDict, UserDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from alidade.nn import LpNorm, deep_linear, resnet, transformer, vgg


@dataclass(frozen=True)
class Case:
    name: str
    build: Callable[[], tuple[nn.Module, Callable[[nn.Module, Any], Tensor], Any]]


def cross_entropy(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def _labels(n: int, classes: int = 4) -> Tensor:
    return torch.arange(n) % classes


def _smooth() -> Any:
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 4)).double()
    return model, cross_entropy, (torch.randn(8, 5, dtype=torch.float64), _labels(8))


def _batch_norm() -> Any:
    model = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Tanh(), nn.Linear(7, 4)).double()
    model.train()
    return model, cross_entropy, (torch.randn(8, 5, dtype=torch.float64), _labels(8))


def _mixed_modes() -> Any:
    model, loss, batch = _batch_norm()
    model.append(nn.BatchNorm1d(4).double().eval())
    return model, loss, batch


def _dropout() -> Any:
    model = nn.Sequential(nn.Linear(5, 16), nn.Dropout(0.5), nn.ReLU(), nn.Linear(16, 4))
    return model, cross_entropy, (torch.randn(8, 5), _labels(8))


def _noisy_vgg() -> Any:
    model = vgg(8, width=1 / 16, norm="noisy", in_channels=1)
    return model, cross_entropy, (torch.randn(8, 1, 32, 32), _labels(8))


class _Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(6, 5)
        self.out = nn.Linear(5, 6, bias=False)
        self.out.weight = self.embed.weight
        self.unused = nn.Linear(2, 2)
        self.frozen = nn.Linear(5, 5).requires_grad_(False)

    def forward(self, tokens: Tensor) -> Tensor:
        self.last = self.frozen(self.embed(tokens))  # a cache on the module, as many models keep
        return self.out(self.last)


def _tied() -> Any:
    def loss(model: nn.Module, batch: dict[str, list[Tensor]]) -> Tensor:
        return F.cross_entropy(model(batch["tokens"][0]), batch["tokens"][0])

    return _Tied(), loss, {"tokens": [torch.arange(6)]}


class _Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 7), nn.Linear(7, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(checkpoint(lambda y: self.first(y).tanh(), x, use_reentrant=False))


def _checkpointed() -> Any:
    return _Checkpointed(), cross_entropy, (torch.randn(8, 5), _labels(8))


class _Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(3, 6, batch_first=True), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


class _Reentrant(_Checkpointed):
    def forward(self, x: Tensor) -> Tensor:
        x = x.clone().requires_grad_()  # reentrant checkpointing wants an input that asks for gradients
        return self.second(checkpoint(lambda y: self.first(y).tanh(), x, use_reentrant=True))


def _reentrant() -> Any:
    return _Reentrant(), cross_entropy, (torch.randn(8, 5), _labels(8))


def _bounded_embedding() -> Any:
    model = nn.Sequential(nn.Embedding(6, 5, max_norm=1.0), nn.Flatten(), nn.Linear(10, 4))
    return model, cross_entropy, (torch.arange(12).view(6, 2) % 6, _labels(6))


class _Sliced(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterList([nn.Parameter(torch.randn(5, 5)), nn.Parameter(torch.randn(5, 4))])

    def forward(self, x: Tensor) -> Tensor:
        for weight in self.weights[:1]:  # slicing makes a new list, which takes Parameters as they are
            x = (x @ weight).tanh()
        return x @ self.weights[1]


def _sliced() -> Any:
    return _Sliced(), cross_entropy, (torch.randn(8, 5), _labels(8))


class _Growing(nn.Module):
    """Registers a buffer in its first forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        if "average" not in self._buffers:
            self.register_buffer("average", torch.zeros(4))
        self.average.mul_(0.9).add_(y.mean(0).detach(), alpha=0.1)
        return y


def _growing() -> Any:
    return _Growing(), cross_entropy, (torch.randn(8, 5), _labels(8))


class _Remembering(nn.Module):
    """Changes whatever a plain attribute can hold, in place, and computes with what it finds there."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 4)
        self.calls: list[int] = []
        self.cache: dict[str, Any] = {"keys": [torch.zeros(3)], "count": torch.zeros(())}
        self.recent: deque[int] = deque([7], maxlen=2)
        self.names = {"a"}
        self.seen, self.hidden, self.table = torch.zeros(()), torch.zeros(2), np.zeros(2)

    def forward(self, x: Tensor) -> Tensor:
        self.calls.append(len(self.calls))
        self.cache["keys"].append(x)
        self.cache["keys"][0].add_(1)
        self.cache["count"] += 1
        self.cache["new"] = 1
        self.recent.append(1)
        self.names.add("b")
        self.seen += 1
        self.hidden.data.mul_(0.5).add_(1)
        self.table[0] += 1
        self.register_buffer(f"late{len(self.calls)}", torch.zeros(1), persistent=False)
        scale = self.seen + self.hidden.sum() + float(self.table.sum()) + len(self.calls) + self.cache["count"]
        return self.linear(x) / scale


def _remembering() -> Any:
    return _Remembering(), cross_entropy, (torch.randn(8, 5), _labels(8))


class _HookedBackward(nn.Module):
    """Backward hooks that rewrite what passes through them: they are no part of the objective."""

    def __init__(self) -> None:
        super().__init__()
        self.fired: list[int] = []
        self.first, self.second = nn.Linear(5, 7), nn.Linear(7, 4)
        self.first.register_full_backward_hook(lambda m, gi, go: self.fired.append(1) or (3 * gi[0],))
        self.second.register_full_backward_pre_hook(lambda m, go: self.fired.append(2) or (2 * go[0],))
        self.register_forward_hook(lambda m, inputs, output: 2 * output)  # this one is part of the model

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).tanh())


def _hooked_backward() -> Any:
    return _HookedBackward(), cross_entropy, (torch.randn(8, 5, requires_grad=True), _labels(8))


class _Meter:
    """What a class of the user's own keeps, one attribute in a slot, is not seen by PyTorch."""

    __slots__ = ("__dict__", "total")

    def __init__(self) -> None:
        self.total, self.history = torch.zeros(()), [0.0]


@dataclass
class _Seen:
    count: int
    mean: Tensor


class _Holding(nn.Module):
    """Changes what its attributes only refer to: objects, the inside of a tuple, a norm that is not registered."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 4)
        self.meter, self.seen, self.loose = _Meter(), _Seen(0, torch.zeros(4)), SimpleNamespace(calls=0)
        self.pair = ([0], torch.zeros(()))
        self.hidden = [nn.BatchNorm1d(4, affine=False, momentum=None)]
        self.draws = {"numpy": np.random.RandomState(3), "python": random.Random(3)}

    def forward(self, x: Tensor) -> Tensor:
        self.meter.total += 1
        self.meter.history.append(1.0)
        self.meter.latest = 2.0
        self.seen.count, self.seen.mean = self.seen.count + 1, self.seen.mean + x.mean()
        self.loose.calls += 1
        self.pair[0].append(1)
        self.pair[1].add_(1)
        counted = self.meter.total + len(self.meter.history) + self.seen.count + self.loose.calls + len(self.pair[0])
        noise = self.draws["numpy"].rand() + self.draws["python"].random()
        self.hidden[0].train()
        y = self.hidden[0](self.linear(x))
        return (y + self.seen.mean.sum() + self.hidden[0].running_mean) / (counted + self.pair[1] + noise)


def _holding() -> Any:
    return _Holding(), cross_entropy, (torch.randn(8, 5), _labels(8))


def _gradient_penalty() -> Any:
    """A loss that contains gradients with respect to its inputs cannot be evaluated without a graph."""

    def loss_fn(model: nn.Module, x: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        output = model(x)
        (gradient,) = torch.autograd.grad(output.sum(), x, create_graph=True)
        return output.mean() + (gradient.norm(dim=1) - 1).square().mean()

    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 1)).double(), loss_fn, torch.randn(6, 5).double()


class _LanguageModel(nn.Module):
    """As from a model hub: tokens in by keyword, an output that is a mapping and carries the loss, tied weights."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Embedding(11, 8), nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, dropout=0.1, batch_first=True)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, input_ids: Tensor, labels: Tensor | None = None) -> OrderedDict[str, Tensor]:
        x = self.embed(input_ids)
        logits = self.head(self.norm(x + self.attention(x, x, x, need_weights=False)[0]))
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return OrderedDict(loss=loss, logits=logits)


def _language_model() -> Any:
    tokens = torch.randint(0, 11, (3, 6))
    batch = UserDict({"input_ids": tokens, "labels": tokens})
    return _LanguageModel(), lambda model, batch: model(**batch)["loss"], batch


def _many_norms() -> Any:
    norms = [
        nn.GroupNorm(2, 4),
        nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
        nn.BatchNorm2d(4, momentum=None),
    ]
    body = [module for norm in norms for module in (nn.Conv2d(4, 4, 1), norm)]
    head = [nn.Flatten(), nn.LayerNorm(64), nn.RMSNorm(64), nn.SyncBatchNorm(64).eval(), nn.Linear(64, 4)]
    return (
        nn.Sequential(nn.Conv2d(1, 4, 3), *body, nn.Tanh(), *head),
        cross_entropy,
        (torch.randn(8, 1, 6, 6), _labels(8)),
    )


def _spectral_norm() -> Any:
    """Power iteration moves buffers at every forward pass in train mode."""
    normed = nn.utils.parametrizations.spectral_norm(nn.Linear(5, 7))
    return nn.Sequential(normed, nn.Tanh(), nn.Linear(7, 4)), cross_entropy, (torch.randn(8, 5), _labels(8))


class _Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(5, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Dropout(0.2))
        self.head = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.body(x)))


def _twice() -> Any:
    return _Twice(), cross_entropy, (torch.randn(8, 5), _labels(8))


def _half() -> Any:
    model = nn.Sequential(nn.Linear(5, 7), nn.LayerNorm(7), nn.Tanh(), nn.Linear(7, 4)).bfloat16()
    return model, cross_entropy, (torch.randn(8, 5).bfloat16(), _labels(8))


def _recurrent() -> Any:
    return _Recurrent(), cross_entropy, (torch.randn(8, 4, 3), _labels(8))


def _attention() -> Any:
    model = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
    return model, lambda model, x: model(x).square().mean(), torch.randn(3, 5, 8)


class _OwnGenerator(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.generator = nn.Linear(5, 4), torch.Generator().manual_seed(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x + torch.randn(x.shape, generator=self.generator))


def _own_generator() -> Any:
    return _OwnGenerator(), cross_entropy, (torch.randn(8, 5), _labels(8))


def _transposed() -> Any:
    model = nn.Sequential(nn.ConvTranspose2d(4, 6, 3, groups=2), nn.Tanh(), nn.Flatten(), nn.Linear(6 * 25, 4))
    return model.double(), cross_entropy, (torch.randn(4, 4, 3, 3, dtype=torch.float64), _labels(4))


def _weight_norm() -> Any:
    model = nn.Sequential(torch.nn.utils.parametrizations.weight_norm(nn.Linear(5, 7)), nn.Tanh(), nn.Linear(7, 4))
    return model, cross_entropy, (torch.randn(8, 5), _labels(8))


def _squared_error(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return (model(batch[0]) - batch[1]).square().sum()


def _deep_linear() -> Any:
    return deep_linear(4, 5).double(), _squared_error, (torch.randn(8, 5).double(), torch.randn(8, 5).double())


def _lp_norms() -> Any:
    model = nn.Sequential(nn.Linear(5, 7), LpNorm(1, 7), nn.Tanh(), nn.Linear(7, 7), LpNorm(2, 7), nn.Linear(7, 4))
    model.append(LpNorm("inf", 4))
    return model.double(), cross_entropy, (torch.randn(8, 5, dtype=torch.float64), _labels(8))


def _resnet() -> Any:
    return resnet(8, width=0.25, in_channels=1), cross_entropy, (torch.randn(8, 1, 8, 8), _labels(8))


def _transformer() -> Any:
    model = transformer(vocab=7, context=6, layers=1, heads=2, width=8, norm="rms", dropout=0.1)
    tokens = torch.arange(12).view(2, 6) % 7
    return model, lambda model, x: F.cross_entropy(model(x)[:, :-1].flatten(0, 1), x[:, 1:].flatten()), tokens


CASES = [
    Case("smooth", _smooth), Case("batch_norm", _batch_norm), Case("mixed_modes", _mixed_modes),
    Case("dropout", _dropout), Case("noisy_vgg", _noisy_vgg), Case("tied_frozen_unused_cached", _tied),
    Case("checkpointed", _checkpointed), Case("recurrent", _recurrent), Case("attention", _attention),
    Case("own_generator", _own_generator), Case("transposed", _transposed), Case("weight_norm", _weight_norm),
    Case("reentrant", _reentrant), Case("bounded_embedding", _bounded_embedding), Case("sliced", _sliced),
    Case("growing", _growing), Case("remembering", _remembering), Case("holding", _holding),
    Case("gradient_penalty", _gradient_penalty), Case("language_model", _language_model),
    Case("many_norms", _many_norms), Case("spectral_norm", _spectral_norm), Case("twice", _twice), Case("half", _half),
    Case("deep_linear", _deep_linear), Case("lp_norms", _lp_norms), Case("resnet", _resnet),
    Case("transformer", _transformer),
]  # fmt: skip

#: Not among the others, as a naive twin by ``backward()`` has another gradient here.
HOOKED_BACKWARD = Case("hooked_backward", _hooked_backward)
