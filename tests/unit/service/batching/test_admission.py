"""Who is refused at the door, case by case; what it is worth under load is in ``test_policy.py``."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from service.batching.admission import Admission, BatcherLimits
from service.batching.occupancy import IDLE
from service.batching.policy import BatchingPolicy, Release
from service.batching.queue import RequestQueue
from service.batching.request import PendingRequest
from service.errors import DeadlineExceeded, DeadlineUnmeetable, QueueFull
from tests.fakes import linear_cost, make_request

NOW = 100.0
BUSY = [NOW + 0.01]


class Door:
    """Admission to a queue that stays empty, unless a test fills it; l(b) = 2 ms + b / 2 ms, known exactly."""

    def __init__(
        self, most: int = 8, instances: int = 1, prompt: bool = True, places: int = 100, fixed: float = 0.002
    ) -> None:
        self.queue = RequestQueue()
        self.cost = linear_cost(fixed, buckets=[size for size in (1, 2, 4, 8) if size <= most])
        policy = BatchingPolicy(self.cost, most)
        self.admission = Admission(self.queue, policy, BatcherLimits(places, instances, prompt))

    def refusal(
        self, request: PendingRequest, busy_until: Sequence[float] = BUSY, now: float = NOW
    ) -> DeadlineUnmeetable | None:
        """Return why it is not let in, or None."""
        error = self.admission.refusal(request, busy_until, now)
        assert error is None or isinstance(error, DeadlineUnmeetable)
        return error

    def a_thousand_a_second(self, handicap: float = 0.0) -> None:
        """What came of late, up to now: patient requests of a row."""
        for number in range(24):
            now = NOW - 0.023 + number / 1000
            assert self.admission.refusal(make_request(arrival=now, handicap=handicap), BUSY, now) is None


def limited(seconds: float, rows: int = 1, handicap: float = 0.0, group: str = "numbers") -> PendingRequest:
    return make_request(*range(rows), deadline=NOW + seconds, arrival=NOW, handicap=handicap, group=group)


class TestAtTheDoor:
    def test_a_full_queue_says_how_long_its_batches_take_on_all_instances(self) -> None:
        door = Door(instances=2, places=5)
        for _ in range(4):
            door.queue.append(make_request(*range(8)))
        assert door.admission.refusal_at_door(reserved=0) is None
        error = door.admission.refusal_at_door(reserved=1)
        assert isinstance(error, QueueFull)
        assert error.facts == {"queued": "5", "limit": "5"}
        assert error.retry_after_seconds == pytest.approx(2 * 0.006)

    def test_one_of_small_requests_says_no_less_than_a_batch(self) -> None:
        error = Door(places=1).admission.refusal_at_door(reserved=1)
        assert isinstance(error, QueueFull)
        assert error.retry_after_seconds == pytest.approx(0.006)

    def test_less_than_a_batch_is_no_more_than_it_takes(self) -> None:
        """Nor less: what a full one takes may never have been seen, where queues are short."""
        door = Door(places=3)
        for _ in range(40):
            door.cost.observe(3, "numbers", 0.3)
        for _ in range(3):
            door.queue.append(make_request(1.0))
        error = door.admission.refusal_at_door(reserved=0)
        assert isinstance(error, QueueFull)
        assert error.retry_after_seconds == pytest.approx(0.3, rel=0.1)


class TestArrivals:
    def test_a_deadline_that_is_now_has_passed(self) -> None:
        assert isinstance(Door().admission.refusal(limited(0.0), [IDLE], NOW), DeadlineExceeded)

    def test_what_comes_before_the_next_batch_begins_makes_it_larger(self) -> None:
        assert Door().refusal(limited(0.014)) is None, "10 ms and 2.5"
        door = Door()
        door.a_thousand_a_second()
        assert door.refusal(limited(0.014)) is not None, "10 ms and 6"

    def test_of_what_comes_each_instance_gets_its_part(self) -> None:
        one, four = Door(instances=1), Door(instances=4)
        for door in (one, four):
            door.a_thousand_a_second()
        assert one.refusal(limited(0.015)) is not None, "8 rows"
        assert four.refusal(limited(0.015), BUSY * 4) is None, "4"

    @pytest.mark.parametrize(("others", "own", "counts"), [(0.0, 0.0, True), (0.0, 1.0, True), (1.0, 0.0, False)])
    def test_who_has_a_lower_priority_does_not_make_the_batch_larger(
        self, others: float, own: float, counts: bool
    ) -> None:
        door = Door()
        door.a_thousand_a_second(others)
        assert (door.refusal(limited(0.014, handicap=own)) is not None) == counts

    def test_those_who_were_told_the_same_have_come_as_well(self) -> None:
        door = Door()
        door.admission.repeated(1, 1, 0.0, NOW - 0.02)
        door.admission.repeated(10, 2, 0.0, NOW)
        assert door.refusal(limited(0.015)) is not None, "10 ms and 6, where 14 ms are enough for 4 rows"

    @pytest.mark.parametrize("busy_until", [[IDLE, NOW + 1], [NOW + 1, IDLE]])
    def test_with_an_instance_idle_only_the_certain_is_refused(self, busy_until: list[float]) -> None:
        door = Door(instances=2)
        door.cost.observe(1, "numbers", 1.0)  # a pause of the machine
        request = limited(0.003)
        assert door.refusal(request, busy_until) is None, "2.5 ms at best"
        assert not request.promised
        assert door.refusal(limited(0.002), busy_until) is not None
        assert door.admission.last_refusal is None, "nobody else is told so, as the next may be let in"

    def test_late_refusals_are_told_to_nobody_else(self) -> None:
        door = Door(prompt=False)
        assert door.refusal(limited(0.012)) is not None
        assert door.admission.last_refusal is None

    def test_a_refusal_says_how_many_wait(self) -> None:
        door = Door()
        for _ in range(3):
            door.queue.append(make_request())
        error = door.refusal(limited(0.005))
        assert error is not None
        assert error.facts["queued"] == "3"


class TestRepeatedRefusals:
    def test_who_asks_for_no_less_is_told_the_same(self) -> None:
        door = Door()
        first = door.refusal(limited(0.005))
        again = door.refusal(limited(0.006))
        assert first is not None
        assert again is not None
        assert again.message == first.message, "not predicted anew"

    def test_who_asks_for_less_is_looked_at(self) -> None:
        door = Door()
        assert door.refusal(limited(0.015, rows=8)) is not None
        assert door.refusal(limited(0.015)) is None

    def test_after_a_moment_it_is_predicted_anew(self) -> None:
        door = Door()
        assert door.refusal(limited(0.012)) is not None
        assert door.refusal(limited(0.012), [NOW + 0.001], now=NOW + 0.001) is None

    def test_none_holds_once_a_batch_has_ended(self) -> None:
        door = Door()
        assert door.refusal(limited(0.012)) is not None
        last = door.admission.last_refusal
        assert last is not None
        assert door.admission.repeats(last, NOW + 0.012, NOW)
        door.admission.ended(Release("numbers", [], [], "idle"), NOW)
        assert door.admission.last_refusal is None
        assert not door.admission.repeats(last, NOW + 0.012, NOW)

    def test_none_holds_once_somebody_has_left_the_queue(self) -> None:
        door = Door()
        waiting = make_request(arrival=NOW)
        door.queue.append(waiting)
        assert door.refusal(limited(0.012)) is not None
        last = door.admission.last_refusal
        assert last is not None
        assert door.admission.repeats(last, NOW + 0.012, NOW)
        door.queue.remove(waiting)
        assert not door.admission.repeats(last, NOW + 0.012, NOW)

    def test_none_holds_once_an_instance_was_found_idle(self) -> None:
        door = Door()
        assert door.refusal(limited(0.012)) is not None
        assert door.refusal(limited(0.02), [IDLE]) is None
        assert door.admission.last_refusal is None


class TestPromises:
    """A batch of one row, so that each broken promise makes all waits 0.3 longer: 12.5 ms become 16.25."""

    def is_careful(self, door: Door, handicap: float = 0.0) -> bool:
        door.admission.last_refusal = None
        assert door.refusal(limited(0.017, handicap=handicap)) is None
        return door.refusal(limited(0.014, handicap=handicap)) is not None

    def promised(self, door: Door, handicap: float = 0.0) -> PendingRequest:
        request = limited(0.02, handicap=handicap)
        assert door.refusal(request) is None
        assert request.promised
        return request

    @pytest.mark.parametrize(("seconds", "is_late"), [(0.02, False), (0.021, True)])
    def test_an_answer_after_the_deadline_makes_it_careful(self, seconds: float, is_late: bool) -> None:
        door = Door(most=1)
        door.admission.ended(Release("numbers", [self.promised(door)], [], "idle"), NOW + seconds)
        assert self.is_careful(door) == is_late

    def test_so_does_who_is_given_up(self) -> None:
        door = Door(most=1)
        door.admission.gave_up([self.promised(door)])
        assert self.is_careful(door)

    @pytest.mark.parametrize(("seconds", "is_late"), [(0.019, False), (0.02, True)])
    def test_so_does_who_leaves_at_the_deadline_and_no_sooner(self, seconds: float, is_late: bool) -> None:
        door = Door(most=1)
        door.admission.left(self.promised(door), NOW + seconds)
        assert self.is_careful(door) == is_late

    @pytest.mark.parametrize("deadline", [0.02, math.inf])
    def test_to_whom_nothing_was_promised_nothing_was_broken(self, deadline: float) -> None:
        door = Door(most=1)
        request = limited(deadline)
        assert door.refusal(request, [IDLE]) is None
        door.admission.gave_up([request])
        assert not self.is_careful(door)

    def test_a_promise_to_who_is_overtaken_does_not_make_it_careful_with_others(self) -> None:
        door = Door(most=1)
        door.admission.gave_up([self.promised(door, handicap=1.0)])
        assert self.is_careful(door, handicap=1.0)
        assert not self.is_careful(door)

    @pytest.mark.parametrize("how", ["anew", "again", "by the door"])
    def test_some_hundred_refusals_make_it_trusting_again(self, how: str) -> None:
        door = Door(most=1)
        door.admission.gave_up([self.promised(door)])
        for number in range(340):
            if how == "by the door":
                door.admission.repeated(1, 1, 0.0, NOW)
            else:
                assert door.refusal(limited(0.005, group=str(number) if how == "anew" else "numbers")) is not None
        assert not self.is_careful(door)

    def test_refusals_of_what_is_impossible_anyway_do_not(self) -> None:
        door = Door(most=1)
        door.admission.gave_up([self.promised(door)])
        for _ in range(340):
            assert door.refusal(limited(0.002), [IDLE]) is not None
        assert self.is_careful(door)


class TestPauses:
    """A batch of one row that should take 2.5 ms, and as in ``TestPromises``; every request came while it ran."""

    UNTIL = NOW + 0.0025

    def is_careful_after(self, door: Door) -> bool:
        """Of who comes later; 12.5 ms are predicted, or 16.25."""
        later = NOW + 1
        busy = [later + 0.01]
        request = make_request(deadline=later + 0.014, arrival=later)
        return door.refusal(request, busy, later) is not None

    def promised(self, door: Door) -> PendingRequest:
        request = limited(0.017)
        assert door.refusal(request) is None
        assert request.promised
        return request

    @pytest.mark.parametrize(
        ("predicted", "seconds", "careful"),
        [(0.0025, 0.0099, True), (0.0025, 0.0101, False), (0.0001, 0.005, True), (0.0001, 0.0052, False)],
    )
    def test_whom_a_pause_keeps_waiting_is_no_broken_promise(
        self, predicted: float, seconds: float, careful: bool
    ) -> None:
        """Whether they leave meanwhile, are given up or are answered by the next batch."""
        door = Door(most=1)
        running, leaving, waiting, last = limited(0.001), self.promised(door), self.promised(door), self.promised(door)
        door.admission.left(leaving, NOW + 0.02)
        end = NOW + 0.1
        door.admission.ended(Release("numbers", [running], [], "idle"), end, end - seconds, end - seconds + predicted)
        door.admission.gave_up([waiting])
        door.admission.ended(Release("numbers", [last], [], "idle"), end + 0.0025, end, end + 0.0025)
        assert self.is_careful_after(door) == careful

    def test_while_it_lasts_the_door_is_careful(self) -> None:
        door = Door(most=1)
        door.admission.left(self.promised(door), NOW + 0.02)
        assert self.is_careful_after(door)

    def test_afterwards_it_is_as_careful_as_before(self) -> None:
        door = Door(most=1)
        door.admission.gave_up([self.promised(door)])
        batch = Release("numbers", [limited(1.0)], [], "idle")
        door.admission.ended(batch, NOW + 0.0025, NOW, self.UNTIL)
        door.admission.left(self.promised(door), NOW + 0.02)
        door.admission.ended(batch, NOW + 0.9, NOW, self.UNTIL)
        assert self.is_careful_after(door)

    def test_promises_made_after_it_count(self) -> None:
        door = Door(most=1)
        door.admission.ended(Release("numbers", [limited(1.0)], [], "idle"), NOW, NOW - 1, NOW - 1 + 0.0025)
        door.admission.gave_up([self.promised(door)])
        assert self.is_careful_after(door)


class TestTrials:
    """What was measured at load may be of a busy machine, and nothing that is given up corrects it."""

    IDLE_NOW = (IDLE,)

    def asked(self, door: Door, seconds_later: float) -> tuple[PendingRequest, DeadlineUnmeetable | None]:
        now = NOW + seconds_later
        request = make_request(deadline=now + 0.002, arrival=now)  # a row takes 2.5 ms
        return request, door.refusal(request, self.IDLE_NOW, now)

    def test_of_those_who_are_given_up_while_nothing_runs_one_is_let_in_now_and_then(self) -> None:
        door = Door()
        let_in = [tenth for tenth in range(35) if self.asked(door, tenth / 10)[1] is None]
        assert let_in == [10, 20, 30]

    def test_who_is_let_in_runs_whatever_is_thought_of_it(self) -> None:
        door = Door()
        self.asked(door, 0.0)
        request, error = self.asked(door, 1.0)
        assert error is None
        door.queue.append(request)
        decision = BatchingPolicy(door.cost, 8).next(door.queue, 1, NOW + 1.0)
        assert isinstance(decision, Release)
        assert (decision.requests, decision.late) == ([request], [])

    def test_after_one_good_run_the_others_are_let_in(self) -> None:
        door = Door()
        self.asked(door, 0.0)
        request, _ = self.asked(door, 1.0)
        door.cost.observe(1, request.group, 0.001)
        door.admission.ended(Release(request.group, [request], [], "idle"), NOW + 1.001)
        assert self.asked(door, 1.1)[1] is None

    def test_what_costs_much_is_tried_more_seldom(self) -> None:
        door = Door(fixed=0.25)
        let_in = [second for second in range(12) if self.asked(door, second)[1] is None]
        assert let_in == [6], "not more than a twentieth of the time"

    def test_a_refusal_tells_when_the_next_one_is_let_in(self) -> None:
        door = Door()
        for later, seconds in ((0.0, 1.0), (0.75, 0.25)):
            error = self.asked(door, later)[1]
            assert error is not None
            assert error.retry_after_seconds == pytest.approx(seconds)

    def test_what_runs_needs_no_trial(self) -> None:
        door = Door()
        assert self.asked(door, 0.0)[1] is not None
        door.admission.ended(Release("numbers", [make_request()], [], "idle"), NOW + 0.9)
        assert self.asked(door, 1.0)[1] is not None
        assert self.asked(door, 1.9)[1] is not None
        assert self.asked(door, 2.0)[1] is None

    @pytest.mark.parametrize("ran", [make_request(group="longer"), make_request(*range(8))], ids=["group", "size"])
    def test_what_runs_of_another_group_or_size_is_no_trial(self, ran: PendingRequest) -> None:
        """It corrects nothing: long sentences were shut out for good while short ones came."""
        door = Door()
        assert self.asked(door, 0.0)[1] is not None
        door.admission.ended(Release(ran.group, [ran], [], "idle"), NOW + 0.9)
        assert self.asked(door, 1.0)[1] is None

    def test_an_idle_instance_tries_whatever_another_runs(self) -> None:
        door = Door(instances=2)
        for later, let_in in ((0.0, False), (0.9, False), (1.0, True)):
            now = NOW + later
            request = make_request(deadline=now + 0.002, arrival=now)
            assert (door.refusal(request, [now + 0.01, IDLE], now) is None) == let_in

    def test_who_was_let_in_and_dropped_before_it_ran_has_come_in_vain_as_well(self) -> None:
        door = Door()
        door.admission.too_late(make_request(deadline=NOW + 0.002), NOW)
        assert self.asked(door, 1.0)[1] is None
