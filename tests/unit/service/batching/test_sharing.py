"""Sharing in front of a batcher that the test drives: it holds what it is offered until told what becomes of it."""

from __future__ import annotations

import math
import threading
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from service.batching.admission import BatcherLimits
from service.batching.keeping import cached_facts
from service.batching.request import BatchFacts, PendingRequest
from service.batching.response_cache import ResponseCache
from service.batching.sharing import SharedAnswers
from service.errors import (
    BackendFailed,
    DeadlineExceeded,
    DeadlineUnmeetable,
    QueueFull,
    RequestCancelled,
    ServingError,
)
from tests.fakes import (
    GUARD_SECONDS,
    FakeBackend,
    FakeClock,
    RecordingObserver,
    RecordingReply,
    TickingClock,
    Told,
    got_own_rows,
    make_request,
    number_batcher,
    per_row,
    reply_of,
)

FACTS = BatchFacts(1, 1, 0.0, 0, "idle", 0.0, 0.0, 0.0)
LATER = math.inf
OTHERS = [(120.0, 100.2), (110.0, 100.5), (130.0, 100.1), (130.0, 100.3)]  # deadlines and arrivals


class HeldBatcher:
    """Queues up to a bound; keeps to a batcher's contract."""

    def __init__(self, bound: int = 1000) -> None:
        self.queue: list[PendingRequest] = []
        self.reserved = 0
        self.runs = 0
        self.left = 0
        self._bound = bound

    def offer(self, request: PendingRequest, inline: bool = False, anew: bool = False) -> None:
        assert not inline, "others may want its answer"
        if request.cancelled:
            raise RequestCancelled("left")
        if len(self.queue) >= self._bound:
            raise QueueFull("full", retry_after_seconds=1.0)
        self.queue.append(request)

    def submit(self, request: PendingRequest, inline: bool = False) -> None:
        assert not inline, "others may want its answer"
        self.reserved -= 1
        self.offer(request)

    def release(self) -> None:
        self.reserved -= 1

    def cancel(self, request: PendingRequest) -> None:
        request.cancelled = True
        if request in self.queue:
            self.queue.remove(request)
            self.left += request.refuse(RequestCancelled("left"))

    def run(self, place: int = 0) -> None:
        request = self.queue.pop(place)
        self.runs += 1
        request.answer(per_row(request.inputs), FACTS)

    def refuse(self, error: ServingError, place: int = 0) -> None:
        self.queue.pop(place).refuse(error)


class Stage:
    def __init__(
        self,
        cache_bytes: int = 0,
        *,
        merges: bool = False,
        bound: int = 1000,
        most_joined: int = 1000,
        clock: FakeClock | None = None,
    ) -> None:
        self.clock = clock or FakeClock()
        self.batcher = HeldBatcher(bound)
        self.told = Told()
        self.cache = ResponseCache(cache_bytes).shelf() if cache_bytes else None
        self.shared = SharedAnswers(
            self.batcher,
            identity="m 1",
            names=["numbers"],
            metrics=self.told,
            cache=self.cache,
            merges=merges,
            most_joined=most_joined,
            clock=self.clock,
        )

    def ask(self, value: float = 1.0, deadline: float = LATER, handicap: float = 0.0) -> PendingRequest:
        request = make_request(value, deadline=deadline, arrival=self.clock(), handicap=handicap)
        request.reply = self.reply = RecordingReply()
        self.shared.offer(request)
        return request


def status(request: PendingRequest) -> str:
    return reply_of(request).status


def test_who_comes_later_gets_the_kept_answer_at_once() -> None:
    stage = Stage(10_000)
    first = stage.ask()
    reply = stage.reply
    stage.batcher.run()
    second = stage.ask()
    assert stage.batcher.queue == []
    assert got_own_rows(second)
    assert [a.tobytes() for a in reply.answers[0]] == [a.tobytes() for a in reply_of(second).answers[0]]
    assert reply_of(second).facts == [cached_facts(1, stage.clock.now)]
    assert stage.told.counts == {"hit": 1, "miss": 1, "evicted": 0}
    assert first.rows == 1


