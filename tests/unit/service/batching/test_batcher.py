"""The batcher with its threads: whatever happens, each request is settled once and with its own rows.

The backend's gate holds a batch where a test wants it; requests submitted before ``start`` wait
until there is a thread. So every test knows which requests share a batch, and none sleeps.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from typing import Any

import numpy as np
import pytest

from service.batching import answering, batcher
from service.batching.assembly import BatchBuffer
from service.batching.batcher import Batcher, BatcherLimits
from service.batching.request import BatchFacts, PendingRequest
from service.errors import (
    BackendFailed,
    DeadlineExceeded,
    DeadlineUnmeetable,
    InvalidInput,
    ModelNotReady,
    QueueFull,
    RequestCancelled,
    ServingError,
)
from tests.fakes import (
    GUARD_SECONDS,
    NUMBERS,
    FakeBackend,
    FakeClock,
    RaisingReply,
    RecordingObserver,
    RecordingReply,
    got_own_rows,
    linear_cost,
    make_request,
    number_batcher,
    per_row,
    reply_of,
    statuses,
)


class Death(BaseException):
    """What no backend may raise."""


class Stage:
    """A batcher among fakes. Its gate is shut at first."""

    def __init__(
        self,
        *,
        instances: int = 1,
        max_queued_requests: int = 100,
        max_queue_delay_seconds: float = 0.0,
        runs_inline: bool = False,
        answers_apart: bool = False,
        scale: float = 1.0,
        **around: Any,
    ) -> None:
        self.clock = FakeClock()
        self.backend = FakeBackend(open_gate=False)
        self.seen = RecordingObserver()
        self.deaths = 0
        self.died = threading.Event()
        self.batcher = number_batcher(
            self.backend,
            BatcherLimits(max_queued_requests, instances, runs_inline=runs_inline, answers_apart=answers_apart),
            cost=linear_cost(0.002 * scale, 0.0005 * scale),
            max_queue_delay_seconds=max_queue_delay_seconds,
            observer=self.seen,
            clock=self.clock,
            on_death=self.on_death,
            **around,
        )

    def on_death(self) -> None:
        self.deaths += 1
        self.batcher.close()
        self.died.set()

    def submit(self, *requests: PendingRequest) -> list[PendingRequest]:
        for request in requests:
            self.batcher.reserve()
            self.batcher.submit(request)
        return list(requests)

    def start(self) -> None:
        self.batcher.start("model")

    def start_busy(self) -> PendingRequest:
        """Start, and let one request occupy the instance until the gate opens."""
        (request,) = self.submit(make_request(1000))
        self.start()
        self.backend.wait_for_batches(1)
        return request

    def finish(self, requests: Sequence[PendingRequest]) -> list[str]:
        """Open the gate; return the statuses, and see that whoever was answered got its own rows."""
        self.backend.open()
        found = statuses(requests)
        assert all(got_own_rows(request) for request in requests if reply_of(request).answers)
        self.batcher.close()
        assert (self.batcher.queued, self.batcher.running, self.batcher._reserved) == (0, 0, 0)
        assert self.batcher._is_quiet()
        return found


@pytest.fixture
def stage() -> Iterator[Stage]:
    stage = Stage()
    yield stage
    stage.backend.open()
    stage.batcher.close()


class TestInline:
    """A request that comes alone runs on the thread that brings it, in an idle instance's place."""

    @pytest.fixture
    def host(self) -> Iterator[Stage]:
        stage = Stage(runs_inline=True)
        stage.batcher.policy.cost.observe(1, "numbers", 0.0025)
        stage.start()
        yield stage
        stage.backend.open()
        stage.batcher.close()

    def offer_aside(self, stage: Stage, request: PendingRequest) -> threading.Thread:
        """Offer it on a thread of its own; return that once the backend has it."""
        thread = threading.Thread(target=stage.batcher.offer, args=(request, True))
        begun = len(stage.backend.batches)
        thread.start()
        stage.backend.wait_for_batches(begun + 1)
        return thread

    @pytest.mark.parametrize("reserves", [False, True])
    def test_is_answered_when_the_call_returns(self, host: Stage, reserves: bool) -> None:
        host.backend.open()
        request = make_request(7)
        if reserves:
            host.batcher.reserve()
            host.batcher.submit(request, True)
        else:
            host.batcher.offer(request, True)
        assert reply_of(request).times_settled == 1, "without waiting"
        assert reply_of(request).facts[0].instance == 1, "one more than there are"
        assert host.finish([request]) == ["OK"]

    def test_the_instance_waits_meanwhile_and_is_woken_after(self, host: Stage) -> None:
        """One instance runs one batch at a time, whoever runs it."""
        first, later = make_request(1), make_request(2)
        thread = self.offer_aside(host, first)
        assert host.batcher.running == 1
        host.batcher.offer(later)
        assert host.batcher.queued == 1
        host.backend.let_one_pass()
        thread.join(GUARD_SECONDS)
        assert reply_of(first).status == "OK"
        host.backend.wait_for_batches(2)
        assert host.finish([first, later]) == ["OK", "OK"]
        assert host.backend.sizes == [1, 1]

    def test_others_are_admitted_by_when_the_inline_run_ends(self, host: Stage) -> None:
        thread = self.offer_aside(host, make_request(1))
        with pytest.raises(DeadlineUnmeetable):
            host.batcher.offer(make_request(2, deadline=host.clock.now + 0.003))
        host.batcher.offer(make_request(3, deadline=host.clock.now + 1.0))
        host.backend.open()
        thread.join(GUARD_SECONDS)

    def test_only_one_at_a_time_and_only_into_an_idle_house(self, host: Stage) -> None:
        thread = self.offer_aside(host, make_request(1))
        second = make_request(2)
        host.batcher.offer(second, True)
        assert reply_of(second).times_settled == 0, "queued"
        host.backend.open()
        thread.join(GUARD_SECONDS)
        assert host.finish([second]) == ["OK"]

    @pytest.mark.parametrize(
        "options", [{"runs_inline": False}, {"scale": 3.0}, {"max_queue_delay_seconds": 5.0}], ids=str
    )
    def test_is_queued_where_it_may_not_run(self, options: dict[str, Any]) -> None:
        stage = Stage(**{"runs_inline": True, **options})
        stage.batcher.policy.cost.observe(1, "numbers", 0.0025 * options.get("scale", 1.0))
        stage.start()
        request = make_request(1)
        stage.batcher.offer(request, True)
        assert reply_of(request).times_settled == 0
        stage.backend.open()
        stage.batcher.close()
        assert reply_of(request).facts[0].instance == 0

    def test_who_does_not_ask_for_it_is_queued(self, host: Stage) -> None:
        requests = [make_request(1), make_request(2)]
        host.batcher.offer(requests[0])
        host.batcher.reserve()
        host.batcher.submit(requests[1])
        assert host.finish(requests) == ["OK", "OK"]
        assert [reply_of(request).facts[0].instance for request in requests] == [0, 0]

    def test_a_shape_that_has_not_run_yet_is_queued(self, host: Stage) -> None:
        request = make_request(1, group="new")
        host.batcher.offer(request, True)
        assert host.finish([request]) == ["OK"]
        assert reply_of(request).facts[0].instance == 0

    def test_a_shape_that_has_run_in_service_is_known(self, host: Stage) -> None:
        host.batcher.policy.cost.observe(1, "new", 0.001)
        host.backend.open()
        request = make_request(1, group="new")
        host.batcher.offer(request, True)
        assert reply_of(request).facts[0].instance == 1

    def test_an_error_of_ours_kills_the_batcher_and_not_the_thread_that_brought_it(self, host: Stage) -> None:
        def die(_batch: Sequence[np.ndarray]) -> list[np.ndarray]:
            raise Death

        host.backend.behaviour = die
        host.backend.open()
        request = make_request(1)
        host.batcher.offer(request, True)
        assert host.deaths == 1
        assert reply_of(request).status == "INTERNAL"
        with pytest.raises(ModelNotReady):
            host.batcher.offer(make_request(2))

    def test_one_that_hangs_is_given_up(self, host: Stage) -> None:
        request = make_request(1)
        thread = self.offer_aside(host, request)
        host.clock.advance(61.0)
        assert host.batcher.is_wedged(60.0)
        host.batcher.abandon()
        assert reply_of(request).status == "INTERNAL"
        host.backend.open()
        thread.join(GUARD_SECONDS)
        assert reply_of(request).times_settled == 1

    def test_closing_waits_for_it(self, host: Stage) -> None:
        request = make_request(1)
        thread = self.offer_aside(host, request)
        closing = threading.Thread(target=host.batcher.close)
        closing.start()
        host.backend.open()
        closing.join(GUARD_SECONDS)
        thread.join(GUARD_SECONDS)
        assert reply_of(request).status == "OK"


