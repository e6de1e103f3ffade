"""What the scheduler itself costs a request while 256 wait: the door, the queue, the choice, what is learnt.

Function calls are exact and guarded; ``python -m tests.unit.service.batching.test_scheduler_cost`` prints the processor
time as well.
"""

from __future__ import annotations

import math
import sys
import time
from typing import Any

import pytest

from service.batching.admission import Admission, BatcherLimits
from service.batching.cost import CostModel, buckets_up_to
from service.batching.policy import BatchingPolicy, Release
from service.batching.queue import RequestQueue
from service.batching.request import PendingRequest
from tests.fakes import make_request

QUEUED, BATCH, CYCLES = 256, 32, 50
ROW_SECONDS = 0.6e-3
# How patient callers are, and whether they are refused at the door by what is expected.
CASES = {
    "all in time": (1.0, True),
    "all in time, late refusals": (1.0, False),
    "some too late, late refusals": (QUEUED * ROW_SECONDS, False),
    "no deadline": (math.inf, True),
}
# Function calls a request, when this was written.
BEFORE = {
    "all in time": 134.25,
    "all in time, late refusals": 108.25,
    "some too late, late refusals": 99.97,
    "no deadline": 12.81,
}


class Scheduler:
    """The parts that a batcher drives under its lock, with one instance that is always busy, and a clock of its own."""

    def __init__(self, patience_seconds: float, prompt: bool) -> None:
        buckets = buckets_up_to(BATCH)
        cost = CostModel(buckets, {"numbers": [[ROW_SECONDS * bucket] * 5 for bucket in buckets]})
        self.policy = BatchingPolicy(cost, BATCH)
        self.queue = RequestQueue()
        self.admission = Admission(self.queue, self.policy, BatcherLimits(2 * QUEUED, 1, prompt))
        self.patience_seconds = patience_seconds
        self.now = 100.0
        for _ in range(QUEUED):
            self.queue.append(make_request(arrival=self.now, deadline=self.now + patience_seconds))

    def requests(self) -> list[PendingRequest]:
        """Make the arrivals of one batch's time; that is not the scheduler's work."""
        return [
            make_request(arrival=self.now, deadline=self.now + self.patience_seconds)
            for _ in range(QUEUED + BATCH - len(self.queue))
        ]

    def cycle(self, arrivals: list[PendingRequest]) -> None:
        """Take these in, choose a batch, let it end."""
        for request in arrivals:
            assert self.admission.refusal(request, [self.now + ROW_SECONDS], self.now) is None
            self.queue.append(request)
        decision = self.policy.next(self.queue, 1, self.now)
        assert isinstance(decision, Release)
        self.queue.take(decision.group, [*decision.late, *decision.requests])
        self.admission.gave_up(decision.late)
        self.now += BATCH * ROW_SECONDS
        self.admission.ended(decision, self.now)
        self.policy.cost.observe(BATCH, decision.group, BATCH * ROW_SECONDS)


@pytest.mark.parametrize("case", CASES)
def test_function_calls_a_request(case: str) -> None:
    found = function_calls(*CASES[case])
    assert found < BEFORE[case] * 1.15, f"{found:.2f} function calls a request, {BEFORE[case]} before"


def function_calls(patience_seconds: float, prompt: bool) -> float:
    """Return the function calls, Python's and C's, a request."""
    scheduler, counted, requests = Scheduler(patience_seconds, prompt), 0, 0

    def saw(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal counted
        counted += event in ("call", "c_call")

    for _ in range(CYCLES):
        arrivals = scheduler.requests()
        requests += len(arrivals)
        sys.setprofile(saw)
        try:
            scheduler.cycle(arrivals)
        finally:
            sys.setprofile(None)
    return counted / requests


def microseconds(patience_seconds: float, prompt: bool) -> float:
    """Return the processor time a request."""
    scheduler, seconds, requests = Scheduler(patience_seconds, prompt), 0.0, 0
    for _ in range(20 * CYCLES):
        arrivals = scheduler.requests()
        requests += len(arrivals)
        before = time.thread_time()
        scheduler.cycle(arrivals)
        seconds += time.thread_time() - before
    return seconds / requests * 1e6


if __name__ == "__main__":
    for name, case in CASES.items():
        print(f"{name}: {microseconds(*case):.1f} us, {function_calls(*case):.2f} function calls a request")