@pytest.mark.parametrize("merges", [False, True])
def test_looking_and_keeping_are_timed(merges: bool) -> None:
    stage = Stage(10_000, merges=merges, clock=TickingClock())
    stage.ask()
    stage.batcher.run()
    assert stage.told.seconds == [0.25 + 0.25], "a miss: to look for it and to keep it, not the run"
    stage.ask()
    assert stage.told.seconds == [0.5, 0.25]


def test_a_hit_needs_no_place() -> None:
    stage = Stage(10_000, bound=1)
    stage.ask()
    stage.batcher.run()
    stage.ask(2.0)  # the queue is full now
    assert got_own_rows(stage.ask())


def test_a_hit_whose_deadline_has_passed_or_whose_caller_left_is_refused() -> None:
    stage = Stage(10_000)
    stage.ask()
    stage.batcher.run()
    with pytest.raises(DeadlineExceeded):
        stage.ask(deadline=stage.clock())
    gone = make_request(1.0)
    stage.shared.cancel(gone)
    with pytest.raises(RequestCancelled):
        stage.shared.offer(gone)
    assert reply_of(gone).times_settled == 0  # whoever offered it answers
    assert stage.told.counts["hit"] == 0
    assert stage.told.counts[DeadlineExceeded.reason.lower()] == 1
    assert stage.told.counts[RequestCancelled.reason.lower()] == 1


@pytest.mark.parametrize("merges", [False, True])
def test_who_left_while_it_was_prepared_joins_nobody_and_gives_its_place_back(merges: bool) -> None:
    stage = Stage(10_000, merges=merges)
    stage.ask()
    stage.batcher.reserved = 1
    gone = make_request(1.0)
    stage.shared.cancel(gone)
    with pytest.raises(RequestCancelled):
        stage.shared.submit(gone)
    assert stage.batcher.reserved == 0
    assert stage.shared.joined == 0
    assert reply_of(gone).times_settled == 0  # whoever submitted it answers


def test_a_failure_is_not_kept() -> None:
    stage = Stage(10_000)
    stage.ask()
    stage.batcher.refuse(BackendFailed("no"))
    stage.ask()
    assert len(stage.batcher.queue) == 1


def test_who_leaves_the_queue_is_refused_and_nothing_is_kept() -> None:
    stage = Stage(10_000)
    request = stage.ask()
    stage.shared.cancel(request)
    assert stage.reply.status == "CANCELLED"
    assert stage.cache is not None
    assert len(stage.cache.keys) == 0


def test_optional_inputs_are_not_shared() -> None:
    stage = Stage(10_000, merges=True)
    for _ in range(2):
        stage.shared.offer(make_request(1.0, overrides={"gain": np.ones(1)}))
    assert len(stage.batcher.queue) == 2


def test_identical_requests_in_flight_run_once() -> None:
    stage = Stage(merges=True)
    requests = [stage.ask() for _ in range(5)]
    other = stage.ask(2.0)
    assert len(stage.batcher.queue) == 2
    stage.batcher.run()
    assert [status(request) for request in requests] == ["OK"] * 5
    assert all(map(got_own_rows, requests))
    assert reply_of(other).times_settled == 0
    assert stage.told.counts["merged"] == 4
    stage.ask()  # what has landed is joined no more
    assert len(stage.batcher.queue) == 2


def test_without_merging_identical_requests_in_flight_run_each() -> None:
    stage = Stage(10_000)
    replies = [stage.reply for _ in range(2) if stage.ask()]
    assert len(stage.batcher.queue) == 2
    stage.batcher.run()
    assert [reply.times_settled for reply in replies] == [1, 0]
    stage.batcher.run()
    assert [reply.status for reply in replies] == ["OK", "OK"]


