"""covariate_shift against its naive twin, closed forms, finite differences, invariances, and bad input."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.cases import CASES, Case, cross_entropy
from tests.reference import covariate_shift as naive
from tests.snapshot import snapshot
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from alidade.core.errors import CallError, RefusedError
from alidade.core.records import BELOW_RESOLUTION, NON_FINITE, OK, UNDEFINED
from alidade.landscape.conditions import conditions_now
from alidade.landscape.layers import home
from alidade.landscape.objective import Part
from alidade.nn import vgg
from alidade.probes.covariate_shift import covariate_shift, shift_of_parts

NAMES = ("l2", "cosine", "relative", "gradient_norm")


def labels(n: int, classes: int = 4) -> Tensor:
    return torch.arange(n) % classes


class Residual(nn.Module):
    """A block that changes tensors in place in all the usual ways, with dropout as a module and as a function."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.relu, self.drop = nn.ReLU(inplace=True), nn.Dropout(0.2)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.norm1(self.conv1(x)))
        out = self.norm2(self.conv2(self.drop(out)))
        out += x
        return F.dropout(F.relu_(out), 0.1, self.training)


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.act = nn.ReLU(inplace=True)
        self.blocks = nn.Sequential(Residual(4), Residual(4))
        self.head = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x))
        self.act(x)  # in place, and the return value is thrown away
        return self.head(self.blocks(x).mean((2, 3)))


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 2, dropout=0.1, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width), nn.Dropout(0.1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.ln1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.ln2(x))


class Gpt(nn.Module):
    """Positions belong to the root, and the last layer is the embedding's."""

    def __init__(self, vocabulary: int = 7, width: int = 8, length: int = 5) -> None:
        super().__init__()
        self.position = nn.Parameter(0.1 * torch.randn(length, width))
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.token = nn.Embedding(vocabulary, width)
        self.head.weight = self.token.weight
        self.blocks = nn.ModuleList([Block(width), Block(width)])

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.token(tokens) + self.position
        for block in self.blocks:
            x = block(x)
        return self.head(x).flatten(0, 1)


class Reused(nn.Module):
    """One module called twice, one used through a function before it is called, one never used."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Linear(2, 2)
        self.last = nn.Linear(6, 4)
        self.early = nn.Linear(6, 6)
        self.first, self.twice = nn.Linear(5, 6), nn.Linear(6, 6)
        self.between = nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        x = self.between(self.first(x) * self.early.bias)
        x = self.twice(torch.tanh(self.twice(x)))
        return self.last(self.early(torch.tanh(x)))


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.reentrant = reentrant
        self.stem = nn.Linear(5, 6)
        self.middle = nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.3), nn.Tanh(), nn.Linear(6, 6))
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(checkpoint(self.middle, self.stem(x), use_reentrant=self.reentrant))


def images(model: nn.Module) -> Any:
    return model.double(), cross_entropy, (torch.randn(8, 1, 32, 32).double(), labels(8))


def vectors(model: nn.Module) -> Any:
    return model.double(), cross_entropy, (torch.randn(8, 5).double(), labels(8))


def recurrent() -> Any:
    model, loss_fn, (x, y) = next(case for case in CASES if case.name == "recurrent").build()
    return model.double(), loss_fn, (x.double(), y)


def language() -> Any:
    tokens = torch.randint(0, 7, (6, 5))
    return Gpt().double(), cross_entropy, (tokens, tokens.roll(-1, 1).flatten())


CONVOLUTIONS = (0, 3, 6, 8, 11, 13, 16, 18)
VGG_NONE = [f"features.{place}" for place in CONVOLUTIONS] + ["head"]
VGG_BATCH = [f"features.{k}" for pair in ((0, 1), (4, 5), (8, 9), (11, 12), (15, 16), (18, 19), (22, 23), (25, 26)) for k in pair] + ["head"]  # fmt: skip
VGG_NOISY = [f"{name}.0" if int(name.split(".")[1]) in (1, 5, 9, 12, 16, 19, 23, 26) else name for name in VGG_BATCH[:-1]] + ["head"]  # fmt: skip
BLOCK = ["ln1", "attention", "attention.out_proj", "ln2", "mlp.0", "mlp.2"]

#: Each kind of model with its layers in their order, written down by hand.
MODELS: dict[str, tuple[Callable[[], Any], list[str]]] = {
    "vgg": (lambda: images(vgg(8, 1 / 16, "none", in_channels=1)), VGG_NONE),
    "vgg_batch": (lambda: images(vgg(8, 1 / 16, "batch", in_channels=1)), VGG_BATCH),
    "vgg_noisy": (lambda: images(vgg(8, 1 / 16, "noisy", in_channels=1)), VGG_NOISY),
    "resnet": (
        lambda: images(ResNet()),
        ["stem", "norm", *(f"blocks.{k}.{name}" for k in (0, 1) for name in ("conv1", "norm1", "conv2", "norm2")), "head"],
    ),
    "gpt": (language, ["token", "(model)", *(f"blocks.{k}.{name}" for k in (0, 1) for name in BLOCK)]),
    "lstm": (recurrent, ["lstm", "head"]),
    "reused": (lambda: vectors(Reused()), ["first", "early", "twice", "last"]),
    "checkpointed": (lambda: vectors(Checkpointed(False)), ["stem", "middle.0", "middle.3", "head"]),
    "reentrant": (lambda: vectors(Checkpointed(True)), ["stem", "middle.0", "middle.3", "head"]),
}  # fmt: skip


def built(name: str, seed: int = 0) -> tuple[nn.Module, Any, Any, dict[str, Tensor], dict[str, Tensor]]:
    torch.manual_seed(seed)
    model, loss_fn, batch = MODELS[name][0]()
    return model, loss_fn, batch, *naive.states(model, loss_fn, batch, lr=0.3)


def keys_of(model: nn.Module, state: dict[str, Tensor], layers: list[str]) -> dict[str, list[str]]:
    """The state's keys by layer; the second name of a tied parameter goes with the first layer that has it."""
    found: dict[str, list[str]] = {layer: [key for key in state if home(key) == layer] for layer in layers}
    tied = {state[key].data_ptr(): layer for layer in reversed(layers) for key in found[layer]}
    for key, value in state.items():
        layer = tied.get(value.data_ptr())
        if layer is not None and key not in found[layer]:
            found[layer].append(key)
    return found