def four() -> list[PendingRequest]:
    return [make_request(value) for value in (1, 2, 3, 4)]


class TestCancel:
    def test_the_second_of_four_leaves_while_their_batch_runs(self, stage: Stage) -> None:
        requests = stage.submit(*four())
        stage.start()
        stage.backend.wait_for_batches(1)
        left_at = stage.clock()
        stage.batcher.cancel(requests[1])
        stage.clock.advance(5.0)
        assert stage.finish(requests) == ["OK", "CANCELLED", "OK", "OK"]
        assert stage.backend.sizes == [4]
        (error,) = reply_of(requests[1]).errors
        assert isinstance(error, RequestCancelled)
        assert error.at == left_at, "not the instant at which the batch was over"
        assert [stage_left for what, stage_left in stage.seen.events if what == "cancelled"] == ["running"]

    def test_the_second_of_four_leaves_while_they_wait(self, stage: Stage) -> None:
        requests = stage.submit(*four())
        stage.batcher.cancel(requests[1])
        assert reply_of(requests[1]).status == "CANCELLED", "at once"
        stage.start()
        assert stage.finish(requests) == ["OK", "CANCELLED", "OK", "OK"]
        assert 2.0 not in stage.backend.batches[0], "nobody computes for who has left"
        assert stage.seen.events[0] == ("cancelled", "queued")

    def test_who_is_settled_before_did_not_leave(self, stage: Stage) -> None:
        running, waiting = four(), four()
        stage.submit(*running)
        stage.start()
        stage.backend.wait_for_batches(1)
        stage.submit(*waiting)
        for request in (running[1], waiting[1]):
            assert request.refuse(BackendFailed("another part of its call failed"))
            stage.batcher.cancel(request)
        assert stage.finish([*running, *waiting]) == ["OK", "INTERNAL", "OK", "OK"] * 2
        assert 2.0 not in stage.backend.batches[1]
        assert "cancelled" not in dict(stage.seen.events)

    def test_twice_or_too_late_does_nothing(self, stage: Stage) -> None:
        requests = stage.submit(*four())
        stage.batcher.cancel(requests[1])
        stage.batcher.cancel(requests[1])
        stage.start()
        stage.backend.open()
        assert statuses(requests) == ["OK", "CANCELLED", "OK", "OK"]
        stage.batcher.cancel(requests[0])
        assert stage.finish(requests) == ["OK", "CANCELLED", "OK", "OK"]

    def test_before_the_request_was_ready_to_be_queued(self, stage: Stage) -> None:
        request = make_request()
        stage.batcher.reserve()
        stage.batcher.cancel(request)
        with pytest.raises(RequestCancelled):
            stage.batcher.submit(request)
        assert stage.batcher.queued == 0
        assert stage.finish([]) == []


