"""What holds for every check of every chapter."""

import time
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def no_check_takes_two_seconds(request: pytest.FixtureRequest) -> Iterator[None]:
    """Of the processor, not of the clock: other tests run at the same time."""
    start = time.process_time()
    yield
    if request.path.name.startswith("test_chapter"):
        assert time.process_time() - start < 2
