"""Options that all tests share."""

from __future__ import annotations

import pytest
from hypothesis import settings

# The same examples in every run, and no limit on the time of one: a failure is a fault of ours, not of the day.
settings.register_profile("planish", derandomize=True, deadline=None)
settings.load_profile("planish")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--accept", action="store_true", help="write what golden cases give into their files; then read the diff"
    )


@pytest.fixture
def accept(request: pytest.FixtureRequest) -> bool:
    """Whether golden files are to be rewritten."""
    return bool(request.config.getoption("--accept"))
