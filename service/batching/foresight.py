"""How much longer than predicted a wait is taken to be at the door. Pure: it is told what became of requests."""

from __future__ import annotations

_GIVEN_UP = 0.006  # of those who are not answered, the share that may have been let in: 99 % are told at once
_BATCH_STEP = 0.3  # for as many as a batch has: they go wrong together
_LEAST = 0.7  # predictions are bounds, so most waits are shorter
_MOST = 2.0  # a pause of the machine says nothing of the next batch


class Foresight:
    """The factor on predicted waits by which almost all who are not answered are refused at once, and no larger.

    The prediction knows what batches cost. It does not know what else the cores do (the intake of those who are
    refused, other models, a noisy neighbour), nor what the replies of one batch take from the next. How far off it is
    matters where a deadline is near only, so that is what is looked at, in the manner of Robbins and Monro (1951): the
    factor rises with each request that was let in and is not answered in time, and falls so much less with each that
    was refused at the door that it stands still where the first are the share of all that they may be.

    A whole batch of the ones, or 170 times as many of the others, move it by 0.3. Not thread-safe: driven under the
    batcher's lock.
    """

    def __init__(self, batch_size: int) -> None:
        """Trust the predictions.

        Args:
            batch_size: Of how many requests a batch may consist.
        """
        self._step = _BATCH_STEP / batch_size
        self.factor = 1.0
        """What a predicted wait is to be multiplied with; 0.7 to 2."""

    def was_wrong(self, count: int) -> None:
        """Learn of requests that were let in by a prediction and were not answered in time."""
        self.factor = min(self.factor + self._step * count, _MOST)

    def refused(self, count: int) -> None:
        """Learn of requests that were refused at the door by a prediction."""
        self.factor = max(self.factor - self._step * _GIVEN_UP * count, _LEAST)