def test_the_first_may_leave_and_the_others_are_answered() -> None:
    stage = Stage(merges=True)
    first, second, third = (stage.ask() for _ in range(3))
    stage.shared.cancel(first)
    assert status(first) == "CANCELLED"
    stage.shared.cancel(second)
    stage.batcher.run()
    assert status(third) == "OK"
    assert stage.told.counts["cancelled merged"] == 2


def test_who_is_settled_before_did_not_leave() -> None:
    stage = Stage(merges=True)
    requests = [stage.ask() for _ in range(2)]
    (carrier,) = stage.batcher.queue
    for request in requests:
        request.refuse(BackendFailed("another part of its call failed"))
        stage.shared.cancel(request)
    assert stage.batcher.queue == []
    assert [status(request) for request in requests] == ["INTERNAL"] * 2
    assert not carrier.refuse(BackendFailed("the batcher counts who is not settled yet"))
    assert "cancelled merged" not in stage.told.counts


def test_the_last_one_who_leaves_is_counted_as_one_who_left_unless_it_was_settled_before() -> None:
    for settled_before in (False, True):
        stage = Stage(merges=True)
        request = stage.ask()
        if settled_before:
            request.refuse(BackendFailed("no"))
        stage.shared.cancel(request)
        assert stage.batcher.queue == []
        assert stage.batcher.left == (not settled_before)


def test_nobody_joins_a_run_that_was_withdrawn() -> None:
    stage = Stage(merges=True)
    first = stage.ask()
    running = stage.batcher.queue.pop()
    stage.shared.cancel(first)
    second = stage.ask()
    running.refuse(RequestCancelled("left"))
    stage.batcher.run()
    assert (status(first), status(second)) == ("CANCELLED", "OK")


def test_who_leaves_makes_room_for_another_to_join() -> None:
    stage = Stage(merges=True, most_joined=1)
    stage.ask()
    stage.shared.cancel(stage.ask())
    assert stage.shared.joined == 0
    third = stage.ask()
    assert len(stage.batcher.queue) == 1
    stage.batcher.run()
    assert status(third) == "OK"
    assert stage.shared.joined == 0


def test_with_the_last_one_the_run_is_withdrawn() -> None:
    stage = Stage(merges=True)
    requests = [stage.ask() for _ in range(3)]
    for request in requests:
        stage.shared.cancel(request)
        stage.shared.cancel(request)
    assert stage.batcher.queue == []
    assert [status(request) for request in requests] == ["CANCELLED"] * 3
    stage.ask()
    assert len(stage.batcher.queue) == 1


@pytest.mark.parametrize("error", [DeadlineExceeded("late"), DeadlineUnmeetable("late", retry_after_seconds=1.0)])
def test_the_first_ones_deadline_does_not_harm_those_with_a_later_one(error: ServingError) -> None:
    stage = Stage(merges=True)
    first, same = stage.ask(deadline=101.0), stage.ask(deadline=101.0)
    later, patient = stage.ask(deadline=102.0), stage.ask()
    assert len(stage.batcher.queue) == 1
    stage.batcher.refuse(error)
    assert [status(request) for request in (first, same)] == [error.status] * 2
    (carrier,) = stage.batcher.queue
    assert (carrier.deadline, carrier.turn) == (102.0, later.turn)
    stage.batcher.run()
    assert [status(request) for request in (later, patient)] == ["OK"] * 2


def test_an_earlier_deadline_or_a_higher_priority_is_not_kept_waiting() -> None:
    stage = Stage(merges=True)
    stage.ask(deadline=110.0, handicap=2.0)
    stage.ask(deadline=105.0, handicap=2.0)
    stage.ask(deadline=110.0, handicap=0.0)
    assert [(request.deadline, request.handicap) for request in stage.batcher.queue] == [
        (110.0, 2.0),
        (105.0, 2.0),
        (110.0, 0.0),
    ]


def test_a_failure_of_the_run_is_everybodys() -> None:
    stage = Stage(merges=True)
    requests = [stage.ask() for _ in range(3)]
    stage.batcher.refuse(BackendFailed("no"))
    assert [status(request) for request in requests] == ["INTERNAL"] * 3


