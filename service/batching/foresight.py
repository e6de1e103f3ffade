"""How much longer than predicted admission assumes a wait to be. Pure: it takes ``now`` and is told of outcomes."""

from __future__ import annotations

import math

_GIVEN_UP = 0.003  # the share of unanswered requests that may have been admitted
_BATCH_STEP = 0.3  # for as many requests as a batch has: they fail together
_MOST = 2.0
_FORGET_SECONDS = 10.0


class Foresight:
    """The least factor on predicted waits with which almost all unanswered requests are refused at once.

    The prediction knows what batches cost. It does not know what else the cores do (the intake of refused requests,
    other models, a noisy neighbour), nor what the replies of one batch take from the next. Its error matters only
    near a deadline, so that is where the factor learns, in the manner of Robbins and Monro (1951). It rises with each
    request that was admitted and is not answered in time. It falls with each request that was refused at arrival, by
    so much less that it stands still when admitted requests are their permitted share of all unanswered ones.

    A batch of the first kind moves it by 0.3, and so do some 330 times as many of the second; when nothing happens, it
    is forgotten in seconds. It is never less than 1: a request that is predicted to be late is never admitted, and
    impossible deadlines make admission no bolder. Not thread-safe: call it under the batcher's lock.
    """

    def __init__(self, batch_size: int) -> None:
        """Trust the predictions.

        Args:
            batch_size: How many requests a batch may have.
        """
        self._batch_size = batch_size
        self._step = _BATCH_STEP / batch_size
        self.excess = 0.0
        """The factor less 1."""
        self._then = math.inf

    def factor(self, now: float) -> float:
        """Return the factor on a predicted wait, 1 to 2."""
        if self.excess and now > self._then:
            self.excess *= math.exp((self._then - now) / _FORGET_SECONDS)
        self._then = now
        return 1.0 + self.excess

    def was_wrong(self, count: int) -> None:
        """Learn of requests that were admitted by a prediction and not answered in time."""
        # At most a batch: what makes all who wait late says no more than that.
        self.excess = min(self.excess + self._step * min(count, self._batch_size), _MOST - 1.0)

    def refused(self, count: int) -> None:
        """Learn of requests that were refused at arrival by a prediction."""
        self.excess = max(self.excess - self._step * _GIVEN_UP * count, 0.0)

    def back_to(self, excess: float) -> None:
        """Be no more careful than at an earlier ``excess``: what has happened since teaches nothing."""
        self.excess = min(self.excess, excess)
