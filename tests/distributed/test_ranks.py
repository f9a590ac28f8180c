"""The protocol by which processes meet: nobody is left waiting, and all get the same bits."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
import torch
from tests.distributed.processes import World
from torch import distributed as dist

from alidade.landscape.ranks import ALONE, ElsewhereError, ProcessRanks


def ranks_here() -> ProcessRanks:
    return ProcessRanks(dist.group.WORLD, torch.device("cpu"))


def outcome(work: Any) -> tuple[str, str]:
    try:
        return "returned", repr(work())
    except BaseException as error:
        return type(error).__name__, str(error)


def raised(error: BaseException) -> Any:
    raise error


def random_tensors(rank: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(rank)
    shapes = [(), (3, 5), (1000,), (0,), (2, 1, 2)]
    tensors = [torch.randn(shape, generator=generator) for shape in shapes]
    return [tensors[0], tensors[1].double(), tensors[2], tensors[3], tensors[4].bfloat16()]


def _means(rank: int, size: int) -> list[torch.Tensor]:
    return ranks_here().mean(lambda: random_tensors(rank))


def test_means_are_the_same_bits_everywhere_and_right(four: World) -> None:
    found = four.run(_means)
    for each in found[1:]:
        assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(found[0], each, strict=True))
    for i, mean in enumerate(found[0]):
        expected = torch.stack([random_tensors(rank)[i].double() for rank in range(4)]).mean(0)
        eps = torch.finfo(mean.dtype).eps  # four additions and the last rounding, of numbers of size 1
        assert torch.allclose(mean.double(), expected, atol=8 * eps, rtol=0)


def _one_bucket_each(rank: int, size: int) -> list[torch.Tensor]:
    from alidade.landscape import ranks

    before, ranks.BUCKET_ELEMENTS = ranks.BUCKET_ELEMENTS, 4
    try:
        return ranks_here().mean(lambda: random_tensors(rank))
    finally:
        ranks.BUCKET_ELEMENTS = before


def test_small_buckets_change_nothing(two: World) -> None:
    assert all(map(torch.equal, two.run(_means)[0], two.run(_one_bucket_each)[0]))


def _one_fails(rank: int, size: int) -> list[tuple[str, str]]:
    here = ranks_here()
    return [
        outcome(lambda: here.agreed(lambda: raised(ValueError("no such luck")) if rank == 1 else 7)),
        outcome(lambda: here.agreed(lambda: 7)),  # all go on together
        outcome(lambda: here.mean(lambda: raised(KeyError("gone")) if rank == size - 1 else [torch.ones(2)])),
        outcome(lambda: here.gathered(lambda: rank)),
    ]


@pytest.mark.parametrize("world", ["two", "four"])
def test_where_one_process_fails_all_raise_with_its_reason(world: str, request: pytest.FixtureRequest) -> None:
    used: World = request.getfixturevalue(world)
    expected = f"process 1 of {used.size} failed: no such luck"
    for first, second, third, fourth in used.run(_one_fails):
        assert first == ("ElsewhereError", expected)
        assert second == ("returned", "7")
        assert third == ("ElsewhereError", f"process {used.size - 1} of {used.size} failed: 'gone'")
        assert fourth == ("returned", repr(list(range(used.size))))


def _all_fail(rank: int, size: int) -> tuple[str, str]:
    return outcome(lambda: ranks_here().agreed(lambda: raised(NotImplementedError(f"here too, {rank}"))))


def test_where_all_fail_alike_each_keeps_its_error(two: World) -> None:
    assert two.run(_all_fail) == [("NotImplementedError", "here too, 0"), ("NotImplementedError", "here too, 1")]


def _fails_between(rank: int, size: int) -> list[tuple[str, str]]:
    """Process 1 raises outside of any exchange, while the others are at their first, second or last one."""
    here = ranks_here()

    def work(number: int) -> Any:
        for i in range(3):
            if rank == 1 and i == number:
                raise OSError("disk on fire")
            here.mean(lambda: [torch.ones(3)])
        return "done"

    return [outcome(lambda n=n: here.phase(lambda: work(n))) for n in (0, 1, 2, 3)]


@pytest.mark.parametrize("world", ["two", "four"])
def test_a_failure_between_exchanges_leaves_nobody_waiting(world: str, request: pytest.FixtureRequest) -> None:
    used: World = request.getfixturevalue(world)
    for rank, found in enumerate(used.run(_fails_between)):
        expected = ("OSError", "disk on fire")
        if rank != 1:
            expected = ("ElsewhereError", f"process 1 of {used.size} failed: disk on fire")
        assert found == [expected] * 3 + [("returned", "'done'")]


def _stubborn(rank: int, size: int) -> list[tuple[str, str]]:
    """Somebody swallows the error and goes on measuring alone."""
    here = ranks_here()

    def work() -> Any:
        if rank == 0:
            return "early"
        for _ in range(3):
            with suppress(ElsewhereError):
                here.mean(lambda: [torch.ones(3)])
        return "late"

    return [outcome(lambda: here.phase(work)), outcome(lambda: here.agreed(lambda: rank))]


def test_processes_that_go_separate_ways_meet_again_at_the_end(two: World) -> None:
    assert two.run(_stubborn) == [
        [("returned", "'early'"), ("returned", "0")], [("returned", "'late'"), ("returned", "1")],
    ]  # fmt: skip


def _other_sizes(rank: int, size: int) -> tuple[str, str]:
    return outcome(lambda: ranks_here().mean(lambda: [torch.ones(3 + rank)]))


def test_other_numbers_of_numbers_are_refused(two: World) -> None:
    for name, text in two.run(_other_sizes):
        assert name == "ElsewhereError"
        assert "expected all 2 to measure the same" in text


def _interrupted(rank: int, size: int) -> list[tuple[str, str]]:
    here = ranks_here()
    inside = outcome(
        lambda: here.phase(lambda: here.agreed(lambda: raised(KeyboardInterrupt()) if rank == 0 else "fine"))
    )
    return [inside, outcome(lambda: here.agreed(lambda: 1))]


def test_ctrl_c_in_one_process_is_a_failure_to_the_others(two: World) -> None:
    first, second = two.run(_interrupted)
    assert first == [("KeyboardInterrupt", ""), ("returned", "1")]
    assert second == [("ElsewhereError", "process 0 of 2 failed: KeyboardInterrupt"), ("returned", "1")]


def _first(rank: int, size: int) -> list[torch.Tensor]:
    return ranks_here().from_first([torch.full((2,), float(rank)), torch.tensor(rank)])


def test_the_first_hands_out_its_tensors(four: World) -> None:
    for floats, integer in four.run(_first):
        assert floats.tolist() == [0.0, 0.0]
        assert integer.tolist() == 0


def test_one_process_alone_meets_nobody() -> None:
    tensor = torch.ones(2)
    assert ALONE.mean(lambda: [tensor])[0] is tensor
    assert ALONE.gathered(lambda: 3) == [3]
    assert ALONE.phase(lambda: 4) == ALONE.agreed(lambda: 4) == 4
    with pytest.raises(KeyError):
        ALONE.phase(lambda: raised(KeyError()))
