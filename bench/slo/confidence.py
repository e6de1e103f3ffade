"""How many requests must be on time before "p99 is within the objective" may be said.

The rule is that of MLPerf's server scenario (mlcommons/inference, ``loadgen/early_stopping.cc``, with its settings
tolerance 0 and confidence 0.99), derived: call a request *missed* unless it is answered OK within the objective. "The
99th percentile is within the objective" says that the probability q of a miss is at most 0.01. Were q greater, so few
as t misses among n requests would come with a probability below

    P(X <= t),  X binomial (n, 0.01),

since that falls as q grows. If it is at most 1 - confidence, the rate has *passed*: either the claim holds, or
something rare has happened. Without any miss, 459 requests are needed for 99 %. MLPerf writes the same sum as a
regularised incomplete beta function. Likewise a rate has *failed* if P(X >= t) is as small. In between it is
*undecided* and needs more requests. Requests of one run are taken to be independent, as in MLPerf. They are not quite,
since neighbours share a queue; so runs should be long compared with the objective.
"""

from __future__ import annotations

import enum
import math


class Verdict(enum.Enum):
    """What a count of misses says."""

    PASSED = "passed"
    FAILED = "failed"
    UNDECIDED = "undecided"


def at_most(misses: int, requests: int, probability: float) -> float:
    """Return the probability of at most ``misses`` misses among ``requests``.

    >>> round(at_most(1, 2, 0.5), 6)
    0.75
    """
    if misses >= requests:
        return 1.0
    if misses < 0:
        return 0.0
    # The shorter tail from its greatest term outwards: terms fall at least geometrically, so few are needed.
    mean = requests * probability
    if misses <= mean:
        return _tail(misses, requests, probability, step=-1)
    return 1.0 - _tail(misses + 1, requests, probability, step=1)


def at_least(misses: int, requests: int, probability: float) -> float:
    """Return the probability of at least ``misses`` misses among ``requests``."""
    return 1.0 - at_most(misses - 1, requests, probability)


def judge(misses: int, requests: int, *, allowed: float, doubt: float) -> Verdict:
    """Judge whether the probability of a miss is at most ``allowed``; wrong with probability ``doubt`` at most.

    Args:
        misses: Requests that were not answered OK within the objective.
        requests: All of them.
        allowed: 0.01 for the 99th percentile.
        doubt: 1 - confidence, for either error.
    """
    if at_most(misses, requests, allowed) <= doubt:
        return Verdict.PASSED
    if at_least(misses, requests, allowed) <= doubt:
        return Verdict.FAILED
    return Verdict.UNDECIDED


def least_requests(allowed: float, doubt: float, misses: int = 0) -> int:
    """Return the fewest requests with which ``misses`` misses pass.

    >>> least_requests(allowed=0.01, doubt=0.01)
    459
    """
    low, high = misses, misses + 1
    while at_most(misses, high, allowed) > doubt:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if at_most(misses, middle, allowed) <= doubt else (middle, high)
    return high


def _tail(first: int, requests: int, probability: float, step: int) -> float:
    """Add up the terms of the binomial distribution from one on, away from the mean."""
    odds = probability / (1 - probability)
    term = math.exp(
        math.lgamma(requests + 1)
        - math.lgamma(first + 1)
        - math.lgamma(requests - first + 1)
        + first * math.log(probability)
        + (requests - first) * math.log1p(-probability)
    )
    total, count = 0.0, first
    while term > total * 1e-15 and 0 <= count <= requests:
        total += term
        if step < 0:
            term *= count / (requests - count + 1) / odds
        else:
            term *= (requests - count) / (count + 1) * odds
        count += step
    return min(total, 1.0)