class TestFailure:
    @pytest.mark.parametrize(
        ("error", "status"), [(ValueError("secret"), "INTERNAL"), (BackendFailed("out of memory"), "INTERNAL")]
    )
    def test_the_backend_raises(self, stage: Stage, error: Exception, status: str) -> None:
        def fail(_batch: Sequence[np.ndarray]) -> list[np.ndarray]:
            raise error

        requests = stage.submit(*four())
        stage.backend.behaviour = fail
        stage.start()
        stage.backend.open()
        assert statuses(requests) == [status] * 4
        assert all("secret" not in reply_of(request).errors[0].message for request in requests)
        stage.backend.behaviour = per_row
        assert stage.finish(stage.submit(*four())) == ["OK"] * 4, "the next batch is fine"
        assert stage.backend.sizes == [4, 1, 1, 1, 1, 4], "together once, then one by one"

    @pytest.mark.parametrize("rows", [0, 3, 5])
    def test_the_wrong_number_of_rows_comes_back(self, stage: Stage, rows: int) -> None:
        stage.backend.behaviour = lambda _batch: [np.zeros((rows, 2))]
        requests = stage.submit(*four())
        stage.start()
        assert stage.finish(requests) == ["INTERNAL"] * 4
        assert all(isinstance(reply_of(request).errors[0], BackendFailed) for request in requests)

    def test_one_of_two_outputs_is_short(self, stage: Stage) -> None:
        stage.backend.behaviour = lambda batch: [*per_row(batch), np.array(0.5)]
        requests = stage.submit(*four())
        stage.start()
        assert stage.finish(requests) == ["INTERNAL"] * 4

    @pytest.mark.parametrize(("behaviour", "status"), [(per_row, "OK"), (lambda _: [np.zeros((0, 2))], "INTERNAL")])
    def test_a_reply_that_raises_harms_no_neighbour(self, stage: Stage, behaviour: Any, status: str) -> None:
        """Neither an answer nor a refusal."""
        stage.backend.behaviour = behaviour
        requests = [make_request(1), make_request(2, reply=RaisingReply()), make_request(3)]
        stage.submit(*requests)
        stage.start()
        assert stage.finish(requests) == [status] * 3

    def test_who_brings_the_batch_down_does_so_alone(self, stage: Stage) -> None:
        def choke(batch: Sequence[np.ndarray]) -> list[np.ndarray]:
            if 2.0 in batch[0]:
                raise BackendFailed("index out of range")
            return per_row(batch)

        requests = stage.submit(*four())
        stage.backend.behaviour = choke
        stage.start()
        stage.backend.open()
        bad = next(number for number, request in enumerate(requests) if 2.0 in request.inputs[0])
        expected = ["INTERNAL" if number == bad else "OK" for number in range(4)]
        assert stage.finish(requests) == expected
        assert all(got_own_rows(request) for number, request in enumerate(requests) if number != bad)
        assert [len(batch) for batch in stage.backend.batches] == [4, 1, 1, 1, 1]


