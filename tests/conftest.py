"""Settings for all tests: property tests are repeatable and never fail for a busy machine."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("convserve", deadline=None, derandomize=True)
settings.load_profile("convserve")
