"""The synthetic studies as fixtures."""

from __future__ import annotations

from types import ModuleType

import pytest
from tests.report import synthetic as studies


@pytest.fixture(scope="session")
def synthetic() -> ModuleType:
    """The module that makes studies without training."""
    return studies


@pytest.fixture(scope="session")
def study():
    """The demo in shape: three norms, five seeds."""
    return studies.study()


@pytest.fixture(scope="session")
def verdicts():
    """A mixed lot: supported, refuted and undecided."""
    return studies.verdicts()
