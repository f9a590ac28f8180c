from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.distributed.processes import World


@pytest.fixture(scope="session")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    world = World(2, tmp_path_factory.mktemp("two"))
    yield world
    world.stop()


@pytest.fixture(scope="session")
def four(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    world = World(4, tmp_path_factory.mktemp("four"))
    yield world
    world.stop()
