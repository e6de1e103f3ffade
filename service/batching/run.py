"""What batching asks of a backend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np


class Run(Protocol):
    """The backend. ``overrides`` are optional inputs by name."""

    def __call__(
        self, inputs: Sequence[np.ndarray], overrides: Mapping[str, np.ndarray] | None = None, /
    ) -> list[np.ndarray]:
        """Compute one batch. Raises a ServingError, or anything else, if that fails."""
        ...