def assert_same(shift: Any, expected: dict[str, np.ndarray], rtol: float) -> None:
    for name in NAMES:
        scale = expected["gradient_norm"] if name == "l2" else 1.0
        error = np.abs(getattr(shift, name) - expected[name]) / scale
        assert (error <= rtol * np.maximum(1.0, np.abs(expected[name]) / scale)).all(), (name, error)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("seed", [0, 1])
def test_it_is_its_naive_twin(name: str, seed: int) -> None:
    model, loss_fn, batch, before, after = built(name, seed)
    order = MODELS[name][1]
    shift = covariate_shift(model, loss_fn, batch, before, after)
    expected = naive.shifts(model, loss_fn, batch, before, after, keys_of(model, before, order))
    assert list(shift.layers)[: len(order)] == order
    used = covariate_shift(model, loss_fn, batch, before, after, layers=order)
    # The same kernels on the same numbers; what differs is the order of the sums in the norms of up to 1e5 terms,
    # of relative error 1e5 * eps / 2 = 1e-11 at the very worst.
    assert_same(used, expected, 1e-11)
    assert np.array_equal(used.l2, shift.l2[: len(order)])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_case_is_its_naive_twin(case: Case) -> None:
    torch.manual_seed(1)
    model, loss_fn, batch = case.build()
    if case.name == "own_generator":  # the copies that the twin makes would draw numbers of their own
        pytest.skip("a generator cannot be copied")
    before, after = naive.states(model, loss_fn, batch, lr=0.1)
    layers = [
        name for name, status in zip(*_layers_and_status(model, loss_fn, batch, before, after)) if status != UNDEFINED
    ]
    shift = covariate_shift(model, loss_fn, batch, before, after, layers)
    expected = naive.shifts(model, loss_fn, batch, before, after, keys_of(model, before, layers))
    # float32: the norms agree to eps times the square root of their number of terms; 1e-5 leaves a margin of ten.
    assert_same(shift, expected, 1e-5)


def _layers_and_status(*arguments: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    shift = covariate_shift(*arguments)
    return shift.layers, shift.status
