"""How far predicted waits were off of late. Pure: it is told what was predicted and what came."""

from __future__ import annotations

from collections.abc import Iterable

from service.batching.request import PendingRequest

_MEAN_GAIN = 1 / 16
_DEVIATION_GAIN = 1 / 8
_DEVIATIONS = 1.0
_MOST = 4.0  # a pause of the machine says nothing of the next batch


class Foresight:
    """Corrects predictions by a factor: real waits over predicted ones, the mean and a deviation, at least 1.

    The prediction knows what batches cost. It does not know what else the cores do (the intake of those who are
    refused, other models, a noisy neighbour), nor what the replies of one batch take from the next. Smoothed as
    the costs are (Jacobson 1988). Not thread-safe: driven under the batcher's lock.
    """

    def __init__(self) -> None:
        """Trust the predictions."""
        self._mean = 1.0
        self._deviation = 0.0

    @property
    def factor(self) -> float:
        """What a predicted wait is to be multiplied with so that it is seldom exceeded; 1 to 8."""
        return max(1.0, self._mean + _DEVIATIONS * self._deviation)

    def observe(self, requests: Iterable[PendingRequest], instant: float) -> None:
        """Learn from requests that were answered at an instant, or given up since they would be answered later.

        Where none of them was predicted, trust returns: what is refused by the factor cannot correct it.
        """
        ratios = [
            min((instant - request.queued) / (request.expected - request.queued), _MOST)
            for request in requests
            if request.expected > request.queued
        ]
        for ratio in ratios or (1.0,):
            error = ratio - self._mean
            self._deviation += _DEVIATION_GAIN * (abs(error) - self._deviation)
            self._mean += _MEAN_GAIN * error
