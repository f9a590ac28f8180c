"""All batches of a loader as the parts of one objective, fetched anew at each evaluation and never kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, overload

import torch
from torch import nn

from alidade.core.errors import CallError, RefusedError, brief
from alidade.core.records import Statistics
from alidade.landscape.batches import batch_length, check_batch
from alidade.landscape.conditions import Part, conditions_now
from alidade.landscape.randomness import RandomState
from alidade.landscape.statistics import check_statistics

_END = object()


class Batches:
    r"""A whole data set as the batch of an objective: :math:`L(\theta) = \sum_b \frac{n_b}{N} L_b(\theta)`.

    ``Objective(model, loss_fn, Batches(loader))`` is the loss over all N examples. Batches are fetched one by one at
    every evaluation, so that memory holds one of them; losses, gradients and products are added up in float64.
    Nobody else's random numbers are drawn: the loader shuffles as it would have at construction, each time.

    Args:
        loader: gives the same batches whenever it is gone through: a DataLoader, or a list of batches.
        reduction: "mean" where the loss function averages over a batch's examples, so that batches weigh by their
            length; "sum" where it adds up.
        own_statistics: True allows normalization by the statistics of each batch. The objective is then the mean
            loss of these very batches, another function for another batch size, and not the loss of all data at once.

    Raises:
        CallError: a loader that can be gone through only once or that is empty; a batch without a length.

    Cost: three passes over the loader at construction, without the model. Each evaluation begins every
    batch at the same random numbers.

    >>> model = nn.Linear(2, 1, bias=False).double()
    >>> data = torch.eye(2).double().repeat(3, 1)
    >>> sizes = Batches([data[:4], data[4:]])
    >>> from alidade.landscape.objective import Objective
    >>> mean = lambda model, x: model(x).square().mean()
    >>> objective = Objective(model, mean, sizes)
    >>> torch.isclose(objective.value(), Objective(model, mean, data).value()).item(), objective.partition
    (True, (4, 2))
    """

    def __init__(
        self, loader: Iterable[Any], reduction: Literal["mean", "sum"] = "mean", own_statistics: bool = False
    ) -> None:
        if reduction not in ("mean", "sum"):
            raise CallError(f"reduction: expected 'mean' or 'sum', got {brief(reduction)}")
        if not isinstance(loader, Iterable) or isinstance(loader, torch.Tensor | str | bytes | dict):
            raise CallError(f"loader: expected a DataLoader or a list of batches, got {type(loader).__name__}")
        if isinstance(loader, Iterator):
            raise CallError(
                f"loader: expected one that can be gone through many times, got the iterator {type(loader).__name__}; "
                "pass the DataLoader itself or a list"
            )
        self.loader, self.reduction, self.own_statistics = loader, reduction, own_statistics


class LoaderParts(Sequence[Part]):
    """The parts that a loader's batches are, each time anew."""

    def __init__(self, model: nn.Module, batches: Batches) -> None:
        self._batches, self._model, self._conditions = batches, model, conditions_now(model)
        self._start = RandomState(model, _generators(batches.loader))
        lengths = [_length(batch) for batch in self._fetched()]
        if not lengths:
            raise CallError("loader: expected at least one batch, got none")
        self.lengths: tuple[int, ...] = tuple(lengths)
        self._first: Part | None = None

    def __len__(self) -> int:
        return len(self.lengths)

    @overload
    def __getitem__(self, index: int) -> Part: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Part]: ...
    def __getitem__(self, index: int | slice) -> Part | Sequence[Part]:
        """The first part is kept; the others are fetched."""
        if index == 0:
            self._first = self._first or next(iter(self))
            return self._first
        return list(self)[index]

    def __iter__(self) -> Iterator[Part]:
        total = sum(self.lengths) if self._batches.reduction == "mean" else 1
        count = 0
        for count, batch in enumerate(self._fetched(), 1):
            length = _length(batch)
            if count > len(self.lengths) or length != self.lengths[count - 1]:
                self._refuse(f"batch {count} of {length} examples")
            weight = length / total if self._batches.reduction == "mean" else 1.0
            yield Part(batch, self._conditions, weight)
        if count < len(self.lengths):
            self._refuse(f"{count} batches")

    def require_mixable(self, statistics: Statistics) -> None:
        """Refuse batch statistics over several batches, unless each is meant to have its own.

        Raises:
            RefusedError: with the reason and the ways out.
        """
        if statistics in ("batch", "mixed") and len(self.lengths) > 1 and not self._batches.own_statistics:
            raise RefusedError(
                f"loader: expected running statistics or no batch normalization over {len(self.lengths)} batches, got "
                f"{statistics} statistics: a layer would normalize each batch by itself, so that the sum is not the "
                "loss of all data; use statistics='running', one batch, or Batches(loader, own_statistics=True)"
            )

    def _refuse(self, got: str) -> None:
        raise RefusedError(
            f"loader: expected the same batches as before, {len(self.lengths)} of {sum(self.lengths)} examples, got "
            f"{got}; the loader must not depend on how often it was gone through"
        )

    def _fetched(self) -> Iterator[Any]:
        """Every batch, with the loader's random numbers going on from where they stood at construction."""
        inside = [self._start]
        with self._drawing(inside):
            source = iter(self._batches.loader)
        while True:
            with self._drawing(inside):
                batch = next(source, _END)
            if batch is _END:
                return
            yield batch

    @contextmanager
    def _drawing(self, inside: list[RandomState]) -> Iterator[None]:
        outside = self._start.now(self._model)
        inside[0].install()
        try:
            yield
        finally:
            inside[0] = self._start.now(self._model)
            outside.install()


def parts_of(model: nn.Module, batch: Any) -> Sequence[Part]:
    """The parts of an objective: one for a batch, a loader's for ``Batches``."""
    return LoaderParts(model, batch) if isinstance(batch, Batches) else (Part(batch, conditions_now(model)),)


def check_parts(model: nn.Module, parts: Sequence[Part], statistics: str | None) -> None:
    """Refuse a (micro-)batch without examples, and statistics as :func:`check_statistics` does."""
    for part in parts:
        check_batch(part.batch)
    check_statistics(model, statistics)


def require_mixable(parts: Sequence[Part], statistics: Callable[[], Statistics]) -> None:
    """Refuse batch statistics over the batches of a loader, unless they are meant."""
    if isinstance(parts, LoaderParts):
        parts.require_mixable(statistics())


def lengths_of(parts: Sequence[Part]) -> tuple[int | None, ...] | None:
    """Lengths of the (micro-)batches; None for a single one."""
    if len(parts) == 1:
        return None
    return parts.lengths if isinstance(parts, LoaderParts) else tuple(batch_length(part.batch) for part in parts)


def examples_of(parts: Sequence[Part]) -> int | None:
    """Examples of a loader, or of the first (micro-)batch."""
    return sum(parts.lengths) if isinstance(parts, LoaderParts) else batch_length(parts[0].batch)


def _length(batch: Any) -> int:
    length = batch_length(batch)
    if not length:
        raise CallError(
            f"loader: expected batches with at least one example, got {brief(batch)}; weights need their lengths"
        )
    return length


def _generators(loader: Any) -> list[Any]:
    """Generators of the loader's own, which going through it would move."""
    inner = getattr(loader, "batch_sampler", None)
    owners = [loader, getattr(loader, "sampler", None), inner, getattr(inner, "sampler", None)]
    found = [getattr(owner, "generator", None) for owner in owners]
    return list({id(g): g for g in found if isinstance(g, torch.Generator)}.values())
