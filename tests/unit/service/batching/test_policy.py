"""The batching rule: case by case, as a property, and against theory."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.batching.admission import Admission, BatcherLimits
from service.batching.cost import CostModel, buckets_up_to
from service.batching.policy import BatchingPolicy, Release, WaitUntil
from service.batching.queue import RequestQueue
from service.batching.request import PendingRequest
from service.errors import DeadlineUnmeetable
from tests.fakes import linear_cost, make_request
from tests.unit.service.batching.simulation import (
    PROFILES,
    first_come_first_served,
    gamma,
    mean_latency_bound,
    optimum,
    poisson,
    simulate,
)

NOW = 100.0


def queue_of(*requests: PendingRequest) -> RequestQueue:
    queue = RequestQueue()
    for request in requests:
        queue.append(request)
    return queue


def due(*seconds: float, rows: int = 1) -> list[PendingRequest]:
    """Requests whose deadlines lie that far from now."""
    return [make_request(*range(rows), deadline=NOW + left) for left in seconds]


def released(policy: BatchingPolicy, queue: RequestQueue, idle: int = 1, **options: int) -> Release:
    decision = policy.next(queue, idle, NOW, **options)
    assert isinstance(decision, Release), decision
    return decision


@pytest.fixture
def policy() -> BatchingPolicy:
    """l(b) = 2 ms + b / 2 ms up to 8: 2.5, 3, 4 and 6 ms."""
    return BatchingPolicy(linear_cost(), 8)


class TestWithoutDeadlines:
    def test_nothing_waits(self, policy: BatchingPolicy) -> None:
        assert policy.next(RequestQueue(), 1, NOW) == WaitUntil(math.inf)

    def test_an_idle_instance_never_waits(self, policy: BatchingPolicy) -> None:
        request = make_request()
        release = released(policy, queue_of(request))
        assert (release.requests, release.late, release.reason) == ([request], [], "idle")

    def test_takes_the_oldest_up_to_a_full_batch(self, policy: BatchingPolicy) -> None:
        requests = [make_request() for _ in range(10)]
        release = released(policy, queue_of(*requests))
        assert (release.requests, release.reason) == (requests[:8], "full")

    def test_no_more_are_put_together_than_is_useful_yet_one_may_have_more(self) -> None:
        policy = BatchingPolicy(linear_cost(), 8, useful_batch_size=4)
        requests = [make_request() for _ in range(8)]
        release = released(policy, queue_of(*requests))
        assert (release.requests, release.reason) == (requests[:4], "full")
        large = make_request(*range(8))
        assert released(policy, queue_of(large)).requests == [large]

    @pytest.mark.parametrize("rows", [3, 8, 20])
    def test_what_is_released_while_draining_says_so(self, policy: BatchingPolicy, rows: int) -> None:
        queue = queue_of(*(make_request() for _ in range(rows)))
        decision = policy.next(queue, 1, NOW, draining=True)
        assert isinstance(decision, Release)
        assert decision.reason == "drain"

    def test_a_request_is_never_split_nor_overtaken_by_a_smaller_one(self, policy: BatchingPolicy) -> None:
        requests = [make_request(*range(rows)) for rows in (5, 4, 3)]
        assert released(policy, queue_of(*requests)).requests == requests[:1]

    def test_groups_never_mix_and_the_one_with_the_oldest_head_goes_first(self, policy: BatchingPolicy) -> None:
        young = [make_request(group="young", arrival=NOW - 1) for _ in range(8)]
        old = make_request(group="old", arrival=NOW - 2)
        release = released(policy, queue_of(*young, old))
        assert (release.group, release.requests) == ("old", [old])

    def test_a_group_may_be_called_anything(self, policy: BatchingPolicy) -> None:
        request = make_request(group=None)
        assert released(policy, queue_of(request)).requests == [request]

    def test_a_group_waits_for_at_most_one_batch_of_each_older_group(self, policy: BatchingPolicy) -> None:
        """However fast the others arrive: no group starves."""
        queue = queue_of(*(make_request(group=group, arrival=NOW + i) for i, group in enumerate("abc")))
        served = []
        for turn in range(3):
            for group in "ab":
                for _ in range(20):
                    queue.append(make_request(group=group, arrival=NOW + 3 + turn))
            release = released(policy, queue)
            queue.take(release.group, release.requests)
            served.append(release.group)
        assert served == ["a", "b", "c"]

    def test_idle_instances_share_the_queue(self, policy: BatchingPolicy) -> None:
        requests = [make_request() for _ in range(8)]
        assert released(policy, queue_of(*requests), idle=2).requests == requests[:4]
        assert released(policy, queue_of(*requests), idle=8).requests == requests[:1]

    def test_a_request_larger_than_its_share_runs(self, policy: BatchingPolicy) -> None:
        request = make_request(*range(8))
        assert released(policy, queue_of(request), idle=4).requests == [request]

    def test_two_batches_without_padding_beat_one_with_it(self) -> None:
        """Where batching gains nothing, 5 rows run as 4 and 1, not as 8."""
        requests = [make_request() for _ in range(5)]
        release = released(BatchingPolicy(linear_cost(0.0, 0.001), 8), queue_of(*requests))
        assert release.requests == requests[:4]

    @pytest.mark.parametrize(
        ("rows", "kept"),
        [((1,) * 5, 4), ((4, 1), 1), ((1, 4), 1), ((1, 2, 2), 2), ((5, 1), 2), ((5,), 1), ((3, 3), 2), ((1,) * 7, 7)],
    )
    def test_the_last_are_left_for_a_batch_of_their_own_where_both_end_before_one_with_padding(
        self, rows: tuple[int, ...], kept: int
    ) -> None:
        """With a deadline that allows no part to be left for later. 4 and 1 take 5 ms, 8 take 8."""
        requests = [make_request(*range(count), deadline=NOW + 0.0155) for count in rows]
        release = released(BatchingPolicy(linear_cost(0.0, 0.001), 8), queue_of(*requests))
        assert (release.requests, release.late) == (requests[:kept], [])

    def test_a_batch_without_padding_is_not_cut_whatever_it_is_taken_to_cost(self) -> None:
        """A large batch measured in a slow moment would be cut for good, and its cost never learnt anew."""
        policy = BatchingPolicy(CostModel([1, 2, 4], {"numbers": [[0.001], [0.002], [0.009]]}), 4)
        assert len(released(policy, queue_of(*(make_request() for _ in range(8)))).requests) == 4

    def test_a_part_is_left_for_when_this_batch_ends_where_that_costs_little(self) -> None:
        requests = [make_request() for _ in range(8)]
        policy = BatchingPolicy(linear_cost(0.0, 0.01), 8)
        assert released(policy, queue_of(*requests)).requests == requests[:4]
        assert released(policy, queue_of(*requests), idle=3).requests == requests[:2]
        assert released(policy, queue_of(*requests[:1])).requests == requests[:1]

    def test_no_part_is_left_where_a_deadline_comes_near(self) -> None:
        policy = BatchingPolicy(linear_cost(0.0, 0.01), 8)
        near, far = due(*[0.15] * 8), due(*[0.17] * 8)
        assert released(policy, queue_of(*near)).requests == near
        assert released(policy, queue_of(*far)).requests == far[:4], "two whole batches end before it"

    def test_one_batch_with_padding_beats_two_where_batching_pays(self, policy: BatchingPolicy) -> None:
        requests = [make_request() for _ in range(5)]
        assert released(policy, queue_of(*requests)).requests == requests


class TestDelay:
    @pytest.fixture
    def patient(self) -> BatchingPolicy:
        return BatchingPolicy(linear_cost(), 8, max_queue_delay_seconds=0.05)

    def test_waits_for_company(self, patient: BatchingPolicy) -> None:
        queue = queue_of(make_request(arrival=NOW - 0.02))
        assert patient.next(queue, 1, NOW) == WaitUntil(NOW - 0.02 + 0.05)

    def test_the_delay_ends(self, patient: BatchingPolicy) -> None:
        assert released(patient, queue_of(make_request(arrival=NOW - 0.05))).reason == "delay"

    def test_a_full_batch_does_not_wait(self, patient: BatchingPolicy) -> None:
        assert released(patient, queue_of(make_request(*range(8)))).reason == "full"

    def test_a_batch_that_the_next_request_does_not_fit_into_is_full(self, patient: BatchingPolicy) -> None:
        first, second = (make_request(*range(5)) for _ in range(2))
        release = released(patient, queue_of(first, second))
        assert (release.requests, release.reason) == ([first], "full")

    def test_a_full_batch_does_not_wait_for_another_group_to_fill(self, patient: BatchingPolicy) -> None:
        full = make_request(*range(8), group="full", arrival=NOW)
        release = released(patient, queue_of(make_request(group="lonely", arrival=NOW - 0.01), full))
        assert release.requests == [full]

    def test_the_earliest_of_several_delays_counts(self, patient: BatchingPolicy) -> None:
        hurried = make_request(group="b", arrival=NOW, deadline=NOW + 0.02)
        decision = patient.next(queue_of(make_request(group="a", arrival=NOW - 0.01), hurried), 1, NOW)
        assert decision == WaitUntil(pytest.approx(NOW + 0.02 - 2 * 0.0025))

    def test_within_a_group_the_oldest_and_the_most_hurried_count(self, patient: BatchingPolicy) -> None:
        old = make_request(arrival=NOW - 0.03, handicap=1.0)
        queue = queue_of(make_request(arrival=NOW - 0.01), old)
        assert patient.next(queue, 1, NOW) == WaitUntil(NOW - 0.03 + 0.05), "whatever its turn is"
        queue.append(make_request(arrival=NOW, deadline=NOW + 0.02))
        queue.append(make_request(arrival=NOW, deadline=NOW + 5))
        assert patient.next(queue, 1, NOW) == WaitUntil(pytest.approx(NOW + 0.02 - 2 * 0.004)), "of four"

    def test_nobody_is_delayed_past_its_deadline(self, patient: BatchingPolicy) -> None:
        request = make_request(arrival=NOW, deadline=NOW + 0.01)
        queue = queue_of(request)
        decision = patient.next(queue, 1, NOW)
        assert isinstance(decision, WaitUntil)
        release = patient.next(queue, 1, decision.instant)
        assert isinstance(release, Release)
        assert (release.requests, release.reason) == ([request], "deadline")
        assert decision.instant + patient.cost.seconds(1, "numbers") < request.deadline

    def test_draining_does_not_wait(self, patient: BatchingPolicy) -> None:
        decision = patient.next(queue_of(make_request(arrival=NOW)), 1, NOW, draining=True)
        assert isinstance(decision, Release)
        assert decision.reason == "drain"


class TestDeadlines:
    def test_a_batch_is_no_larger_than_its_deadlines_allow(self, policy: BatchingPolicy) -> None:
        requests = due(*[0.0045] * 8)
        release = released(policy, queue_of(*requests))
        assert (release.requests, release.reason) == (requests[:4], "deadline")

    def test_the_oldest_are_left_out_where_the_rest_makes_the_better_batch(self, policy: BatchingPolicy) -> None:
        nearly_late, fresh = due(0.0026, 0.0026), due(*[0.02] * 8)
        release = released(policy, queue_of(*nearly_late, *fresh))
        assert (release.requests, release.late) == (fresh, nearly_late)

    def test_of_batches_the_one_that_answers_most_a_second_is_taken(self) -> None:
        """4 in 1.5 ms rather than 8 in 8 ms."""
        cost = CostModel([1, 2, 4, 8], {"numbers": [[0.001], [0.0012], [0.0015], [0.008]]})
        hurried, fresh = due(*[0.002] * 4), due(*[0.02] * 8)
        release = released(BatchingPolicy(cost, 8), queue_of(*hurried, *fresh))
        assert (release.requests, release.late) == (hurried, [])

    @pytest.mark.parametrize(("seconds", "left_out"), [(0.00795, False), (0.0077, True)])
    def test_the_oldest_are_left_out_only_if_that_gains_something(self, seconds: float, left_out: bool) -> None:
        """They answer one row a millisecond; 8 others in 7.95 ms are hardly more, in 7.7 ms they are 4 % more."""
        cost = CostModel([4, 8], {"numbers": [[0.004], [seconds]]})
        hurried, fresh = due(*[0.005] * 4), due(*[0.02] * 8)
        release = released(BatchingPolicy(cost, 8), queue_of(*hurried, *fresh))
        assert release.requests == (fresh if left_out else hurried)

    def test_a_large_one_that_cannot_make_it_anyway_holds_up_no_small_ones(self, policy: BatchingPolicy) -> None:
        large, small = due(0.005, rows=8), due(*[0.0045] * 4)
        release = released(policy, queue_of(*large, *small))
        assert (release.requests, release.late) == (small, large)

    def test_a_batch_that_no_deadline_shaped_does_not_say_so(self, policy: BatchingPolicy) -> None:
        assert released(policy, queue_of(*due(*[1.0] * 10))).reason == "full"

    def test_who_may_still_run_after_this_batch_stays(self) -> None:
        """A batch of 8 takes 4 ms, at best 3, seldom over 6; one request 1 ms."""
        policy = BatchingPolicy(CostModel((1, 8), {"numbers": [[0.001], [0.003, 0.004, 0.005]]}), 8)
        hopeless, hopeful, fresh = due(0.0035), due(0.005), due(*[0.02] * 8)
        release = released(policy, queue_of(*hopeless, *hopeful, *fresh))
        assert (release.requests, release.late) == (fresh, hopeless)

    def test_who_another_instance_may_take_stays(self, policy: BatchingPolicy) -> None:
        nearly_late, fresh = due(0.0026), due(*[0.02] * 8)
        assert released(policy, queue_of(*nearly_late, *fresh)).late == nearly_late
        assert released(policy, queue_of(*nearly_late, *fresh), instances=2).late == []

    def test_a_hurried_request_does_not_break_up_the_batch_of_the_others(self, policy: BatchingPolicy) -> None:
        before, hurried, after = due(1.0, 1.0), due(0.0026), due(*[1.0] * 6)
        assert released(policy, queue_of(*before, *hurried, *after)).requests == [*before, *after]

    def test_a_request_without_deadline_does_not_starve_behind_hurried_ones(self, policy: BatchingPolicy) -> None:
        patient, hurried, fresh = make_request(), due(0.0026), due(*[0.007] * 8)
        assert patient in released(policy, queue_of(patient, *hurried, *fresh)).requests

    def test_when_nobody_is_likely_to_make_it_those_run_that_may(self) -> None:
        """Together, too: noise must not turn batches into single requests just when the machine is slow."""
        noisy = BatchingPolicy(CostModel((1, 8), {"numbers": [[0.001, 0.001, 0.1], [0.002, 0.002, 0.1]]}), 8)
        requests = due(*[0.01] * 8)
        release = released(noisy, queue_of(*requests))
        assert (release.requests, release.late) == (requests, [])

    def test_an_answer_at_the_very_deadline_is_in_time(self) -> None:
        """In binary fractions of a second, which add up exactly: of two one runs, and the other is not given up yet."""
        policy = BatchingPolicy(CostModel([1, 2], {"numbers": [[0.25], [0.5]]}), 2)
        first, second = due(0.25, 0.5)
        release = released(policy, queue_of(first, second))
        assert (release.requests, release.late) == ([first], [])

    def test_a_network_that_takes_seconds_is_batched_like_one_that_takes_milliseconds(self) -> None:
        policy = BatchingPolicy(linear_cost(20.0, 5.0), 8)
        requests = due(*[45.0] * 8)
        assert released(policy, queue_of(*requests)).requests == requests[:4]

    def test_the_hopeless_are_dropped(self, policy: BatchingPolicy) -> None:
        requests = due(-1.0, 0.0, 0.002)
        release = released(policy, queue_of(*requests))
        assert (release.requests, release.late) == ([], requests)


class TestPriorities:
    def test_who_asked_for_more_goes_first(self, policy: BatchingPolicy) -> None:
        low = [make_request(arrival=NOW - 0.5, handicap=1.0) for _ in range(9)]
        urgent = make_request(arrival=NOW)
        assert released(policy, queue_of(*low, urgent)).requests == [urgent, *low[:7]]

    def test_a_level_is_worth_a_second_and_no_more(self, policy: BatchingPolicy) -> None:
        low = make_request(*range(8), arrival=NOW - 1.5, handicap=1.0)
        assert released(policy, queue_of(make_request(arrival=NOW), low)).requests == [low]

    def test_the_hurried_are_not_left_out_for_a_fuller_batch_of_lower_priority(self, policy: BatchingPolicy) -> None:
        urgent = make_request(deadline=NOW + 0.0031, arrival=NOW)
        low = [make_request(deadline=NOW + 1, arrival=NOW, handicap=1.0) for _ in range(8)]
        assert released(policy, queue_of(*low, urgent)).requests[0] is urgent

    def test_the_door_counts_only_those_whose_turn_comes_before(self, policy: BatchingPolicy) -> None:
        queue = queue_of(*(make_request(*range(8), handicap=1.0) for _ in range(10)))
        door = Admission(queue, policy, BatcherLimits(1024, 1))
        assert door.refusal(make_request(deadline=NOW + 0.01), [-math.inf], NOW) is None
        low = make_request(deadline=NOW + 0.01, handicap=1.0)
        assert isinstance(door.refusal(low, [-math.inf], NOW), DeadlineUnmeetable)


class TestTheDoor:
    def test_a_promise_that_was_not_kept_makes_the_door_careful(self, policy: BatchingPolicy) -> None:
        door = Admission(RequestQueue(), policy, BatcherLimits(100, 1))
        first, second = due(0.00255, 0.00255)
        assert door.refusal(first, [NOW + 1e-9], NOW) is None
        door.gave_up([first])
        assert isinstance(door.refusal(second, [NOW + 1e-9], NOW), DeadlineUnmeetable)

    def test_who_leaves_when_the_deadline_has_passed_was_let_in_wrongly(self, policy: BatchingPolicy) -> None:
        door = Admission(RequestQueue(), policy, BatcherLimits(100, 1))
        first, second, third = due(0.00255, 0.00255, 0.00255)
        assert door.refusal(first, [NOW + 1e-9], NOW) is None
        door.left(first, NOW + 0.002)
        assert door.refusal(second, [NOW + 1e-9], NOW) is None, "it left of its own accord"
        door.left(second, NOW + 0.003)
        assert isinstance(door.refusal(third, [NOW + 1e-9], NOW), DeadlineUnmeetable)

    def test_deadlines_that_nothing_could_meet_do_not_make_it_careful(self, policy: BatchingPolicy) -> None:
        """Else who asks for the impossible at an idle server would have its neighbours refused."""
        door = Admission(RequestQueue(), policy, BatcherLimits(100, 1))
        hopeless = due(*[0.0025] * 8)
        for request in hopeless:
            assert door.refusal(request, [-math.inf], NOW) is None
        door.ended(Release("numbers", hopeless, [], "idle"), NOW + 1)
        assert door.refusal(make_request(deadline=NOW + 0.0026), [NOW + 1e-9], NOW) is None

    def test_the_door_refuses_at_once_who_is_expected_to_be_late(self, policy: BatchingPolicy) -> None:
        door = Admission(queue_of(*due(*[0.01] * 16)), policy, BatcherLimits(100, 1))
        refused = door.refusal(make_request(deadline=NOW + 0.012), [NOW + 1e-9], NOW)
        assert isinstance(refused, DeadlineUnmeetable)
        assert refused.retry_after_seconds == pytest.approx(0.0025, rel=1e-3)
        assert door.refusal(make_request(deadline=NOW + 0.016), [NOW + 1e-9], NOW) is None

    def test_an_idle_instance_refuses_only_the_certain(self) -> None:
        inflated = CostModel((1,), {"numbers": [[0.002, 0.1, 0.1]]})
        door = Admission(RequestQueue(), BatchingPolicy(inflated, 1), BatcherLimits(100, 1))
        assert door.refusal(make_request(deadline=NOW + 0.01), [-math.inf], NOW) is None

    def test_the_door_counts_only_those_who_will_not_be_dropped_for_it(self, policy: BatchingPolicy) -> None:
        request = make_request(deadline=NOW + 0.01)
        hurried = queue_of(*due(*[0.01] * 50))
        limits = BatcherLimits(100, 1, prompt=False)
        assert Admission(hurried, policy, limits).refusal(request, [NOW], NOW) is None
        patient = queue_of(*(make_request() for _ in range(50)))
        assert isinstance(Admission(patient, policy, limits).refusal(request, [NOW], NOW), DeadlineUnmeetable)


@dataclass(frozen=True)
class Scene:
    policy: BatchingPolicy
    requests: list[PendingRequest]
    idle: int
    instances: int


@st.composite
def scenes(draw: st.DrawFn, deadlines: st.SearchStrategy[float]) -> Scene:
    buckets = draw(st.sampled_from([(1, 2, 4, 8), (1, 2, 3, 4, 5, 6, 7, 8), (1, 2, 4, 8, 12), (5,)]))
    steps = draw(st.lists(st.floats(0, 0.01), min_size=len(buckets), max_size=len(buckets)))
    spread = draw(st.sampled_from([0.0, 0.002]))
    means = np.cumsum(steps) + 0.0005
    cost = CostModel(buckets, {"numbers": [[mean - spread, mean, mean + spread] for mean in means]})
    rows = st.integers(1, buckets[-1])
    shapes = draw(st.lists(st.tuples(st.one_of(st.just(1), rows), deadlines), min_size=1, max_size=24))
    requests = [make_request(*range(count), deadline=NOW + left) for count, left in shapes]
    instances = draw(st.integers(1, 3))
    return Scene(BatchingPolicy(cost, buckets[-1]), requests, draw(st.integers(1, instances)), instances)


def rows_of(requests: list[PendingRequest]) -> int:
    return sum(request.rows for request in requests)


@settings(max_examples=300)
@given(scenes(st.one_of(st.floats(-0.001, 0.06), st.just(math.inf))))
def test_every_release_keeps_the_promises(scene: Scene) -> None:
    policy, cost, waiting = scene.policy, scene.policy.cost, scene.requests
    release = released(policy, queue_of(*waiting), scene.idle, instances=scene.instances)
    taken, late = release.requests, release.late

    assert taken or late, "no progress"
    assert rows_of(taken) <= policy.max_batch_size
    positions = [waiting.index(request) for request in taken]
    assert positions == sorted(set(positions)), "order of arrival"
    assert not set(map(id, taken)) & set(map(id, late))

    def in_time(request: PendingRequest, rows: int) -> bool:
        return NOW + cost.bound_seconds(rows, "numbers") <= request.deadline

    if not all(in_time(request, rows_of(taken)) for request in taken):
        assert not any(in_time(request, request.rows) for request in waiting), "a safe batch was possible"
    free = NOW + (cost.least_seconds(rows_of(taken), "numbers") if taken and scene.instances == 1 else 0.0)
    for request in late:
        assert free + cost.least_seconds(request.rows, "numbers") > request.deadline, "dropped too early"
    if waiting[0].deadline == math.inf:
        assert waiting[0] in taken, "the patient keep their turn"
    if not taken:
        assert all(NOW + cost.least_seconds(request.rows, "numbers") > request.deadline for request in waiting)


@given(scenes(st.just(math.inf)))
def test_without_deadlines_nobody_is_dropped_and_order_is_kept(scene: Scene) -> None:
    queue, served = queue_of(*scene.requests), []
    while len(queue):
        release = released(scene.policy, queue, scene.idle, instances=scene.instances)
        assert not release.late
        queue.take(release.group, release.requests)
        served += release.requests
    assert served == scene.requests


SEEDS = (1, 2)


@pytest.mark.parametrize("load", [0.9, 1.0, 1.5, 2.0])
@pytest.mark.parametrize("profile", PROFILES)
def test_answers_nearly_as_many_in_time_as_the_clairvoyant_optimum(profile: str, load: float) -> None:
    """800 arrivals at a multiple of the capacity without loss: at least 0.95 of the optimum."""
    fixed, per_row, limit, max_batch_size = PROFILES[profile]
    lossless_batch = (limit / 2 - fixed) / per_row
    rate = load * 2 * lossless_batch / limit
    policy = BatchingPolicy(linear_cost(fixed, per_row, range(1, max_batch_size + 1), ("g",)), max_batch_size)
    ours = best = in_order = 0
    for seed in SEEDS:
        arrivals = poisson(rate, 800, seed)
        ours += simulate(arrivals, limit, policy).in_time
        in_order += simulate(arrivals, limit, policy, first_come_first_served(max_batch_size)).in_time
        best += optimum(arrivals, limit, policy)
    assert ours >= 0.95 * best, f"{ours / best:.3f} of the optimum"
    if load >= 1.5:
        assert in_order < 0.5 * best, "first come first served is expected to collapse past capacity"
        assert ours > 2 * in_order


@pytest.mark.parametrize("load", [0.9, 1.0, 1.5, 2.0])
@pytest.mark.parametrize("profile", PROFILES)
def test_prompt_refusals_cost_little(profile: str, load: float) -> None:
    """3,000 arrivals: at least 0.95 of the clairvoyant optimum, and past capacity nearly all refusals at the door."""
    fixed, per_row, limit, max_batch_size = PROFILES[profile]
    lossless_batch = (limit / 2 - fixed) / per_row
    policy = BatchingPolicy(linear_cost(fixed, per_row, range(1, max_batch_size + 1), ("g",)), max_batch_size)
    arrivals = poisson(load * 2 * lossless_batch / limit, 3000, seed=1)
    outcome = simulate(arrivals, limit, policy, prompt=True)
    best = optimum(arrivals, limit, policy)
    assert outcome.in_time >= 0.95 * best, f"{outcome.in_time / best:.3f} of the optimum"
    if load > 1:
        assert outcome.dropped <= 0.05 * (outcome.dropped + outcome.refused)


@pytest.mark.parametrize("arrivals", [poisson, gamma])
@pytest.mark.parametrize("load", [1.5, 3.0])
def test_prompt_refusals_leave_the_urgent_alone_while_their_own_load_is_borne(
    load: float, arrivals: Callable[[float, int, int], list[float]]
) -> None:
    """A large network; half of the capacity is asked for with priority 1, the rest of the load with priority 2."""
    fixed, per_row, limit, max_batch_size = 5e-5, 6.7e-4, 0.05, 32
    policy = BatchingPolicy(linear_cost(fixed, per_row, buckets_up_to(max_batch_size), ("g",)), max_batch_size)
    capacity = max_batch_size / (fixed + per_row * max_batch_size)
    urgent_share = 0.5 / load
    generator = random.Random(2)
    handicaps = [0.0 if generator.random() < urgent_share else 1.0 for _ in range(6000)]
    trace = arrivals(load * capacity, 6000, 1)
    outcome = simulate(trace, limit, policy, prompt=True, handicaps=handicaps)
    assert outcome.in_time_by[0.0] >= 0.99 * handicaps.count(0.0)
    assert outcome.in_time >= 0.85 * capacity * trace[-1], "the others have what is left"


@pytest.mark.parametrize("profile", PROFILES)
def test_refuses_at_the_door_although_batches_take_longer_than_they_did(profile: str) -> None:
    """Twice the capacity that is left, and costs that say less than what is taken: the waits tell."""
    slower = 1.2
    fixed, per_row, limit, max_batch_size = PROFILES[profile]
    lossless_batch = (limit / 2 / slower - fixed) / per_row
    policy = BatchingPolicy(linear_cost(fixed, per_row, range(1, max_batch_size + 1), ("g",)), max_batch_size)
    arrivals = poisson(4 * lossless_batch / limit, 3000, seed=1)
    outcome = simulate(arrivals, limit, policy, prompt=True, slower=slower)
    real = linear_cost(slower * fixed, slower * per_row, range(1, max_batch_size + 1), ("g",))
    best = optimum(arrivals, limit, BatchingPolicy(real, max_batch_size))
    assert outcome.in_time >= 0.8 * best, f"{outcome.in_time / best:.3f} of the optimum"
    assert outcome.dropped <= 0.1 * (outcome.dropped + outcome.refused)


def test_a_pause_of_the_machine_costs_little_more_than_its_own_time() -> None:
    """It lasts for a fifth of the trace, and 60 time limits are left after it."""
    fixed, per_row, limit, max_batch_size = PROFILES["mid"]
    rate = 1.5 * 2 * (limit / 2 - fixed) / per_row / limit
    arrivals = poisson(rate, round(100 * limit * rate), seed=1)

    def in_time(until: float) -> int:
        cost = linear_cost(fixed, per_row, buckets_up_to(max_batch_size), ("g",))
        policy = BatchingPolicy(cost, max_batch_size)
        return simulate(arrivals, limit, policy, prompt=True, pause=(20 * limit, until)).in_time

    assert in_time(40 * limit) >= 0.72 * in_time(20 * limit)


@pytest.mark.parametrize("prompt", [True, False])
def test_on_a_machine_that_became_slower_who_has_no_chance_is_told_at_once(prompt: bool) -> None:
    """All have less time than a batch of one takes by now, and more than it took: most ran, for nobody."""
    policy = BatchingPolicy(linear_cost(0.002, 0.0005, buckets_up_to(32), ("g",)), 32)
    outcome = simulate(poisson(100, 3000, seed=1), 0.006, policy, prompt=prompt, slower=3.0)
    assert outcome.refused >= 0.85 * 3000


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
@pytest.mark.parametrize("profile", PROFILES)
def test_mean_latency_below_saturation_is_as_inoue_predicts(profile: str, load: float) -> None:
    fixed, per_row, _, _ = PROFILES[profile]
    policy = BatchingPolicy(linear_cost(fixed, per_row, range(1, 257), ("g",)), 256)
    outcome = simulate(poisson(load / per_row, 10_000, seed=5), math.inf, policy)
    assert np.mean(outcome.latencies) == pytest.approx(mean_latency_bound(load / per_row, fixed, per_row), rel=0.10)


def test_trimming_padding_answers_more_in_time() -> None:
    """Buckets in powers of two, no gain from batching: what is padded is not answered."""

    class Untrimmed(BatchingPolicy):
        def _trim(self, taken: list[PendingRequest]) -> list[PendingRequest]:
            return taken

    def in_time(policy: type[BatchingPolicy]) -> int:
        cost = linear_cost(0.5, 5.0, (1, 2, 4, 8), ("g",))
        return simulate(poisson(0.2, 5_000, seed=3), 50.0, policy(cost, 8)).in_time

    assert in_time(BatchingPolicy) > 1.01 * in_time(Untrimmed)


class Greedy(BatchingPolicy):
    """Takes all that waits."""

    def _share(self, waiting: Sequence[PendingRequest], _idle: int, _left: float) -> int:
        return min(self.cost.bucket_of(len(waiting)), self.max_batch_size)


def test_leaving_a_part_lowers_latencies_where_batching_gains_little() -> None:
    cost, arrivals = linear_cost(0.1, 1.0, groups=("g",)), poisson(0.7, 5_000, seed=3)
    ours = simulate(arrivals, math.inf, BatchingPolicy(cost, 8)).latencies
    greedy = simulate(arrivals, math.inf, Greedy(cost, 8)).latencies
    assert np.mean(ours) < 0.97 * np.mean(greedy)
    assert np.quantile(ours, 0.99) < np.quantile(greedy, 0.99)


def test_nothing_is_left_where_batching_pays() -> None:
    cost, arrivals = linear_cost(2.0, 0.1, groups=("g",)), poisson(2.0, 5_000, seed=3)
    ours = simulate(arrivals, math.inf, BatchingPolicy(cost, 8))
    assert ours == simulate(arrivals, math.inf, Greedy(cost, 8))


@given(st.integers(1, 3))
def test_a_policy_is_pure(idle: int) -> None:
    requests = due(0.003, 0.01, 1.0, math.inf)
    queue = queue_of(*requests)
    policy = BatchingPolicy(linear_cost(), 8)
    assert released(policy, queue, idle) == released(policy, queue, idle)
    assert queue.waiting("numbers") == requests