class HeldReply(RecordingReply):
    """Stands still in the middle of its answer until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.let_go = threading.Event()

    def answer(self, outputs: Sequence[np.ndarray], request: PendingRequest, facts: BatchFacts) -> None:
        assert self.let_go.wait(GUARD_SECONDS)
        super().answer(outputs, request, facts)


def eight(first: float) -> list[float]:
    return [first + number for number in range(8)]


class TestAnswersApart:
    @pytest.fixture(autouse=True)
    def worth_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(answering, "_WORTH_ROWS", 1)

    def test_the_next_batch_runs_while_one_is_answered_if_as_much_waits(self) -> None:
        stage = Stage(answers_apart=True)
        held = HeldReply()
        requests = stage.submit(make_request(*eight(0), reply=held), make_request(*eight(10)), make_request(*eight(20)))
        stage.start()
        stage.backend.let_one_pass()
        stage.backend.wait_for_batches(2)
        assert held.times_settled == 0
        held.let_go.set()
        assert stage.finish(requests) == ["OK"] * 3
        assert stage.seen.events.count(("replied", 1)) == 3

    def test_closing_waits_for_the_answers(self) -> None:
        stage = Stage(answers_apart=True)
        held = HeldReply()
        requests = stage.submit(make_request(*eight(0), reply=held), make_request(*eight(10)))
        stage.start()
        stage.backend.open()
        stage.backend.wait_for_batches(2)
        closing = threading.Thread(target=stage.batcher.close)
        closing.start()
        held.let_go.set()
        closing.join(GUARD_SECONDS)
        assert [reply_of(request).status for request in requests] == ["OK", "OK"]

    def test_an_error_of_ours_in_an_answer_ends_the_batcher_and_refuses_the_rest(self) -> None:
        class DeadlyReply(RecordingReply):
            def answer(self, *_: object) -> None:
                raise Death

        stage = Stage(answers_apart=True)
        requests = [make_request(*eight(0)[:4], reply=DeadlyReply()), make_request(*eight(20)[:4])]
        waiting = make_request(*eight(10))
        stage.submit(*requests, waiting)
        stage.start()
        stage.backend.open()
        assert stage.died.wait(GUARD_SECONDS)
        assert statuses([requests[1]]) == ["INTERNAL"]
        assert statuses([waiting])[0] in ("OK", "UNAVAILABLE")
        with pytest.raises(ModelNotReady):
            stage.batcher.reserve()
        assert stage.deaths == 1


class TestDeath:
    def test_of_the_only_instance(self, stage: Stage) -> None:
        def die(_batch: Sequence[np.ndarray]) -> list[np.ndarray]:
            raise Death

        running = stage.start_busy()
        waiting = stage.submit(*four())
        stage.backend.behaviour = die
        stage.backend.open()
        assert stage.died.wait(GUARD_SECONDS)
        assert stage.batcher.running == 0, "nobody waits for it, or keeps the version until it ends"
        assert statuses([running]) == ["INTERNAL"], "it was taken out of the queue, but not forgotten"
        assert statuses(waiting) == ["UNAVAILABLE"] * 4
        with pytest.raises(ModelNotReady):
            stage.batcher.reserve()
        assert stage.deaths == 1

    @pytest.mark.parametrize("inline", [False, True])
    def test_without_memory_to_log_it(self, monkeypatch: pytest.MonkeyPatch, inline: bool) -> None:
        def die(*_: object) -> list[np.ndarray]:
            raise Death

        def no_memory(*_: object) -> None:
            raise MemoryError

        monkeypatch.setattr(threading, "excepthook", lambda _: None)
        monkeypatch.setattr(batcher._LOG, "exception", no_memory)
        stage = Stage(runs_inline=inline)
        stage.backend.open()
        stage.backend.behaviour = die
        stage.start()
        if inline:
            monkeypatch.setattr(stage.batcher, "_may_run_inline", lambda *_: True)
        stage.batcher.reserve()
        with contextlib.suppress(MemoryError):
            stage.batcher.submit(make_request(), inline)
        assert stage.died.wait(GUARD_SECONDS)
        with pytest.raises(ModelNotReady):
            stage.batcher.reserve()

    def test_between_two_answers(self, stage: Stage) -> None:
        class DeadlyReply(RecordingReply):
            def answer(self, *_: object) -> None:
                raise Death

        requests = [make_request(1), make_request(2, reply=DeadlyReply()), make_request(3)]
        stage.submit(*requests)
        stage.start()
        stage.backend.open()
        assert statuses([requests[0], requests[2]]) == ["OK", "INTERNAL"]
        assert stage.died.wait(GUARD_SECONDS)
        assert stage.batcher.running == 0, "nobody waits for it, or keeps the version until it ends"

    def test_before_the_first_batch(self) -> None:
        def no_memory() -> BatchBuffer:
            raise MemoryError

        stage = Stage(new_buffer=no_memory, instances=2)
        requests = stage.submit(*four())
        stage.batcher.reserve()
        stage.start()
        assert stage.died.wait(GUARD_SECONDS)
        assert statuses(requests) == ["UNAVAILABLE"] * 4
        with pytest.raises(ModelNotReady):
            stage.batcher.submit(make_request())
        stage.batcher.close()
        assert stage.deaths == 1, "told once, however many threads die"

    def test_after_the_batcher_was_closed_is_nobodys_business(self) -> None:
        def die(_batch: Sequence[np.ndarray]) -> list[np.ndarray]:
            raise Death

        stage = Stage()
        running = stage.start_busy()
        stage.batcher.close(grace_seconds=0.0)
        stage.backend.behaviour = die
        stage.backend.open()
        assert statuses([running]) == ["INTERNAL"]
        stage.batcher.close()
        assert stage.deaths == 0


class TestRefusal:
    def test_a_deadline_passes_in_the_queue(self, stage: Stage) -> None:
        running = stage.start_busy()
        late, other = stage.submit(make_request(1, deadline=stage.clock.now + 0.05), make_request(2))
        stage.clock.advance(0.05)
        assert stage.finish([running, late, other]) == ["OK", "DEADLINE_EXCEEDED", "OK"]
        assert stage.backend.sizes == [1, 1], "it never reached the backend"
        assert ("rejected", "deadline_exceeded") in stage.seen.events

    def test_a_deadline_ahead_cannot_be_met_any_more(self, stage: Stage) -> None:
        """Refused before it has passed, hence with another status and with advice."""
        running = stage.start_busy()
        late, other = stage.submit(make_request(1, deadline=stage.clock.now + 0.05), make_request(2))
        stage.clock.advance(0.049)
        assert stage.finish([running, late, other]) == ["OK", "RESOURCE_EXHAUSTED", "OK"]
        error = reply_of(late).errors[0]
        assert isinstance(error, DeadlineUnmeetable)
        assert error.retry_after_seconds == pytest.approx(stage.batcher.policy.cost.seconds(8, "numbers"), rel=0.05)

    def test_who_comes_next_and_asks_for_no_less_is_refused_likewise_until_the_batch_ends(self, stage: Stage) -> None:
        soon = stage.clock.now + 0.0001
        assert stage.batcher.last_refusal is None
        running = stage.start_busy()
        with pytest.raises(DeadlineUnmeetable) as first:
            stage.batcher.offer(make_request(deadline=soon))
        refusal = stage.batcher.last_refusal
        assert refusal is not None
        assert refusal.error().facts == first.value.facts
        now = stage.clock.now
        assert stage.batcher.repeats(refusal, soon, now)
        assert not stage.batcher.repeats(refusal, soon + 1.0, now), "more patient: to be looked at"
        assert not stage.batcher.repeats(copy(refusal), soon, now), "another one: its caller was told more"
        assert stage.seen.events.count(("rejected", "deadline_unmeetable")) == 1
        stage.batcher.repeated(2, 1, 0.0)
        assert stage.seen.events.count(("rejected", "deadline_unmeetable")) == 3
        assert stage.finish([running]) == ["OK"]
        assert not stage.batcher.repeats(refusal, soon, now)

    def test_nobody_is_refused_likewise_once_the_batch_has_ended(self, stage: Stage) -> None:
        running = stage.start_busy()
        with pytest.raises(DeadlineUnmeetable):
            stage.submit(make_request(deadline=stage.clock.now + 0.003))
        assert stage.batcher.last_refusal is not None
        assert stage.finish([running]) == ["OK"]
        assert stage.batcher.last_refusal is None

    def test_those_who_were_told_likewise_are_counted_at_the_door_and_by_the_observer(
        self, stage: Stage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        told: list[tuple[int, int, float, float]] = []
        monkeypatch.setattr(stage.batcher._admission, "repeated", lambda *arrivals: told.append(arrivals))
        stage.batcher.repeated(3, 2, 1.0)
        assert told == [(3, 2, 1.0, stage.clock.now)]
        assert stage.seen.events == [("rejected", "deadline_unmeetable")] * 3

    def test_the_door_learns_how_long_a_batch_took_and_should_have_taken(
        self, stage: Stage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        told: list[tuple[float, ...]] = []
        monkeypatch.setattr(stage.batcher._admission, "ended", lambda _, *instants: told.append(instants))
        began = stage.clock.now
        running = stage.start_busy()
        stage.clock.advance(1.0)
        assert stage.finish([running]) == ["OK"]
        assert told == [(began + 1.0, began, pytest.approx(began + 0.0025))]

    def test_nothing_is_refused_likewise_by_a_batcher_that_closes(self, stage: Stage) -> None:
        """Its caller is to go on to the version that comes after."""
        soon = stage.clock.now + 0.0001
        running = stage.start_busy()
        with pytest.raises(DeadlineUnmeetable):
            stage.batcher.offer(make_request(deadline=soon))
        refusal = stage.batcher.last_refusal
        assert refusal is not None
        assert stage.batcher.repeats(refusal, soon, stage.clock.now)
        stage.batcher.close(0)
        assert stage.batcher.last_refusal is refusal
        assert not stage.batcher.repeats(refusal, soon, stage.clock.now)
        assert stage.finish([running]) == ["OK"]

    def test_all_that_wait_are_late_and_the_thread_goes_on(self, stage: Stage) -> None:
        running = stage.start_busy()
        late = stage.submit(*(make_request(deadline=stage.clock.now + 0.05) for _ in range(3)))
        stage.clock.advance(1.0)
        stage.backend.open()
        assert statuses([running, *late]) == ["OK", *["DEADLINE_EXCEEDED"] * 3]
        assert stage.finish(stage.submit(make_request(5))) == ["OK"]

    def test_the_queue_is_full(self) -> None:
        stage = Stage(max_queued_requests=2)
        requests = stage.submit(make_request(1))
        stage.batcher.reserve()
        with pytest.raises(QueueFull) as refused:
            stage.batcher.reserve()
        assert refused.value.status == "RESOURCE_EXHAUSTED"
        assert refused.value.retry_after_seconds == pytest.approx(0.006), "a full batch"
        assert refused.value.facts == {"queued": "2", "limit": "2"}
        assert stage.seen.events == [("rejected", "queue_full")]
        stage.batcher.release()
        stage.batcher.reserve()
        stage.batcher.release()
        stage.start()
        assert stage.finish(requests) == ["OK"]

    def test_the_place_of_who_left_is_free_again(self) -> None:
        stage = Stage(max_queued_requests=1)
        (first,) = stage.submit(make_request(1))
        stage.batcher.cancel(first)
        (second,) = stage.submit(make_request(2))
        stage.start()
        assert stage.finish([first, second]) == ["CANCELLED", "OK"]

    @pytest.mark.parametrize(
        ("request_", "error"),
        [
            (make_request(deadline=99.0), DeadlineExceeded),
            (make_request(deadline=100.001), DeadlineUnmeetable),
            (make_request(*range(9)), InvalidInput),
            (PendingRequest([np.zeros((0, 2))], "numbers", float("inf"), 100.0, RecordingReply()), InvalidInput),
        ],
    )
    def test_at_once(self, stage: Stage, request_: PendingRequest, error: type[ServingError]) -> None:
        stage.batcher.reserve()
        with pytest.raises(error) as refused:
            stage.batcher.submit(request_)
        assert stage.seen.events == [("rejected", error.reason.lower())]
        assert reply_of(request_).times_settled == 0, "who submits is told by the exception"
        if error is DeadlineUnmeetable:
            assert refused.value.retry_after_seconds == 1.0, "until then who has as little time is refused again"
        assert stage.finish([]) == []

    def test_a_refused_request_gives_its_place_back(self) -> None:
        stage = Stage(max_queued_requests=1)
        for _ in range(3):
            with pytest.raises(DeadlineExceeded):
                stage.submit(make_request(deadline=0.0))
        stage.start()
        assert stage.finish(stage.submit(make_request())) == ["OK"]


@contextlib.contextmanager
def closing(batcher: Batcher) -> Iterator[threading.Thread]:
    """Close it meanwhile; the body begins when nothing more is admitted, and has to bring the closing to its end."""
    closer = threading.Thread(target=batcher.close)
    closer.start()
    until_refused(batcher)
    yield closer
    closer.join(GUARD_SECONDS)
    assert not closer.is_alive()


class TestClose:
    def test_finishes_what_runs_waits_or_is_reserved(self, stage: Stage) -> None:
        running = stage.start_busy()
        waiting = stage.submit(*four())
        stage.batcher.reserve()
        with closing(stage.batcher):
            prepared = make_request(7)
            stage.batcher.submit(prepared)
            stage.backend.open()
        assert stage.finish([running, *waiting, prepared]) == ["OK"] * 6

    @pytest.mark.parametrize("end", [Batcher.release, Batcher.abandon])
    def test_waits_for_a_reservation_until_it_comes_to_nothing(self, stage: Stage, end: Callable[..., None]) -> None:
        stage.start()
        stage.batcher.reserve()
        with closing(stage.batcher) as closer:
            assert closer.is_alive()
            end(stage.batcher)

    def test_does_not_wait_for_a_caller_who_leaves(self, stage: Stage) -> None:
        (request,) = stage.submit(make_request())
        with closing(stage.batcher):
            stage.batcher.cancel(request)

    @pytest.mark.parametrize("apart", [False, True])
    def test_ends_the_threads(self, apart: bool, caplog: pytest.LogCaptureFixture) -> None:
        stage = Stage(instances=2, answers_apart=apart)
        stage.batcher.start("closing")
        names = {thread.name for thread in threading.enumerate() if thread.name.startswith("closing/")}
        assert names == {"closing/0", "closing/1", *(["closing/answers"] if apart else [])}
        stage.batcher.close()
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("closing/")]
        assert not caplog.records

    def test_all_is_quiet_when_nothing_is_reserved_waits_or_runs(self, stage: Stage) -> None:
        assert stage.batcher._is_quiet()
        stage.batcher.reserve()
        assert not stage.batcher._is_quiet()
        request = make_request()
        stage.batcher.submit(request)
        assert not stage.batcher._is_quiet()
        stage.start()
        stage.backend.wait_for_batches(1)
        assert (stage.batcher.queued, stage.batcher.running) == (0, 1)
        assert not stage.batcher._is_quiet()
        assert stage.finish([request]) == ["OK"]

    def test_does_not_wait_for_who_is_late_by_then(self, stage: Stage) -> None:
        running = stage.start_busy()
        (late,) = stage.submit(make_request(deadline=stage.clock.now + 1.0))
        with closing(stage.batcher):
            stage.clock.advance(2.0)
            stage.backend.open()
        assert statuses([running, late]) == ["OK", "DEADLINE_EXCEEDED"]

    def test_refuses_what_comes_later(self, stage: Stage) -> None:
        stage.start()
        stage.batcher.close()
        with pytest.raises(ModelNotReady):
            stage.batcher.reserve()
        stage.batcher.close()

    def test_with_a_grace_that_runs_out(self, stage: Stage) -> None:
        running = stage.start_busy()
        waiting = stage.submit(*four())
        stage.batcher.reserve()
        stage.batcher.close(grace_seconds=0.0)
        assert statuses(waiting) == ["UNAVAILABLE"] * 4
        assert reply_of(running).times_settled == 0
        with pytest.raises(ModelNotReady):
            stage.batcher.submit(make_request())
        assert stage.finish([running]) == ["OK"], "a batch that runs is left to its thread"
        assert stage.seen.events.count(("rejected", "model_not_ready")) == 5

    def test_ends_the_delay(self) -> None:
        stage = Stage(max_queue_delay_seconds=1e6)
        stage.backend.open()
        stage.start()
        (request,) = stage.submit(make_request())
        assert reply_of(request).times_settled == 0
        stage.batcher.close()
        assert reply_of(request).facts[0].release_reason == "drain"


def until_refused(batcher: Batcher) -> None:
    """Wait until the batcher admits nothing more; no sleep, the lock is all it takes."""
    with batcher._lock:
        assert batcher._work.wait_for(lambda: batcher._closing, GUARD_SECONDS)


class TestBatches:
    def test_an_idle_instance_runs_a_request_at_once(self, stage: Stage) -> None:
        stage.start()
        requests = stage.submit(make_request(1))
        stage.backend.wait_for_batches(1)
        assert stage.finish(requests) == ["OK"]

    def test_what_gathers_behind_a_batch_runs_together(self, stage: Stage) -> None:
        running = stage.start_busy()
        assert stage.finish([running, *stage.submit(*four())]) == ["OK"] * 5
        assert stage.backend.sizes == [1, 4]

    def test_pads_to_the_bucket_with_the_last_row(self, stage: Stage) -> None:
        requests = stage.submit(make_request(1, 2), make_request(3))
        stage.start()
        assert stage.finish(requests) == ["OK"] * 2
        assert stage.backend.batches[0][:, 0].tolist() == [1, 2, 3, 3]
        facts = reply_of(requests[0]).facts[0]
        assert (facts.rows, facts.bucket, facts.padding_ratio, facts.instance) == (3, 4, 0.25, 0)
        assert reply_of(requests[1]).facts[0] is facts

    def test_a_request_is_never_split(self, stage: Stage) -> None:
        requests = stage.submit(*(make_request(*range(rows)) for rows in (5, 5, 3)))
        stage.start()
        assert stage.finish(requests) == ["OK"] * 3
        assert [reply_of(request).facts[0].rows for request in requests] == [5, 8, 8]

    def test_groups_never_mix(self, stage: Stage) -> None:
        requests = stage.submit(*(make_request(value, group=value % 2) for value in range(8)))
        stage.start()
        assert stage.finish(requests) == ["OK"] * 8
        assert [batch[:, 0].tolist() for batch in stage.backend.batches] == [[0, 2, 4, 6], [1, 3, 5, 7]]

    def test_who_brings_an_optional_input_runs_alone_and_unpadded(self, stage: Stage) -> None:
        factor = {"factor": np.ones(1)}
        own = [make_request(1, 2, 3, overrides=factor), make_request(4, overrides=factor)]
        requests = stage.submit(make_request(5), own[0], own[1], make_request(6))
        stage.start()
        assert stage.finish(requests) == ["OK"] * 4
        assert list(zip(stage.backend.sizes, stage.backend.overrides, strict=True)) == [
            (2, None),
            (3, factor),
            (1, factor),
        ]
        assert set(stage.batcher.policy.cost.table()) == set(linear_cost().table())

    def test_idle_instances_share_the_queue(self) -> None:
        stage = Stage(instances=2)
        requests = stage.submit(*(make_request(value) for value in range(8)))
        stage.start()
        stage.backend.wait_for_batches(2)
        assert stage.batcher.running == 2
        assert stage.finish(requests) == ["OK"] * 8
        assert stage.backend.sizes == [4, 4]

    def test_what_one_instance_passes_over_is_left_to_the_other(self) -> None:
        stage = Stage(instances=2)
        now = stage.clock.now
        hurried = stage.submit(*(make_request(deadline=now + 0.0026) for _ in range(2)))
        fresh = stage.submit(*(make_request(deadline=now + 0.02) for _ in range(8)))
        with stage.batcher._lock:
            first, second = stage.batcher._next_release(0), stage.batcher._next_release(1)
        assert first is not None
        assert second is not None
        assert (first.release.requests, first.release.late) == (fresh, [])
        assert second.release.requests == hurried[:1]

    def test_an_arrival_ends_the_delay_where_it_fills_the_batch(self) -> None:
        stage = Stage(max_queue_delay_seconds=1e6)
        stage.start()
        requests = stage.submit(*(make_request(value) for value in range(8)))
        assert stage.finish(requests) == ["OK"] * 8
        assert [facts.release_reason for request in requests for facts in reply_of(request).facts] == ["full"] * 8

    def test_a_delay_ends_by_itself(self, monkeypatch: pytest.MonkeyPatch) -> None:
        stage = Stage(max_queue_delay_seconds=5.0)
        work, waits = stage.batcher._work, list[float]()
        wait_until_notified = work.wait

        def wait(timeout: float | None = None) -> bool:
            if timeout is None:
                return wait_until_notified()
            waits.append(timeout)
            stage.clock.advance(timeout)
            return False

        monkeypatch.setattr(work, "wait", wait)
        (request,) = stage.submit(make_request())
        stage.start()
        assert stage.finish([request]) == ["OK"]
        assert waits == [5.0]
        assert reply_of(request).facts[0].release_reason == "delay"

    def test_learns_the_cost_from_release_to_answer(self) -> None:
        """Assembly and replies included: every batch has them, however few its rows."""

        class SlowBuffer(BatchBuffer):
            def assemble(self, requests: Sequence[PendingRequest], bucket: int) -> list[np.ndarray]:
                stage.clock.advance(0.001)
                return super().assemble(requests, bucket)

        stage = Stage(new_buffer=lambda: SlowBuffer([NUMBERS], 8))
        cost = stage.batcher.policy.cost
        before = cost.seconds(1, "numbers")
        running = stage.start_busy()
        stage.clock.advance(0.003)
        assert stage.finish([running]) == ["OK"]
        assert cost.seconds(1, "numbers") == pytest.approx(before + (0.004 - before) / 16)
        facts = reply_of(running).facts[0]
        assert (facts.assemble_seconds, facts.infer_seconds) == pytest.approx((0.001, 0.003))


def test_many_callers_at_once() -> None:
    """Four callers, two instances, real threads all over: all settled once, each with its own rows."""
    stage = Stage(instances=2, max_queued_requests=32)
    stage.backend.open()
    stage.start()
    admitted: list[list[PendingRequest]] = [[] for _ in range(4)]

    def call(caller: int) -> None:
        own = admitted[caller]
        for number in range(100):
            request = make_request(*(1000 * caller + number for _ in range(1 + number % 3)), group=number % 2)
            try:
                stage.submit(request)
            except QueueFull:
                if own:
                    reply_of(own[-1]).wait()
                continue
            own.append(request)
            if number % 7 == 0:
                stage.batcher.cancel(request)

    callers = [threading.Thread(target=call, args=(caller,)) for caller in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(GUARD_SECONDS)
    requests = [request for own in admitted for request in own]
    assert requests
    assert set(stage.finish(requests)) <= {"OK", "CANCELLED"}
    assert stage.deaths == 0


class TestWedged:
    """A run that does not return: its callers are answered, and what it returns at last is dropped."""

    def test_a_batch_hangs_when_it_ran_longer_than_the_limit(self, stage: Stage) -> None:
        running = stage.start_busy()
        stage.clock.advance(5.0)
        assert not stage.batcher.is_wedged(5.0)
        stage.clock.advance(0.1)
        assert stage.batcher.is_wedged(5.0)
        stage.backend.open()
        assert stage.finish([running]) == ["OK"]
        assert not stage.batcher.is_wedged(0.0)

    def test_giving_up_answers_who_runs_and_who_waits_once(self, stage: Stage) -> None:
        running = stage.start_busy()
        waiting = stage.submit(make_request(1), make_request(2))
        stage.batcher.abandon()
        assert statuses([running, *waiting]) == ["INTERNAL", "UNAVAILABLE", "UNAVAILABLE"]
        with pytest.raises(ModelNotReady):
            stage.batcher.reserve()
        stage.backend.open()
        stage.batcher.close(GUARD_SECONDS)
        assert [reply_of(request).times_settled for request in (running, *waiting)] == [1, 1, 1]
        assert stage.deaths == 0


@pytest.mark.parametrize("started", [0, 1, 2])
def test_without_threads_enough_it_keeps_none(started: int, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = Stage(instances=2, answers_apart=True)
    start, threads = threading.Thread.start, []

    def start_some(thread: threading.Thread) -> None:
        if len(threads) == started:
            raise RuntimeError("can't start new thread")
        threads.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_some)
    with pytest.raises(RuntimeError):
        stage.start()
    for thread in threads:
        thread.join(GUARD_SECONDS)
    assert not any(thread.is_alive() for thread in threads)
    assert stage.deaths == 0, "nobody serves it yet"
