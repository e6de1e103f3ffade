"""Settings for all tests: property tests are repeatable and never fail for a busy machine; no proxy is asked.

Processes that tests start keep the bytecode of what they import: to compile it is half of a server's start.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

settings.register_profile("convserve", deadline=None, derandomize=True)
settings.load_profile("convserve")

for name in [name for name in os.environ if name.lower() in {"http_proxy", "https_proxy", "grpc_proxy", "all_proxy"}]:
    del os.environ[name]  # what the tests call is here, and gRPC would ask a proxy even for 127.0.0.1


os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


@pytest.fixture
def without_garbage_collection() -> Iterator[None]:
    """What is kept alive by nothing but itself stays, to be seen."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()