def test_a_refusal_at_the_door_is_the_callers_alone() -> None:
    stage = Stage(merges=True, bound=1)
    stage.ask(2.0)
    with pytest.raises(QueueFull):
        stage.ask()
    stage.batcher.run()
    stage.ask()
    assert len(stage.batcher.queue) == 1


def test_a_run_that_ends_before_it_is_known_is_joined_by_nobody() -> None:
    stage = Stage(merges=True)
    offer = stage.batcher.offer

    def at_once(request: PendingRequest) -> None:
        offer(request)
        stage.batcher.run()

    stage.batcher.offer = at_once  # type: ignore[method-assign]
    stage.shared = SharedAnswers(
        stage.batcher, identity="m 1", names=["numbers"], metrics=stage.told, merges=True, clock=stage.clock
    )
    assert got_own_rows(stage.ask())
    assert got_own_rows(stage.ask())
    assert stage.batcher.runs == 2


def test_who_joins_is_settled_once_though_the_deadline_passes_meanwhile() -> None:
    stage = Stage(merges=True)
    stage.ask(deadline=101.0)
    request = make_request(1.0, deadline=102.0, arrival=100.0)
    looks = iter([101.5, 101.5])
    stage.shared._clock = lambda: next(looks, 103.0)
    try:
        stage.shared.offer(request)
    except ServingError as error:
        reply_of(request).refuse(error)  # as a door does
    stage.batcher.run()
    assert reply_of(request).times_settled == 1


@pytest.mark.parametrize(
    ("assemble", "infer", "left"), [(1.0, 8.0, (0.0, 5.0)), (6.0, 2.0, (2.0, 2.0)), (1.0, 2.0, (0.0, 0.0))]
)
def test_who_joins_a_run_that_has_begun_is_told_of_no_wait_and_of_what_was_left_of_it(
    assemble: float, infer: float, left: tuple[float, float]
) -> None:
    stage = Stage(merges=True)
    first = stage.ask()
    stage.clock.advance(5.0)
    joined = stage.ask()
    run = replace(FACTS, released=101.0, assemble_seconds=assemble, infer_seconds=infer)
    stage.batcher.queue.pop().answer(per_row(first.inputs), run)
    assert reply_of(first).facts == [run]
    (told,) = reply_of(joined).facts
    assert told.released == joined.queued == 105.0
    assert (told.assemble_seconds, told.infer_seconds) == left


def test_past_the_bound_requests_run_or_are_refused_for_themselves() -> None:
    stage = Stage(merges=True, bound=2, most_joined=3)
    for _ in range(5):
        stage.ask()
    assert (stage.shared.joined, len(stage.batcher.queue)) == (3, 2)
    with pytest.raises(QueueFull):
        stage.ask()
    stage.batcher.run()
    stage.batcher.run()
    assert stage.shared.joined == 0


