"""Shared answers in front of a real batcher: whoever was let in is answered, whatever becomes of the run it joined.

The instances' threads are stood in for by steps, as in ``test_batcher_properties``.
"""

from __future__ import annotations

import math
from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from service.batching.batcher import BatcherLimits
from service.batching.instance import Batch
from service.batching.request import PendingRequest
from service.batching.response_cache import ResponseCache
from service.batching.sharing import SharedAnswers
from service.errors import ServingError
from tests.fakes import (
    FakeBackend,
    FakeClock,
    Told,
    got_own_rows,
    make_request,
    number_batcher,
    reply_of,
)

INSTANCES = 1
ALIKE = st.lists(st.sampled_from([0.003, 0.006, 0.01, 0.02, math.inf, math.inf]), min_size=1, max_size=4)


class SharingMachine(RuleBasedStateMachine):
    """Few places, three different requests of one row, deadlines of one to many batches, two levels of priority."""

    @initialize(bound=st.integers(1, 3), cache=st.booleans())
    def build(self, bound: int, cache: bool) -> None:
        self.bound = bound
        self.clock, self.backend = FakeClock(), FakeBackend()
        limits = BatcherLimits(bound, INSTANCES, prompt=False)
        self.batcher = number_batcher(self.backend, limits, max_batch_size=1, clock=self.clock)
        shelf = ResponseCache(3000).shelf() if cache else None
        self.shared = SharedAnswers(
            self.batcher,
            identity="m",
            names=["numbers"],
            metrics=Told(),
            cache=shelf,
            merges=True,
            clock=self.clock,
        )
        self.instances = [self.batcher._new_instance(number) for number in range(INSTANCES)]
        self.running: dict[int, Batch] = {}
        self.let_in: list[PendingRequest] = []
        self.left: set[PendingRequest] = set()
        self.closing = False

    @rule(value=st.integers(1, 3), alike=ALIKE, handicap=st.sampled_from([0.0, 0.002]), reserves=st.booleans())
    def arrive(self, value: int, alike: list[float], handicap: float, reserves: bool) -> None:
        for patience in alike:
            self.arrive_one(value, patience, handicap, reserves)

    def arrive_one(self, value: int, patience: float, handicap: float, reserves: bool) -> None:
        now = self.clock.now
        request = make_request(float(value), deadline=now + patience, arrival=now, handicap=handicap)
        try:
            if reserves:
                self.batcher.reserve()
                self.shared.submit(request)
            else:
                self.shared.offer(request)
        except ServingError:
            assert reply_of(request).times_settled == 0
        else:
            self.let_in.append(request)

    @rule(seconds=st.floats(0.001, 0.01))
    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @precondition(lambda self: self.let_in)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(self.let_in))
        if not reply_of(request).times_settled:
            self.left.add(request)
        self.shared.cancel(request)

    @rule(number=st.integers(0, INSTANCES - 1))
    def begin(self, number: int) -> None:
        if number in self.running or not self.batcher.queued:
            return
        with self.batcher._lock:
            batch = self.batcher._next_release(number)
        assert batch is not None
        self.batcher._refuse_late(batch.release)
        if batch.release.requests:
            self.running[number] = batch

    @rule(number=st.integers(0, INSTANCES - 1))
    def end(self, number: int) -> None:
        if (batch := self.running.pop(number, None)) is not None:
            self.instances[number].run(batch)
            with self.batcher._lock:
                self.batcher._end_batch(number)

    @precondition(lambda self: len(self.let_in) > 8)
    @rule()
    def begin_to_close(self) -> None:
        self.batcher._closing = self.closing = True

    @invariant()
    def no_more_wait_than_may(self) -> None:
        assert self.batcher.queued + self.batcher._reserved <= self.bound
        assert self.batcher.running == len(self.running)
        assert all(reply_of(request).times_settled <= 1 for request in self.let_in)

    def teardown(self) -> None:
        if not hasattr(self, "batcher"):
            return
        self.begin_to_close()
        self.clock.advance(0.015)  # the runs of those in a hurry are late by then, others are not
        while self.running or self.batcher.queued:
            for number in range(INSTANCES):
                self.begin(number)
                self.end(number)
        assert (self.batcher._reserved, self.batcher._leaving, self.shared.joined) == (0, 0, 0)
        assert not self.shared._members
        assert not self.shared._flights
        told = Counter(self.told(request) for request in self.let_in)
        assert told["CANCELLED"] == len(self.left)

    def told(self, request: PendingRequest) -> str:
        """See that a request that was let in ended as it may; return how."""
        status = reply_of(request).status
        if status == "OK":
            assert got_own_rows(request)
        elif status == "CANCELLED":
            assert request in self.left
        else:
            error = reply_of(request).errors[0]
            assert error.reason in ("DEADLINE_EXCEEDED", "DEADLINE_UNMEETABLE")
            assert request.deadline < math.inf
        return status


TestSharingMachine = SharingMachine.TestCase
TestSharingMachine.settings = settings(max_examples=50, stateful_step_count=25, deadline=None)
