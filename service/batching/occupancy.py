"""Which instances of a batcher run what, and until when. A plain object; call it under the batcher's lock."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from service.batching.policy import Release

IDLE = -math.inf  # the predicted end where no batch runs
INLINE = -1  # the place of a batch that runs on its caller's thread instead of an instance's


class Occupancy:
    """The running batches: at most as many as there are instances, whoever runs them.

    Attributes:
        idle: Instances without a batch; a batch that runs inline takes an instance's place.
    """

    def __init__(self, instances: int) -> None:
        """Begin with all instances idle."""
        self.instances = self.idle = instances
        self._until = [IDLE] * (instances + 1)
        self._batches: list[tuple[float, Release] | None] = [None] * (instances + 1)

    @property
    def running(self) -> int:
        """How many batches run."""
        return self.instances - self.idle

    def begin(self, place: int, release: Release, now: float, until: float) -> None:
        """Note that a batch begins.

        Args:
            place: The instance's number, or :data:`INLINE`.
            release: The batch.
            now: The present instant.
            until: Its predicted end.
        """
        self._until[place] = until
        self._batches[place] = (now, release)
        self.idle -= 1

    def end(self, place: int) -> tuple[Release, float, float] | None:
        """Note that the batch at a place has ended.

        Returns:
            The batch, when it began and its predicted end; None if none ran there.
        """
        batch, self._batches[place] = self._batches[place], None
        if batch is None:
            return None
        began, release = batch
        until, self._until[place] = self._until[place], IDLE
        self.idle += 1
        return release, began, until

    def busy_until(self) -> Sequence[float]:
        """Return for each instance the predicted end of its batch, which may have passed, or ``IDLE``."""
        *until, inline = self._until
        if inline != IDLE:
            until[until.index(IDLE)] = inline
        return until

    def began_before(self, instant: float) -> bool:
        """Return whether a running batch began before ``instant``."""
        return any(batch is not None and batch[0] < instant for batch in self._batches)

    def releases(self) -> Iterable[Release]:
        """Return the running batches."""
        return [batch[1] for batch in self._batches if batch is not None]
