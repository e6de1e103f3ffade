"""The batcher against a simple model: any sequence of arrivals, departures, batches and failures.

Its instances' threads are stood in for by steps, so that hypothesis chooses every interleaving of
two instances and their callers, and can shrink it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from service.batching.batcher import BatcherLimits
from service.batching.instance import Batch, Instance
from service.batching.lone import LoneRuns
from service.batching.policy import BatchingPolicy
from service.batching.request import PendingRequest
from service.errors import DeadlineExceeded, DeadlineUnmeetable, ModelNotReady, QueueFull
from tests.fakes import (
    FakeBackend,
    FakeClock,
    RaisingReply,
    RecordingObserver,
    RecordingReply,
    got_own_rows,
    linear_cost,
    make_request,
    number_batcher,
    number_buffer,
    per_row,
    reply_of,
)

BOUND = 6
INSTANCES = st.integers(0, 1)


class BatcherMachine(RuleBasedStateMachine):
    """Two instances, a queue of six, costs of 2.5 to 6 ms; who has the cores to itself runs in half of that.

    Attributes:
        submitted: Every request that was admitted, in order.
        running: What each instance has taken and not yet run.
        turns: For each request that ran, the number of its batch, in order of release.
    """

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.backend = FakeBackend()
        limits = BatcherLimits(BOUND, 2, runs_inline=True)
        self.batcher = number_batcher(self.backend, limits, cost=linear_cost(groups="ab"), clock=self.clock)
        self.batcher._inline = self.batcher._new_instance(2)
        self.cores_idle = True
        policy = BatchingPolicy(linear_cost(0.001, 0.00025, groups="ab"), 8)
        quicker = {"a": frozenset({1, 2, 4, 8}), "b": frozenset({8})}
        self.batcher.run_alone_by(LoneRuns(2, self.backend, policy, quicker, lambda: self.cores_idle))
        self.instances = [
            Instance(
                number,
                self.backend,
                cost=self.batcher.policy.cost,
                buffer=number_buffer(),
                observer=RecordingObserver(),
                clock=self.clock,
            )
            for number in range(2)
        ]
        self.submitted: list[PendingRequest] = []
        self.cancelled: set[int] = set()
        self.running: dict[int, Batch] = {}
        self.turns: dict[int, int] = {}
        self.releases = 0
        self.reserved = 0
        self.closed = False

    @rule()
    def reserve(self) -> None:
        if self.closed or self.batcher.queued + self.reserved >= BOUND:
            with pytest.raises(ModelNotReady if self.closed else QueueFull):
                self.batcher.reserve()
        else:
            self.batcher.reserve()
            self.reserved += 1

    @precondition(lambda self: self.reserved)
    @rule()
    def release(self) -> None:
        self.batcher.release()
        self.reserved -= 1

    @precondition(lambda self: self.reserved)
    @rule(
        rows=st.integers(1, 8),
        group=st.sampled_from("ab"),
        patience=st.one_of(st.just(float("inf")), st.floats(-0.001, 0.03)),
        reply=st.sampled_from([RecordingReply, RaisingReply]),
        inline=st.booleans(),
    )
    def submit(self, rows: int, group: str, patience: float, reply: type[RecordingReply], inline: bool) -> None:
        first = 10 * len(self.submitted)
        request = make_request(
            *range(first, first + rows),
            group=group,
            deadline=self.clock.now + patience,
            arrival=self.clock.now,
            reply=reply(),
        )
        self.reserved -= 1
        try:
            self.backend.behaviour = per_row
            self.batcher.submit(request, inline)
        except (DeadlineExceeded, DeadlineUnmeetable, ModelNotReady):
            assert self.closed or patience < float("inf")
            assert reply_of(request).times_settled == 0
        else:
            assert not self.closed
            self.submitted.append(request)
            if inline and not self.running and self.batcher.queued == 0:
                assert reply_of(request).status == "OK", "by its own thread"

    @precondition(lambda self: self.submitted)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(self.submitted))
        if reply_of(request).times_settled == 0:
            self.cancelled.add(id(request))
        self.batcher.cancel(request)

    @rule(seconds=st.floats(0.0001, 0.02))
    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule()
    def another_model_comes_or_goes(self) -> None:
        self.cores_idle = not self.cores_idle

    @rule(number=INSTANCES)
    def begin(self, number: int) -> None:
        if number in self.running or not self.batcher.queued:
            return
        with self.batcher._lock:
            batch = self.batcher._next_release(number)
        assert batch is not None
        release = batch.release
        self.batcher._refuse_late(release)
        least_seconds = self.batcher.policy.cost.least_seconds
        for request in release.late:  # the other instance might have taken it
            assert self.clock.now + least_seconds(request.rows, release.group) > request.deadline
        assert all(request.group == release.group for request in release.requests)
        assert sum(request.rows for request in release.requests) <= 8
        if batch.lone is not None:
            assert self.cores_idle
            assert not self.running
            assert not self.batcher.queued
        if release.requests:
            self.running[number] = batch
            self.releases += 1
            self.turns.update((id(request), self.releases) for request in release.requests)

    @rule(number=INSTANCES, outcome=st.sampled_from(["rows", "rows", "error", "too few rows"]))
    def end(self, number: int, outcome: str) -> None:
        if number not in self.running:
            return

        def behave(batch: Sequence[np.ndarray]) -> list[np.ndarray]:
            if outcome == "error":
                raise RuntimeError
            return [output[: None if outcome == "rows" else -1] for output in per_row(batch)]

        self.backend.behaviour = behave
        batch = self.running.pop(number)
        self.instances[number].run(batch)
        for request in batch.release.requests:
            left = id(request) in self.cancelled
            assert reply_of(request).status == ("INTERNAL" if outcome != "rows" else "CANCELLED" if left else "OK")
        with self.batcher._lock:
            self.batcher._end_batch(number)

    @precondition(lambda self: len(self.submitted) > 12)
    @rule()
    def close(self) -> None:
        self.batcher.close(grace_seconds=0.0)
        self.closed = True
        assert self.batcher.queued == 0

    @invariant()
    def nobody_is_settled_twice_and_the_queue_is_bounded(self) -> None:
        assert all(reply_of(request).times_settled <= 1 for request in self.submitted)
        assert self.batcher.queued + self.reserved <= BOUND
        assert self.batcher.running == len(self.running)
        unsettled = sum(reply_of(request).times_settled == 0 for request in self.submitted)
        assert unsettled == self.batcher.queued + sum(len(batch.release.requests) for batch in self.running.values())

    def teardown(self) -> None:
        while self.running or self.batcher.queued:
            for number in range(2):
                self.begin(number)
                self.end(number, "rows")
        for _ in range(self.reserved):
            self.batcher.release()
        assert self.batcher._is_quiet()
        for request in self.submitted:
            assert reply_of(request).status in ("OK", "CANCELLED", "INTERNAL") or self.may_be_refused(request)
            assert not reply_of(request).answers or got_own_rows(request)
        for group in "ab":
            turns = [
                self.turns[id(request)]
                for request in self.submitted
                if request.group == group and request.deadline == float("inf") and id(request) in self.turns
            ]
            assert turns == sorted(turns), "order of arrival, where no deadline intervenes"

    def may_be_refused(self, request: PendingRequest) -> bool:
        status = reply_of(request).status
        if status == "UNAVAILABLE":
            return self.closed
        return status in ("DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED") and request.deadline < float("inf")


TestBatcherMachine = BatcherMachine.TestCase
TestBatcherMachine.settings = settings(max_examples=100, stateful_step_count=60)
