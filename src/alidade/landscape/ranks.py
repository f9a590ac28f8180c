"""The processes that share an objective: each holds a part of the batch, and all are to get the same numbers.

Collective calls pair up by their order alone. If one process raises between two of them while the others go on to the
next, all wait for ever. So processes meet before each exchange and say what they came for and whether they failed.
Where they do not agree, every one of them raises, and none is left waiting.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from alidade.core.errors import RefusedError

T = TypeVar("T")

#: Numbers that are summed over processes in one exchange.
BUCKET_ELEMENTS = 1 << 22
_END = "the end of a measurement"


class Ranks(Protocol):
    """One process among those that share an objective. Every method is called by all of them, in the same order."""

    index: int
    size: int

    def agreed(self, work: Callable[[], T]) -> T:
        """The result of this process's work; raises in every process where it raised in one."""

    def phase(self, work: Callable[[], T]) -> T:
        """As ``agreed``, for work that meets the others on the way and may fail anywhere between."""

    def mean(self, work: Callable[[], Sequence[Tensor]]) -> list[Tensor]:
        """The means over the processes of the tensors that their work returns, the same bits in all of them."""

    def gathered(self, work: Callable[[], T]) -> list[T]:
        """What each process's work returned, in their order."""

    def from_first(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The first process's tensors, in all of them."""


class _Alone:
    """A process of its own."""

    index, size = 0, 1

    def agreed(self, work: Callable[[], T]) -> T:
        return work()

    phase = agreed

    def mean(self, work: Callable[[], Sequence[Tensor]]) -> list[Tensor]:
        return list(work())

    def gathered(self, work: Callable[[], T]) -> list[T]:
        return [work()]

    def from_first(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return list(tensors)


ALONE: Ranks = _Alone()


def mean_by_name(ranks: Ranks, work: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The means of named tensors; the names are the same in all processes."""
    names = list[str]()

    def local() -> list[Tensor]:
        found = work()
        names.extend(found)
        return list(found.values())

    return dict(zip(names, ranks.mean(local), strict=True))


def require_one_process(ranks: Ranks, what: str) -> None:
    """Refuse what is no mean over processes.

    Raises:
        RefusedError: there are several.
    """
    if ranks.size > 1:
        raise RefusedError(
            f"{what}: expected one process, got {ranks.size}, whose numbers do not add up to one; "
            "measure the network inside the wrapper, which is this process's own"
        )


class ElsewhereError(RefusedError):
    """Another process failed, or the processes went separate ways."""


class _Said(NamedTuple):
    """What a process says when it meets the others: what for, how many numbers, and its failure."""

    purpose: int
    size: int
    failed: bool


class ProcessRanks:
    """The processes of a group of ``torch.distributed``, gloo or NCCL.

    Args:
        group: the process group.
        device: where the tensors live that the group's backend can exchange: that of the parameters.

    Raises:
        ElsewhereError: from every method, in all processes, where one failed, or where they meet with different
            intentions. Where all failed at one place with the same type of error, each raises its own.

    Cost: one exchange of three integers per meeting, and what is exchanged itself.
    """

    def __init__(self, group: Any, device: torch.device) -> None:
        self.group, self._device = group, device
        self.index, self.size = dist.get_rank(group), dist.get_world_size(group)
        self._told: BaseException | None = None  # the interruption that the others know of

    def agreed(self, work: Callable[[], T]) -> T:
        """The result of this process's work."""
        return self._met("a result", work, lambda found: 0)

    def mean(self, work: Callable[[], Sequence[Tensor]]) -> list[Tensor]:
        """The means over the processes; half precision is summed in float32."""
        flats = self._met("a mean", lambda: _Flat.of(work()), lambda flats: sum(flat.numbers.numel() for flat in flats))
        means = dict[int, Tensor]()
        for flat in flats:  # memory was found before the others began to wait
            dist.all_reduce(flat.numbers, group=self.group)
            flat.numbers.div_(self.size)
            means |= flat.pieces()
        return [means[i] for i in range(len(means))]

    def summed(self, tensor: Tensor, group: Any = None) -> Tensor:
        """The sum of a tensor over the processes, or over a smaller group of them."""
        own = self._met("a sum", lambda: tensor.detach().clone(), Tensor.numel)
        dist.all_reduce(own, group=group or self.group)
        return own

    def gathered(self, work: Callable[[], T]) -> list[T]:
        """What each process's work returned."""
        own = self._met("a list", work, lambda found: 0)
        return self._objects(own)

    def from_first(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The first process's tensors."""
        own = self._met(
            "the first's", lambda: [t.detach().clone() for t in tensors], lambda ts: sum(map(Tensor.numel, ts))
        )
        for tensor in own:
            dist.broadcast(tensor, dist.get_global_rank(self.group, 0), group=self.group)
        return own

    def phase(self, work: Callable[[], T]) -> T:
        """The result of this process's work, which may have met the others."""
        error: BaseException | None = None
        try:
            found = work()
        except BaseException as raised:
            error = raised
        while True:  # until all are here: one that is still on its way meets us, and learns that it is to come
            said, reasons = self._meet(_END, 0, error)
            if all(one.purpose == _code(_END) for one in said):
                break
        if error is not None:
            raise error
        if any(one.failed for one in said):
            raise self._elsewhere(reasons)
        return found

    def _met(self, purpose: str, work: Callable[[], T], size: Callable[[T], int]) -> T:
        try:
            found = work()
            numbers = size(found)
        except ElsewhereError:  # raised where all met, inside this work or not
            raise
        except Exception as error:
            said, reasons = self._meet(purpose, 0, error)
            if len({one.purpose for one in said}) == len({reason and reason[0] for reason in reasons}) == 1:
                raise  # all at the same place with the same type of error: they go on alike
            raise self._elsewhere(reasons) from error
        except BaseException as error:  # Ctrl-C here is no reason to leave the others waiting
            if error is not self._told:
                self._told = error
                with suppress(Exception):
                    self._meet(purpose, 0, error)
            raise
        said, reasons = self._meet(purpose, numbers, None)
        if any(one.failed for one in said):
            raise self._elsewhere(reasons)
        if len(set(said)) > 1:
            raise ElsewhereError(
                f"processes: expected all {self.size} to measure the same, got other numbers or another order of "
                f"evaluations in process {self._first_other(said)}; give every process the same probes and model"
            )
        return found

    def _meet(self, purpose: str, size: int, error: BaseException | None) -> tuple[list[_Said], list[Any]]:
        """What all say; and where somebody failed, everybody's reason (type, text, whether it came from another)."""
        mine = torch.tensor([_code(purpose), size, error is not None], dtype=torch.int64, device=self._device)
        parts = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(parts, mine, group=self.group)
        said = [_Said(*part) for part in torch.stack(parts).tolist()]
        if not any(one.failed for one in said):
            return said, []
        own = error and (type(error).__name__, _text(error), isinstance(error, ElsewhereError))
        return said, self._objects(own)

    def _objects(self, own: Any) -> list[Any]:
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, own, group=self.group)
        return found

    def _first_other(self, said: Sequence[_Said]) -> int:
        return next(i for i, one in enumerate(said) if one != said[0])

    def _elsewhere(self, reasons: Sequence[Any]) -> ElsewhereError:
        """The error of all, with the reason of the first that failed by itself."""
        failed = [(i, reason) for i, reason in enumerate(reasons) if reason]
        index, (_, text, _) = min(failed, key=lambda pair: pair[1][2])
        return ElsewhereError(f"process {index} of {self.size} failed: {text}")


def _text(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _code(purpose: str) -> int:
    return zlib.crc32(purpose.encode())


class _Flat(NamedTuple):
    """Some tensors as one vector: which they are, and how they looked."""

    numbers: Tensor
    like: dict[int, tuple[torch.Size, torch.dtype]]

    @classmethod
    def of(cls, tensors: Sequence[Tensor]) -> list[_Flat]:
        """Vectors of one precision on one device, and of some millions of numbers at most."""
        kinds: dict[Any, list[list[int]]] = {}
        for i, tensor in enumerate(tensors):
            buckets = kinds.setdefault((_exchanged_as(tensor), tensor.device), [[]])
            if buckets[-1] and sum(tensors[j].numel() for j in [*buckets[-1], i]) > BUCKET_ELEMENTS:
                buckets.append([])
            buckets[-1].append(i)
        return [
            cls(
                torch.cat([tensors[i].detach().reshape(-1).to(dtype) for i in bucket]),
                {i: (tensors[i].shape, tensors[i].dtype) for i in bucket},
            )
            for (dtype, _), buckets in kinds.items()
            for bucket in buckets
        ]

    def pieces(self) -> dict[int, Tensor]:
        """The tensors again, as they looked."""
        parts = self.numbers.split([shape.numel() for shape, _ in self.like.values()])
        return {
            i: part.view(shape).to(dtype) for (i, (shape, dtype)), part in zip(self.like.items(), parts, strict=True)
        }


def _exchanged_as(tensor: Tensor) -> torch.dtype:
    """At least float32, since half precision has no digits for a sum; single numbers cost nothing in float64."""
    return torch.float64 if tensor.ndim == 0 else torch.promote_types(tensor.dtype, torch.float32)
