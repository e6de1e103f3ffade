"""One server, Poisson arrivals, equal time limits: the policy without threads, and what theory says of it.

The exact clairvoyant optimum by dynamic programming, and Inoue's bound (2021) for the mean latency of serving
everything that waits.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle

import numpy as np

from bench.slo.optimum import BatchCosts, most_in_time
from service.batching.admission import Admission, BatcherLimits
from service.batching.occupancy import IDLE
from service.batching.policy import BatchingPolicy, Release
from service.batching.queue import RequestQueue
from service.batching.request import PendingRequest
from tests.fakes import RecordingReply

_ROW = [np.zeros((1, 1))]
_REPLY = RecordingReply()

# Name: l(b) = fixed + per_row * b, time limit, all in seconds, and the largest batch.
PROFILES = {"gpu": (1e-3, 5e-5, 0.01, 100), "mid": (2e-3, 5e-4, 0.02, 32), "cpu": (5e-4, 5e-3, 0.05, 8)}

Choose = Callable[[RequestQueue, float], Release]


@dataclass(frozen=True)
class Outcome:
    """What became of a trace: answers in time, the latency of all that ran, and who was refused late or at the door."""

    in_time: int
    latencies: list[float]
    dropped: int
    refused: int
    in_time_by: Counter[float]
    """By handicap."""


def poisson(rate: float, count: int, seed: int) -> list[float]:
    """Instants of arrival."""
    generator = random.Random(seed)
    now, instants = 0.0, []
    for _ in range(count):
        now += generator.expovariate(rate)
        instants.append(now)
    return instants


def gamma(rate: float, count: int, seed: int, variation: float = 3.0) -> list[float]:
    """Instants of arrival in bursts: gaps are gamma distributed, with that coefficient of variation."""
    generator, shape = random.Random(seed), variation**-2
    now, instants = 0.0, []
    for _ in range(count):
        now += generator.gammavariate(shape, 1 / (rate * shape))
        instants.append(now)
    return instants


def first_come_first_served(max_batch_size: int) -> Choose:
    return lambda queue, _now: Release("g", queue.waiting("g")[:max_batch_size], [], "idle")


def simulate(
    arrivals: Sequence[float],
    limit_seconds: float,
    policy: BatchingPolicy,
    choose: Choose | None = None,
    *,
    prompt: bool = False,
    slower: float = 1.0,
    pause: tuple[float, float] = (math.inf, 0.0),
    handicaps: Sequence[float] = (0.0,),
) -> Outcome:
    """Serve a trace; with ``choose`` nobody is refused at the door and the policy is not asked.

    Every batch takes ``slower`` times what was measured. The one that runs at the first of the instants of ``pause``,
    or the next, goes on at the second. Arrivals have the handicaps in turn.
    """
    queue, busy_until = RequestQueue(), IDLE
    door = Admission(queue, policy, BatcherLimits(len(arrivals), 1, prompt))
    coming = [
        PendingRequest(_ROW, "g", arrival + limit_seconds, arrival, _REPLY, handicap=handicap)
        for arrival, handicap in zip(arrivals, cycle(handicaps), strict=False)
    ][::-1]
    measured = {bucket: policy.cost.seconds(bucket, "g") for bucket in policy.cost.buckets}
    latencies: list[float] = []
    in_time: Counter[float] = Counter()
    dropped = refused = 0
    now = 0.0
    while coming or len(queue):
        if not len(queue):
            busy_until = IDLE if coming[-1].arrival >= now else busy_until
            now = max(now, coming[-1].arrival)
        while coming and coming[-1].arrival <= now:
            request = coming.pop()
            if choose is None and door.refusal(request, [busy_until], request.arrival):
                refused += 1
            else:
                queue.append(request)
        if not len(queue):
            continue
        release = choose(queue, now) if choose else policy.next(queue, 1, now)
        assert isinstance(release, Release)
        queue.take("g", [*release.late, *release.requests])
        dropped += len(release.late)
        door.gave_up(release.late)
        if release.requests:
            rows = len(release.requests)
            seconds = slower * measured[policy.cost.bucket_of(rows)]
            if now + seconds > pause[0]:
                seconds, pause = max(seconds, seconds + pause[1] - max(now, pause[0])), (math.inf, 0.0)
            began, busy_until, now = now, now + policy.cost.seconds(rows, "g"), now + seconds
            policy.cost.observe(rows, "g", seconds)
            door.ended(release, now, began, busy_until)
            latencies += [now - request.arrival for request in release.requests]
            in_time.update(request.handicap for request in release.requests if now <= request.deadline)
    return Outcome(in_time.total(), latencies, dropped, refused, in_time)


def optimum(arrivals: Sequence[float], limit_seconds: float, policy: BatchingPolicy) -> int:
    """The most that anybody could answer in time, who knows the future."""
    sizes = range(1, policy.max_batch_size + 1)
    costs = BatchCosts(tuple(sizes), tuple(policy.cost.seconds(size, "g") for size in sizes))
    return most_in_time(arrivals, limit_seconds, costs)


def mean_latency_bound(rate: float, fixed: float, per_row: float) -> float:
    """Inoue 2021: above the mean latency of serving everything that waits, where rate * per_row < 1."""
    load = rate * per_row
    near_saturation = 1.5 * fixed / (1 - load) + per_row / 2 * (load + 2) / (1 - load**2)
    near_idle = (per_row + fixed) / (2 * (1 - load)) * (1 + 2 * rate * fixed + (1 - rate * fixed) / (1 + load))
    return min(near_saturation, near_idle)