class Machine(RuleBasedStateMachine):
    """Any order of arrivals, departures, runs and failures."""

    @initialize(cache=st.sampled_from([0, 1200, 10_000]), merges=st.booleans(), bound=st.integers(1, 6))
    def build(self, cache: int, merges: bool, bound: int) -> None:
        self.stage = Stage(cache, merges=merges, bound=bound, most_joined=3)
        self.requests: list[tuple[PendingRequest, RecordingReply]] = []
        self.left: set[int] = set()

    @rule(
        value=st.integers(1, 3),
        patience=st.sampled_from([0.0, 1.0, 2.0, 5.0, LATER]),
        handicap=st.sampled_from([0.0, 1.0]),
        reserves=st.booleans(),
    )
    def arrive(self, value: int, patience: float, handicap: float, reserves: bool) -> None:
        now = self.stage.clock()
        request = make_request(float(value), deadline=now + patience, arrival=now, handicap=handicap)
        reply = reply_of(request)
        try:
            if reserves:
                self.stage.batcher.reserved += 1
                self.stage.shared.submit(request)
            else:
                self.stage.shared.offer(request)
        except ServingError as error:
            reply.refuse(error)
        self.requests.append((request, reply))

    @rule(place=st.integers(0, 1000))
    def leave(self, place: int) -> None:
        if self.requests:
            place %= len(self.requests)
            self.left.add(place)
            self.stage.shared.cancel(self.requests[place][0])

    @rule(place=st.integers(0, 1000))
    def run(self, place: int) -> None:
        if self.stage.batcher.queue:
            self.stage.batcher.run(place % len(self.stage.batcher.queue))

    @rule(seconds=st.floats(0.1, 3.0))
    def wait(self, seconds: float) -> None:
        self.stage.clock.advance(seconds)
        for request in list(self.stage.batcher.queue):
            if request.deadline <= self.stage.clock() and request in self.stage.batcher.queue:
                self.stage.batcher.refuse(DeadlineExceeded("late"), self.stage.batcher.queue.index(request))

    @rule()
    def fail(self) -> None:
        if self.stage.batcher.queue:
            self.stage.batcher.refuse(BackendFailed("no"))

    @invariant()
    def nobody_is_settled_twice_or_wrongly(self) -> None:
        if not hasattr(self, "stage"):
            return
        assert self.stage.batcher.reserved == 0
        assert 0 <= self.stage.shared.joined <= 3
        for place, (request, reply) in enumerate(self.requests):
            assert reply.times_settled <= 1
            if place in self.left:
                assert reply.times_settled == 1
            if reply.answers:
                (outputs,) = reply.answers
                for got, want in zip(outputs, per_row(request.inputs), strict=True):
                    assert got.tobytes() == want.tobytes()
            if any(error.status == "CANCELLED" for error in reply.errors):
                assert place in self.left
            if any(error.status == "DEADLINE_EXCEEDED" for error in reply.errors):
                assert request.deadline <= self.stage.clock()

    def teardown(self) -> None:
        if not hasattr(self, "stage"):
            return
        while self.stage.batcher.queue:
            self.stage.batcher.run()
        for _, reply in self.requests:
            assert reply.times_settled == 1
        assert self.stage.shared.joined == 0


Machine.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
TestAnyOrder = Machine.TestCase


@given(st.lists(st.tuples(st.floats(100.5, 110.0), st.floats(0, 3)), min_size=1, max_size=10))
def test_nobody_waits_for_a_later_deadline_or_turn_than_its_own(members: list[tuple[float, float]]) -> None:
    stage = Stage(merges=True)
    requests = [stage.ask(deadline=deadline, handicap=handicap) for deadline, handicap in members]
    carriers = list(stage.batcher.queue)
    for request in requests:
        assert any(c.deadline <= request.deadline and c.turn <= request.turn for c in carriers)
    assert len(carriers) + stage.told.counts["merged"] == len(requests)


