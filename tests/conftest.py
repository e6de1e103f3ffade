"""Settings for all tests: property tests are repeatable and never fail for a busy machine."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
from hypothesis import settings

settings.register_profile("convserve", deadline=None, derandomize=True)
settings.load_profile("convserve")


@pytest.fixture
def without_garbage_collection() -> Iterator[None]:
    """What is kept alive by nothing but itself stays, to be seen."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()
