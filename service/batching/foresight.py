"""How much longer than predicted a wait is taken to be at the door. Pure: it takes ``now`` and is told what became."""

from __future__ import annotations

import math

_GIVEN_UP = 0.003  # of those who are not answered, the share that may have been let in
_BATCH_STEP = 0.3  # for as many as a batch has: they go wrong together
_MOST = 2.0
_FORGET_SECONDS = 10.0


class Foresight:
    """The factor on predicted waits by which almost all who are not answered are refused at once, and no larger.

    The prediction knows what batches cost. It does not know what else the cores do (the intake of those who are
    refused, other models, a noisy neighbour), nor what the replies of one batch take from the next. How far off it is
    matters where a deadline is near only, so that is what is looked at, in the manner of Robbins and Monro (1951): the
    factor rises with each request that was let in and is not answered in time, and falls so much less with each that
    was refused at the door that it stands still where the first are the share of all that they may be.

    A batch of the ones, or some 330 times as many of the others, move it by 0.3; where nothing happens it is
    forgotten in seconds. Never less than 1, so that nobody is let in who is predicted to be late, and who asks for the
    impossible makes nobody bolder. Not thread-safe: driven under the batcher's lock.
    """

    def __init__(self, batch_size: int) -> None:
        """Trust the predictions.

        Args:
            batch_size: Of how many requests a batch may consist.
        """
        self._batch_size = batch_size
        self._step = _BATCH_STEP / batch_size
        self._excess = 0.0
        self._then = math.inf

    def factor(self, now: float) -> float:
        """Return what a predicted wait is to be multiplied with; 1 to 2."""
        if self._excess and now > self._then:
            self._excess *= math.exp((self._then - now) / _FORGET_SECONDS)
        self._then = now
        return 1.0 + self._excess

    def was_wrong(self, count: int) -> None:
        """Learn at once of requests that were let in by a prediction and were not answered in time."""
        # No more than a batch: a pause of the machine, in which all who wait are late, says nothing of the next one.
        self._excess = min(self._excess + self._step * min(count, self._batch_size), _MOST - 1.0)

    def refused(self, count: int) -> None:
        """Learn of requests that were refused at the door by a prediction."""
        self._excess = max(self._excess - self._step * _GIVEN_UP * count, 0.0)
