"""Training loops as users write them, each runnable with and without a survey: cases as data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from tests.cases import cross_entropy
from torch import Tensor, nn
from torch.nn import functional as F

from alidade.nn import vgg

Watch = Callable[[nn.Module, Any, Any], Any]  # (model, loss_fn, optimizer) -> survey or None


class _Nothing:
    """Stands in for a survey in the run without one."""

    def observe(self, batch: Any, **options: Any) -> None:
        pass


def _image_batches(steps: int, channels: int = 1, side: int = 32) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(7)
    return [
        (torch.randn(4, channels, side, side, generator=generator), torch.randint(0, 4, (4,), generator=generator))
        for _ in range(steps)
    ]


def _vector_batches(steps: int, n: int = 8) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(7)
    return [
        (torch.randn(n, 5, generator=generator), torch.randint(0, 4, (n,), generator=generator)) for _ in range(steps)
    ]


def _perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.2), nn.Linear(12, 4))


class _Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels)
        self.conv2, self.norm2 = nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels)
        self.relu, self.dropout = nn.ReLU(inplace=True), nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x)))))
        out += x
        return self.dropout(self.relu(out))


def _resnet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), _Block(6), _Block(6), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)
    )


class GPT(nn.Module):
    """A small language model with tied embeddings, attention and dropout; its output carries the loss."""

    def __init__(self, words: int = 11, width: int = 8) -> None:
        super().__init__()
        self.embed, self.position = nn.Embedding(words, width), nn.Parameter(torch.zeros(6, width))
        self.block = nn.TransformerEncoderLayer(width, 2, 16, dropout=0.1, batch_first=True, norm_first=True)
        self.head = nn.Linear(width, words, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
        logits = self.head(self.block(self.embed(tokens) + self.position, mask, is_causal=True))
        return {"loss": F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()), "logits": logits}


def _plain(model: nn.Module, optimizer: Any, batches: list[Any], loss_fn: Any, survey: Any) -> list[float]:
    losses = []
    for batch in batches:
        survey.observe(batch)
        optimizer.zero_grad()
        loss = loss_fn(model, batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def _sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


def vgg_batch_norm(steps: int, watch: Watch) -> tuple[nn.Module, list[float]]:
    model = vgg(8, width=1 / 32, norm="batch", in_channels=1, classes=4)
    optimizer = _sgd(model)
    survey = watch(model, cross_entropy, optimizer)
    return model, _plain(model, optimizer, _image_batches(steps), cross_entropy, survey)


def resnet_dropout(steps: int, watch: Watch) -> tuple[nn.Module, list[float]]:
    model = _resnet()
    optimizer = _sgd(model)
    return model, _plain(
        model, optimizer, _image_batches(steps, side=8), cross_entropy, watch(model, cross_entropy, optimizer)
    )


def gpt_tied_adamw(steps: int, watch: Watch) -> tuple[nn.Module, list[float]]:
    model = GPT()
    others = [p for n, p in model.named_parameters() if n != "embed.weight"]
    groups = [{"params": [model.embed.weight], "lr": 1e-2}, {"params": others}]
    optimizer = torch.optim.AdamW(groups, lr=3e-3)

    def loss_fn(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        return model(batch["tokens"])["loss"]

    generator = torch.Generator().manual_seed(3)
    batches = [{"tokens": torch.randint(0, 11, (4, 6), generator=generator)} for _ in range(steps)]
    return model, _plain(model, optimizer, batches, loss_fn, watch(model, loss_fn, optimizer))


def sgd_closure(steps: int, watch: Watch) -> tuple[nn.Module, list[float]]:
    return _with_closure(steps, watch, lambda model: _sgd(model))


def lbfgs(steps: int, watch: Watch) -> tuple[nn.Module, list[float]]:
    return _with_closure(
        steps, watch, lambda model: torch.optim.LBFGS(model.parameters(), lr=0.05, max_iter=3), dropout=False
    )


def _with_closure(
    steps: int, watch: Watch, make: Callable[[nn.Module], torch.optim.Optimizer], dropout: bool = True
) -> tuple[nn.Module, list[float]]:
    model = _perceptron() if dropout else nn.Sequential(nn.Linear(5, 12), nn.Tanh(), nn.Linear(12, 4))
    optimizer = make(model)
    survey, losses = watch(model, cross_entropy, optimizer), []
    for batch in _vector_batches(steps):
        survey.observe(batch)
        first: list[float] = []

        def closure(batch: Any = batch, first: list[float] = first) -> Tensor:
            optimizer.zero_grad()
            loss = cross_entropy(model, batch)
            loss.backward()
            first.append(loss.item())
            return loss

        optimizer.step(closure)
        losses.append(first[0])
    return model, losses


def autocast_bfloat16(steps: int, watch: Watch) -> tuple[nn.Module, list[float]]:
    model = _perceptron()
    optimizer = _sgd(model)
    survey, losses = watch(model, cross_entropy, optimizer), []
    for batch in _vector_batches(steps):
        survey.observe(batch)
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = cross_entropy(model, batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return model, losses


def autocast_inside_the_loss(steps: int, watch: Watch) -> tuple[nn.Module, list[float]]:
    def loss_fn(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(batch[0])
        return (logits.double() * 1.1).logsumexp(1).mean() - logits.double()[:, 0].mean()

    model = _perceptron()
    optimizer = _sgd(model)
    return model, _plain(model, optimizer, _vector_batches(steps), loss_fn, watch(model, loss_fn, optimizer))


def accumulation(steps: int, watch: Watch) -> tuple[nn.Module, list[float]]:
    model = _perceptron()
    optimizer = _sgd(model)
    survey, losses = watch(model, cross_entropy, optimizer), []
    for images, labels in _vector_batches(steps, n=12):
        optimizer.zero_grad()
        parts = []
        for index, micro in enumerate(zip(images.split(4), labels.split(4), strict=True)):
            survey.observe(micro, accumulate=index > 0)
            loss = cross_entropy(model, micro) / 3
            loss.backward()
            parts.append(loss.item())
        optimizer.step()
        losses.append(sum(parts))
    return model, losses


def grad_scaler(steps: int, watch: Watch) -> tuple[nn.Module, list[float]]:
    """One step of the run is skipped by the scaler because of an infinite gradient."""
    model = _perceptron()
    optimizer, scaler = _sgd(model), torch.amp.GradScaler("cpu", init_scale=2.0**10)
    survey, losses = watch(model, cross_entropy, optimizer), []
    for index, batch in enumerate(_vector_batches(steps)):
        survey.observe(batch)
        optimizer.zero_grad()
        loss = cross_entropy(model, batch)
        scaler.scale(loss).backward()
        if index == 5:
            next(iter(model.parameters())).grad.fill_(float("inf"))
        else:
            losses.append(loss.item())
        scaler.step(optimizer)
        scaler.update()
    return model, losses


def compiled(steps: int, watch: Watch) -> tuple[nn.Module, list[float]]:
    model = nn.Sequential(nn.Linear(5, 12), nn.BatchNorm1d(12), nn.Tanh(), nn.Linear(12, 4))
    fast = torch.compile(model, backend="aot_eager")
    optimizer = _sgd(model)
    return model, _plain(fast, optimizer, _vector_batches(steps), cross_entropy, watch(fast, cross_entropy, optimizer))


class _Smooth(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(5, 12), nn.BatchNorm1d(12), nn.Tanh(), nn.Linear(12, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def compiled_in_place(steps: int, watch: Watch) -> tuple[nn.Module, list[float]]:
    """``module.compile()`` leaves the module what it is; a hook on it would be compiled, and compiled anew."""
    compilations: list[int] = []

    def counting(graph: Any, inputs: Any) -> Any:
        compilations.append(1)
        return graph.forward

    model = _Smooth()
    model.compile(backend=counting)
    optimizer = _sgd(model)
    survey = watch(model, cross_entropy, optimizer)
    losses = _plain(model, optimizer, _vector_batches(steps), cross_entropy, survey)
    assert len(compilations) == 1
    return model, losses


def random_numbers_between(steps: int, watch: Watch) -> tuple[nn.Module, list[float]]:
    """The loop draws numbers of its own between announcing the batch and the forward pass."""
    model = _perceptron()
    optimizer = _sgd(model)
    survey, losses = watch(model, cross_entropy, optimizer), []
    for batch in _vector_batches(steps):
        survey.observe(batch)
        torch.rand(3)
        optimizer.zero_grad()
        loss = cross_entropy(model, batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return model, losses


class _Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = _perceptron()

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(self.encoder(batch[0]), batch[1])


def inner_module(steps: int, watch: Watch) -> tuple[nn.Module, list[float]]:
    """The loss function never calls the outermost module; autocast and random numbers come in between."""
    model = _Encoder()
    optimizer = _sgd(model)

    def loss_fn(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return model.training_step(batch)

    survey, losses = watch(model, loss_fn, optimizer), []
    for batch in _vector_batches(steps):
        survey.observe(batch)
        torch.rand(5)
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = loss_fn(model, batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return model, losses


def changing_its_batch(steps: int, watch: Watch) -> tuple[nn.Module, list[float]]:
    """The loss function takes its labels out of the dictionary and scales its inputs in place."""
    model = _perceptron()
    optimizer = _sgd(model)

    def loss_fn(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
        labels = batch.pop("labels")
        return F.cross_entropy(model(batch["inputs"].mul_(0.5)), labels)

    batches = [{"inputs": inputs, "labels": labels} for inputs, labels in _vector_batches(steps)]
    return model, _plain(model, optimizer, batches, loss_fn, watch(model, loss_fn, optimizer))


class _Remembering(nn.Module):
    """Counts in a tensor that is no buffer, keeps outputs in a list, and computes with both."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.seen, self.last = _perceptron(), torch.zeros(()), [torch.zeros(8, 4)]

    def forward(self, x: Tensor) -> Tensor:
        self.seen += 1
        output = self.body(x) / self.seen.sqrt() + 0.1 * self.last[-1]
        self.last.append(output.detach())
        return output


def remembering(steps: int, watch: Watch) -> tuple[nn.Module, list[float]]:
    model = _Remembering()
    optimizer = _sgd(model)
    return model, _plain(
        model, optimizer, _vector_batches(steps), cross_entropy, watch(model, cross_entropy, optimizer)
    )


def backward_hooks(steps: int, watch: Watch) -> tuple[nn.Module, list[float]]:
    """Module hooks halve the gradients in training, and count how often they did."""
    model = _perceptron()
    model.register_buffer("calls", torch.zeros(()))
    model.register_full_backward_pre_hook(lambda module, gradients: (gradients[0] / (2 + 0 * module.calls.add_(1)),))
    optimizer = _sgd(model)
    return model, _plain(
        model, optimizer, _vector_batches(steps), cross_entropy, watch(model, cross_entropy, optimizer)
    )


LOOPS = [
    changing_its_batch, remembering, backward_hooks,
    inner_module,
    vgg_batch_norm, resnet_dropout, gpt_tied_adamw, sgd_closure, lbfgs, autocast_bfloat16, autocast_inside_the_loss,
    accumulation, grad_scaler, compiled, compiled_in_place, random_numbers_between,
]  # fmt: skip

NOTHING = _Nothing()