class TestWhoseRunIsRefusedForAnEarlierDeadline:
    """In front of a real batcher, whose only instance is busy: whoever joined was admitted, and keeps its place."""

    @pytest.fixture
    def backend(self) -> FakeBackend:
        return FakeBackend(open_gate=False)

    def ask(self, backend: FakeBackend, observer: RecordingObserver | None, bound: int) -> None:
        self.clock = FakeClock()
        self.batcher = number_batcher(backend, BatcherLimits(bound, 1), observer=observer, clock=self.clock)
        self.shared = SharedAnswers(
            self.batcher, identity="m", names=["numbers"], metrics=Told(), merges=True, clock=self.clock
        )
        self.batcher.start("m")
        self.running = make_request(1.0)
        self.shared.offer(self.running)
        backend.wait_for_batches(1)
        self.hurried, self.patient = make_request(2.0, deadline=101.0), make_request(2.0)
        self.shared.offer(self.hurried)
        self.shared.offer(self.patient)
        assert (self.batcher.queued, self.shared.joined) == (1, 1)

    def test_is_answered_though_another_comes_for_the_last_place(self, backend: FakeBackend) -> None:
        told: list[str] = []

        class Greedy(RecordingObserver):
            """Another caller, just when the run that is late has left the queue and nobody was told."""

            def rejected(_, reason: str, count: int = 1) -> None:
                if reason == "deadline_exceeded":
                    try:
                        self.shared.offer(make_request(3.0))
                    except ServingError as error:
                        told.append(error.reason)

        self.ask(backend, Greedy(), 1)
        self.clock.advance(2.0)
        backend.open()
        assert [reply_of(request).wait() for request in (self.hurried, self.patient)] == ["DEADLINE_EXCEEDED", "OK"]
        assert got_own_rows(self.patient)
        assert told == ["QUEUE_FULL"]
        self.batcher.close(GUARD_SECONDS)
        assert (self.batcher.queued, self.batcher._reserved, self.batcher._leaving, self.shared.joined) == (0, 0, 0, 0)

    def test_needs_no_other_place_for_a_later_deadline_or_an_earlier_turn(self, backend: FakeBackend) -> None:
        self.ask(backend, None, 1)
        others = [make_request(2.0, deadline=deadline, arrival=arrival) for deadline, arrival in OTHERS]
        for other in others:
            self.shared.offer(other)
        assert self.shared.joined == 1 + len(OTHERS)
        self.clock.advance(2.0)
        backend.open()
        assert [reply_of(request).wait() for request in (self.patient, *others)] == ["OK"] * (1 + len(OTHERS))
        assert len(backend.batches) == 2
        self.batcher.close(GUARD_SECONDS)

    def test_is_answered_though_others_are_as_late(self, backend: FakeBackend) -> None:
        """Each of their runs had a place of its own, and the queue is full of them."""
        self.ask(backend, None, 3)
        others = [make_request(value, deadline=deadline) for value in (3.0, 4.0) for deadline in (101.0, LATER)]
        for other in others:
            self.shared.offer(other)
        assert (self.batcher.queued, self.shared.joined) == (3, 3)
        self.clock.advance(2.0)
        backend.open()
        found = [reply_of(request).wait() for request in (self.hurried, self.patient, *others)]
        assert found == ["DEADLINE_EXCEEDED", "OK"] * 3
        self.batcher.close(GUARD_SECONDS)

    def test_is_answered_though_the_batcher_closes(self, backend: FakeBackend) -> None:
        self.ask(backend, None, 2)
        closer = threading.Thread(target=self.batcher.close)
        closer.start()
        with self.batcher._lock:
            assert self.batcher._work.wait_for(lambda: self.batcher._closing, GUARD_SECONDS)
        self.clock.advance(2.0)
        backend.open()
        assert [reply_of(request).wait() for request in (self.hurried, self.patient)] == ["DEADLINE_EXCEEDED", "OK"]
        closer.join(GUARD_SECONDS)
        assert not closer.is_alive()


def test_in_front_of_a_real_batcher_everybody_is_answered_once_whoever_leaves() -> None:
    backend = FakeBackend()
    batcher = number_batcher(backend, BatcherLimits(10_000, 2))
    batcher.start("m")
    shared = SharedAnswers(
        batcher, identity="m", names=["numbers"], metrics=Told(), cache=ResponseCache(3000).shelf(), merges=True
    )
    asked: list[list[tuple[PendingRequest, bool]]] = [[] for _ in range(4)]

    def ask(mine: list[tuple[PendingRequest, bool]]) -> None:
        for number in range(300):
            request = make_request(float(number % 7))
            shared.offer(request)
            leaves = number % 3 == 0
            if leaves:
                shared.cancel(request)
            mine.append((request, leaves))

    callers = [threading.Thread(target=ask, args=(mine,)) for mine in asked]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(GUARD_SECONDS)
    batcher.close(GUARD_SECONDS)
    for request, leaves in (pair for mine in asked for pair in mine):
        assert reply_of(request).times_settled == 1
        assert leaves or got_own_rows(request)
