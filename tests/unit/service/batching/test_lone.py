"""Batches that have the cores to themselves run elsewhere; all others, and their neighbours, never notice."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping

import numpy as np
import pytest

from service.batching.batcher import BatcherLimits
from service.batching.lone import LoneRuns
from service.batching.policy import BatchingPolicy
from service.batching.request import PendingRequest
from service.errors import BackendFailed, DeadlineUnmeetable
from tests.fakes import (
    GUARD_SECONDS,
    FakeBackend,
    FakeClock,
    got_own_rows,
    linear_cost,
    make_request,
    number_batcher,
    per_row,
    reply_of,
    statuses,
)

ALL = frozenset({1, 2, 4, 8})


class Stage:
    """A batcher, l(b) = 20 + 5 b ms, or a share of it for who has the cores to itself; gates shut."""

    def __init__(
        self,
        *,
        quicker: frozenset[int] = ALL,
        instances: int = 2,
        runs_inline: bool = False,
        max_queue_delay_seconds: float = 0.0,
        share: float = 0.5,
    ) -> None:
        self.clock = FakeClock()
        self.instances, self.alone = FakeBackend(open_gate=False), FakeBackend(open_gate=False)
        self.cores_idle = True
        self.batcher = number_batcher(
            self.instances,
            BatcherLimits(100, instances, runs_inline=runs_inline),
            cost=linear_cost(0.02, 0.005),
            max_queue_delay_seconds=max_queue_delay_seconds,
            clock=self.clock,
        )
        policy = BatchingPolicy(linear_cost(0.02 * share, 0.005 * share), 8, max_queue_delay_seconds)
        groups: Mapping[str, frozenset[int]] = {"numbers": quicker}
        self.batcher.run_alone_by(LoneRuns(2, self.alone, policy, groups, lambda: self.cores_idle))

    def submit(self, *requests: PendingRequest) -> list[PendingRequest]:
        for request in requests:
            self.batcher.offer(request)
        return list(requests)

    def submit_two(self) -> tuple[PendingRequest, PendingRequest]:
        """Submit one that is alone, and another once it runs; return when both do."""
        (first,) = self.submit(make_request(1))
        self.alone.wait_for_batches(1)
        (second,) = self.submit(make_request(2))
        self.instances.wait_for_batches(1)
        return first, second

    def open(self) -> None:
        self.instances.open()
        self.alone.open()

    def finish(self, *requests: PendingRequest) -> list[bool]:
        """Open the gates; return whether each was answered by a lone run, its own rows in any case."""
        self.open()
        assert statuses(requests) == ["OK"] * len(requests)
        assert all(map(got_own_rows, requests))
        return [reply_of(request).facts[0].lone for request in requests]


@pytest.fixture
def stage() -> Iterator[Stage]:
    stage = Stage()
    stage.batcher.start("model")
    yield stage
    stage.open()
    stage.batcher.close()


def test_who_is_alone_runs_apart(stage: Stage) -> None:
    first, second = make_request(1, 2, 3), make_request(2)
    assert stage.finish(*stage.submit(first)) == [True]
    assert stage.finish(*stage.submit(second)) == [True]
    assert (stage.alone.sizes, stage.instances.sizes) == ([4, 1], [])


def test_who_comes_meanwhile_is_run_by_an_instance_at_once(stage: Stage) -> None:
    first, second = stage.submit_two()
    assert stage.finish(first, second) == [True, False]


def test_nor_does_who_comes_alone_after_that_but_the_next(stage: Stage) -> None:
    """Of two callers who wait for their answers one is alone only until the other is back."""
    first, second = stage.submit_two()
    assert stage.finish(first, second) == [True, False]
    assert stage.finish(*stage.submit(make_request(3))) == [False]
    assert stage.finish(*stage.submit(make_request(4))) == [True]


def test_nobody_runs_apart_beside_an_instance(stage: Stage) -> None:
    stage.cores_idle = False
    (first,) = stage.submit(make_request(1))
    stage.instances.wait_for_batches(1)
    stage.cores_idle = True
    (second,) = stage.submit(make_request(2))
    stage.instances.wait_for_batches(2)
    assert stage.finish(first, second) == [False, False]


def test_another_models_batches_are_company(stage: Stage) -> None:
    stage.cores_idle = False
    assert stage.finish(*stage.submit(make_request(1))) == [False]


def test_a_request_that_is_being_prepared_is_company(stage: Stage) -> None:
    stage.batcher.reserve()
    assert stage.finish(*stage.submit(make_request(1))) == [False]
    stage.batcher.release()
    assert stage.finish(*stage.submit(make_request(2))) == [False], "one before it had company"
    assert stage.finish(*stage.submit(make_request(3))) == [True]


def test_what_waits_is_company_and_shared_by_the_instances() -> None:
    stage = Stage()
    requests = stage.submit(*(make_request(value) for value in range(4)))
    stage.batcher.start("model")
    stage.instances.wait_for_batches(2)
    assert stage.finish(*requests) == [False] * 4
    stage.batcher.close()


def test_another_group_that_waits_is_company() -> None:
    stage = Stage()
    requests = stage.submit(make_request(1), make_request(2, group="other"))
    stage.batcher.start("model")
    stage.instances.wait_for_batches(2)
    assert stage.finish(*requests) == [False, False]
    stage.batcher.close()


def test_each_group_has_its_own_sizes_and_an_unknown_one_those_of_the_first() -> None:
    def run(_batch: object, _overrides: object = None, /) -> list[np.ndarray]:
        pytest.fail("nothing runs")

    quicker = {"a": frozenset({1}), "b": frozenset({4})}
    lone = LoneRuns(2, run, BatchingPolicy(linear_cost(), 8), quicker)
    assert [[rows for rows in (1, 3, 8) if lone.takes(rows, group)] for group in ("a", "b", "c")] == [[1], [3], [1]]


def test_sizes_that_are_no_quicker_stay_with_the_instances() -> None:
    stage = Stage(quicker=frozenset({4, 8}))
    stage.batcher.start("model")
    assert stage.finish(*stage.submit(make_request(1, 2))) == [False]
    assert stage.finish(*stage.submit(make_request(1, 2, 3))) == [True]
    stage.batcher.close()


def test_a_shape_that_was_never_measured_is_taken_for_the_first(stage: Stage) -> None:
    assert stage.finish(*stage.submit(make_request(1, group="new"))) == [True]


class TestDeadlines:
    """Who would be late in an instance is let in where a lone run would answer in time."""

    def test_by_what_a_lone_run_takes(self, stage: Stage) -> None:
        with pytest.raises(DeadlineUnmeetable):
            stage.submit(make_request(2, deadline=stage.clock.now + 0.008))
        assert stage.finish(*stage.submit(make_request(1, deadline=stage.clock.now + 0.015))) == [True]

    def test_in_company_by_what_an_instance_takes(self, stage: Stage) -> None:
        (first,) = stage.submit(make_request(1))
        stage.alone.wait_for_batches(1)
        with pytest.raises(DeadlineUnmeetable):
            stage.submit(make_request(2, deadline=stage.clock.now + 0.015))
        assert stage.finish(first) == [True]

    def test_the_next_are_admitted_by_when_the_lone_run_ends(self) -> None:
        stage = Stage()
        stage.batcher.start("model")
        stage.submit(make_request(1))
        stage.alone.wait_for_batches(1)
        (second,) = stage.submit(make_request(2))
        stage.instances.wait_for_batches(1)
        # The lone run ends after 12.5 ms, the other after 25; a batch of one takes 25 more.
        (third,) = stage.submit(make_request(3, deadline=stage.clock.now + 0.04))
        with pytest.raises(DeadlineUnmeetable):
            stage.submit(make_request(4, deadline=stage.clock.now + 0.036))
        assert stage.finish(second, third) == [False, False]
        stage.batcher.close()

    def test_who_would_be_late_in_an_instance_runs_alone_whatever_the_one_before_did(self, stage: Stage) -> None:
        """Else it would be refused, nothing would run, and nothing would ever be alone again."""

        def as_measured(batch: list) -> list:  # type: ignore[type-arg]
            stage.clock.advance(0.025)
            return per_row(batch)

        stage.instances.behaviour = as_measured  # type: ignore[assignment]
        first, second = stage.submit_two()
        assert stage.finish(first, second) == [True, False]
        hurried = make_request(3, deadline=stage.clock.now + 0.015)
        assert stage.finish(*stage.submit(hurried)) == [True]

    def test_a_reservation_does_not_take_it_back(self) -> None:
        stage = Stage()
        (request,) = stage.submit(make_request(1, deadline=stage.clock.now + 0.015))
        stage.batcher.reserve()
        stage.batcher.start("model")
        assert stage.finish(request) == [True]
        stage.batcher.release()
        stage.batcher.close()

    def test_a_delay_does_not_take_it_back(self) -> None:
        """By the lone run there is time to wait for company, by the instance it is too late already."""
        stage = Stage(max_queue_delay_seconds=0.001, share=0.25)
        (request,) = stage.submit(make_request(1, deadline=stage.clock.now + 0.02))
        stage.clock.advance(0.001)
        stage.batcher.start("model")
        assert stage.finish(request) == [True]
        stage.batcher.close()

    def test_one_that_lost_its_chance_is_told(self) -> None:
        stage = Stage()
        (request,) = stage.submit(make_request(1, deadline=stage.clock.now + 0.015))
        stage.cores_idle = False  # another model's batch began before the instance woke
        stage.batcher.start("model")
        assert statuses([request]) == ["RESOURCE_EXHAUSTED"]
        stage.batcher.close()


def test_each_run_teaches_its_own_costs(stage: Stage) -> None:
    def slow(batch: list) -> list:  # type: ignore[type-arg]
        stage.clock.advance(0.1)
        return per_row(batch)

    usual = stage.batcher.policy.cost.seconds(1, "numbers")
    stage.alone.behaviour = slow  # type: ignore[assignment]
    stage.finish(*stage.submit(make_request(1)))
    stage.batcher.close()
    assert stage.batcher.policy.cost.seconds(1, "numbers") == usual
    lone = stage.batcher._lone
    assert lone is not None
    assert lone.policy.cost.seconds(1, "numbers") > 0.0125


def test_members_of_a_batch_that_fails_alone_are_run_by_the_instance() -> None:
    def fail(_: object) -> list:  # type: ignore[type-arg]
        raise BackendFailed("no")

    stage = Stage(instances=1)
    stage.alone.behaviour = fail
    requests = stage.submit(make_request(1), make_request(2))
    stage.batcher.start("model")
    assert stage.finish(*requests) == [False, False]
    assert (stage.alone.sizes, stage.instances.sizes) == ([2], [1, 1])
    assert statuses(stage.submit(make_request(3))) == ["INTERNAL"], "there was nobody to spare"
    stage.batcher.close()


def test_it_runs_inline_too(stage: Stage) -> None:
    stage = Stage(runs_inline=True)
    lone = stage.batcher._lone
    assert lone is not None
    stage.batcher.start("model")
    stage.open()
    for seconds, inline in ((0.02, False), (0.002, True)):
        for _ in range(200):
            lone.policy.cost.observe(1, "numbers", seconds)
        request = make_request(1)
        stage.batcher.offer(request, True)
        assert stage.finish(request) == [True]
        assert (reply_of(request).facts[0].instance == 2) is inline, "2 is the thread that brought it"
    stage.batcher.close()


def test_a_lone_run_that_hangs_is_seen_and_given_up(stage: Stage) -> None:
    (request,) = stage.submit(make_request(1))
    stage.alone.wait_for_batches(1)
    stage.clock.advance(10.0)
    assert stage.batcher.is_wedged(5.0)
    stage.batcher.abandon()
    assert statuses([request]) == ["INTERNAL"]


def test_closing_waits_for_it(stage: Stage) -> None:
    (request,) = stage.submit(make_request(1))
    stage.alone.wait_for_batches(1)
    closing = threading.Thread(target=stage.batcher.close)
    closing.start()
    assert stage.finish(request) == [True]
    closing.join(GUARD_SECONDS)
    assert not closing.is_alive()
