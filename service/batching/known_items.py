"""Pictures and sentences that were answered before, recognised by their bytes before anything is decoded."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from service.batching.response_cache import Rows, Shelf, item_key
from service.errors import DeadlineExceeded
from service.model_metrics import ModelMetrics


class KnownItems:
    """The kept outputs of single items of one version. Thread-safe.

    A row does not depend on its neighbours, so an item is known whichever call brought it.
    """

    def __init__(self, identity: str, shelf: Shelf, metrics: ModelMetrics, clock: Callable[[], float]) -> None:
        """Know nothing yet; ``identity`` is model, version and digest of its file, the clock is the batcher's."""
        self._identity = identity
        self._shelf = shelf
        self._metrics = metrics
        self._clock = clock

    def keys_of(self, items: Sequence[bytes | memoryview | str]) -> list[bytes]:
        """Return the keys that items are kept under."""
        return [item_key(self._identity, item) for item in items]

    def find(self, keys: Sequence[bytes], started: float, deadline: float) -> list[Rows] | None:
        """Return all outputs (1, ...) of each of a call's items, at least one; None unless all items are known.

        ``started`` is when digesting the items began.

        Raises:
            DeadlineExceeded: The deadline has passed (DEADLINE_EXCEEDED).
        """
        found: list[Rows] = []
        for key in keys:
            rows = self._shelf.get(key)
            if rows is None:
                return None
            found.append(rows)
        now = self._clock()
        if deadline <= now:
            self._metrics.rejected(DeadlineExceeded.reason.lower())
            raise DeadlineExceeded("the deadline had passed before the items could be answered")
        self._metrics.cache_hit(now - started)
        return found

    def keep(self, keys: Sequence[bytes], calls: int, outputs: Sequence[np.ndarray]) -> None:
        """Keep the outputs of items that ran together; ``calls`` is 1 for one part of a call, 0 for its other parts."""
        started = self._clock()
        evicted = 0
        for row, key in enumerate(keys):
            evicted += self._shelf.put(key, [output[row : row + 1] for output in outputs])
        self._metrics.cache_miss(self._clock() - started, evicted, calls)
