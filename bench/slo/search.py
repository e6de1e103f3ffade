"""Finds the greatest rate that a server sustains within the objective, by bisection. Pure: it is told results."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bench.slo.confidence import Verdict, judge, least_requests


@dataclass(frozen=True, slots=True)
class Probe:
    """Send at this rate, and tell the result.

    Attributes:
        rate: Requests per second.
        requests: Send at least so many; fewer cannot decide anything.
    """

    rate: float
    requests: int


@dataclass(frozen=True, slots=True)
class Found:
    """The result of a search.

    Attributes:
        passed: The greatest rate that passed; None if none did.
        failed: The least rate that did not pass; None if all did.
        narrow: Whether the two are as close as was asked for.
        why: Why no lower rate was tried, if none passed and the search was stopped.
    """

    passed: float | None
    failed: float | None
    narrow: bool
    why: str | None = None


class RateSearch:
    """Doubles or halves until the answer is bracketed, then bisects by ratio.

    A rate is looked at until it has passed or failed, at most ``max_looks`` times, with misses added up. A rate that
    is still undecided then has not passed, as in MLPerf. Every look at every rate is a chance to be wrong, so each gets
    only its part of the doubt: with the stated confidence, *no* rate that passed has more misses than allowed.
    """

    def __init__(
        self,
        start_rate: float,
        *,
        allowed: float = 0.01,
        confidence: float = 0.99,
        precision: float = 0.05,
        max_rates: int = 24,
        max_looks: int = 4,
        max_seconds: float = math.inf,
    ) -> None:
        """Prepare.

        Args:
            start_rate: The first rate to try.
            allowed: Greatest share of misses; 0.01 for the 99th percentile.
            confidence: The confidence of the result.
            precision: How far apart the rates that passed and failed may be, as a ratio minus 1.
            max_rates: Most rates to try.
            max_looks: Most looks at each.
            max_seconds: While no rate has passed, do not try one so low that a look takes longer than this.
        """
        self._allowed = allowed
        self._precision = precision
        self._max_rates = max_rates
        self._max_looks = max_looks
        self._max_seconds = max_seconds
        self._doubt = (1 - confidence) / (max_rates * max_looks)
        self._rate = start_rate
        self._rates = 1
        self._look = 1
        self._misses = self._requests = 0
        self._passed: float | None = None
        self._failed: float | None = None
        self._over = False
        self._why: str | None = None

    def next(self) -> Probe | Found:
        """Return what to do next, or the result."""
        if self._over:
            return Found(self._passed, self._failed, self._is_narrow(), self._why)
        return Probe(self._rate, self._wanted())

    def tell(self, requests: int, misses: int) -> Verdict:
        """Take in the result of the last probe; return what is known of its rate now.

        Args:
            requests: How many were sent.
            misses: How many of them were not answered OK within the objective.
        """
        self._requests += requests
        self._misses += misses
        verdict = judge(self._misses, self._requests, allowed=self._allowed, doubt=self._doubt)
        if verdict is Verdict.PASSED:
            self._passed = self._rate
            self._move_on()
        elif verdict is Verdict.FAILED or self._look == self._max_looks:
            self.give_up_rate()
        else:
            self._look += 1
        return verdict

    def give_up_rate(self) -> None:
        """Treat the rate of the last probe as one that did not pass, whatever the counts say."""
        self._failed = self._rate
        self._move_on()

    def stop(self, why: str) -> None:
        """End the search, since no lower rate can pass."""
        self._over, self._why = True, why

    def _wanted(self) -> int:
        """Return how many more requests this look needs in order to pass, if there is no further miss."""
        return max(least_requests(self._allowed, self._doubt, self._misses) - self._requests, 1)

    def _move_on(self) -> None:
        self._look, self._misses, self._requests = 1, 0, 0
        if self._is_narrow() or self._rates == self._max_rates:
            self._over = True
            return
        self._rates += 1
        if self._failed is None:
            self._rate *= 2
        elif self._passed is None:
            self._rate /= 2
            seconds = self._wanted() / self._rate
            if seconds > self._max_seconds:
                self.stop(
                    f"at half that rate, {self._wanted()} requests would take {seconds / 60:.0f} minutes: "
                    "give a lower --start-rate, --percentile or --confidence"
                )
        else:
            self._rate = math.sqrt(self._passed * self._failed)

    def _is_narrow(self) -> bool:
        if self._passed is None or self._failed is None:
            return False
        return self._failed <= self._passed * (1 + self._precision)
