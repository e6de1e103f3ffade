"""What is foreseen at the door, case by case."""

from __future__ import annotations

import math

import pytest

from service.batching.forecast import Forecast
from service.batching.queue import RequestQueue
from service.batching.request import PendingRequest
from tests.fakes import linear_cost, make_request

NOW = 100.0
BUSY = [NOW + 0.01]


def queue_of(*deadlines: float) -> RequestQueue:
    """Requests of a row that wait, with deadlines so far from now."""
    queue = RequestQueue()
    for seconds in deadlines:
        queue.append(make_request(deadline=NOW + seconds, arrival=NOW))
    return queue


def arriving(rows: int = 1) -> PendingRequest:
    return make_request(*range(rows), arrival=NOW)


def forecast(queue: RequestQueue, fixed: float = 0.002, per_row: float = 0.0005, enough: int = 8) -> Forecast:
    """l(b) = 2 ms + b / 2 ms up to 8, measured without a deviation: 2.5, 3, 4 and 6 ms."""
    return Forecast(queue, linear_cost(fixed, per_row), enough)


class TestExpectedFinish:
    """Where the deadline is before everything else, so that the batch is the one that answers most a second."""

    def finish(self, forecast: Forecast, rows: int = 1, rate: float = 0.0) -> float:
        return forecast.expected_finish(arriving(rows), BUSY, NOW, rate, NOW) - NOW

    def test_its_batch_grows_while_an_instance_is_busy(self) -> None:
        assert self.finish(forecast(queue_of(1)), rate=290.0) == pytest.approx(0.01 + 0.004), "4 of 5"

    def test_it_grows_to_one_with_padding_if_that_answers_more(self) -> None:
        assert self.finish(forecast(queue_of(1)), rate=490.0) == pytest.approx(0.01 + 0.006), "7 of 8"

    def test_it_grows_no_further_than_pays(self) -> None:
        assert self.finish(forecast(queue_of(1), 0.0, 0.001), rate=1e6) == pytest.approx(0.01 + 0.008)
        assert self.finish(forecast(queue_of(1), 0.0, 0.02), rate=1e6) == pytest.approx(0.01 + 0.04), (
            "2 rows, as good as 8"
        )

    def test_it_grows_to_the_largest_at_most(self) -> None:
        assert self.finish(forecast(queue_of(*[1] * 7)), rate=1e6) == pytest.approx(0.01 + 0.006)

    def test_whole_batches_run_before_it(self) -> None:
        assert self.finish(forecast(queue_of(*[1] * 16))) == pytest.approx(0.01 + 2 * 0.006 + 0.0025)

    def test_they_are_shared_by_the_instances(self) -> None:
        busy = [NOW + 0.01, NOW + 0.02]
        finish = forecast(queue_of(*[1] * 16)).expected_finish(arriving(), busy, NOW, 0.0, NOW)
        assert finish == pytest.approx(NOW + 0.01 + 0.006 + 0.0025)

    def test_they_are_of_the_size_that_runs(self) -> None:
        assert self.finish(forecast(queue_of(*[1] * 7), enough=4), rate=1e6) == pytest.approx(0.01 + 0.004 + 0.004)
        large = self.finish(forecast(RequestQueue(), enough=4), rows=8)
        assert large == pytest.approx(0.01 + 0.006), "no batch before it, as nobody is ahead"

    def test_the_next_one_is_no_larger_than_the_first_in_line_can_bear(self) -> None:
        queue = queue_of(0.0145, *[1] * 7)
        assert self.finish(forecast(queue)) == pytest.approx(0.01 + 0.004 + 0.006), "4 run, then 4 and it"

    def test_who_can_bear_no_batch_is_left_out(self) -> None:
        queue = queue_of(0.01, *[1] * 7)
        assert self.finish(forecast(queue)) == pytest.approx(0.01 + 0.006 + 0.0025), "8 run, as far as is known"

    def test_a_pause_in_a_batch_of_one_row_does_not_make_all_hopeless(self) -> None:
        cost = linear_cost()
        cost.observe(1, "numbers", 1.0)
        foreseen = Forecast(queue_of(*[0.05] * 16), cost, 8)
        late = foreseen.expected_finish(arriving(), BUSY, NOW, 1e6, NOW)
        assert late == pytest.approx(NOW + 0.01 + 3 * 0.006), "two batches before it"

    def test_an_instance_that_is_overdue_does_not_make_the_queue_vanish(self) -> None:
        queue = queue_of(*[0.05] * 64)
        finish = forecast(queue).expected_finish(arriving(), [NOW - 1], NOW + 0.1, 1e6, NOW)
        assert finish == pytest.approx(NOW + 0.1 + 9 * 0.006)

    def test_whose_group_is_another_shapes_no_batch_of_this_one(self) -> None:
        queue = queue_of(*[1] * 7)
        queue.append(make_request(group="letters", deadline=NOW + 0.0145, arrival=NOW - 1))
        assert self.finish(forecast(queue)) == pytest.approx(0.01 + 0.006 + 0.0025)

    def test_it_does_not_make_a_batch_larger_than_the_first_can_bear(self) -> None:
        finish = self.finish(forecast(queue_of(0.0145)), rate=1e6)
        assert finish == pytest.approx(0.01 + 0.004), "no more than 4"

    def test_a_request_that_does_not_fit_to_the_rest_takes_another_batch(self) -> None:
        assert self.finish(forecast(queue_of(*[1] * 7)), rows=4) == pytest.approx(0.01 + 0.006 + 0.004)

    def test_and_the_rest_runs_by_itself(self) -> None:
        assert self.finish(forecast(queue_of(1)), rows=8) == pytest.approx(0.01 + 0.0025 + 0.006)

    def test_who_overtakes_waits_for_those_before_it_only(self) -> None:
        queue = RequestQueue()
        for _ in range(16):
            queue.append(make_request(arrival=NOW, handicap=1.0, deadline=NOW + 0.012))
        finish = forecast(queue).expected_finish(arriving(), BUSY, NOW, 0.0, NOW)
        assert finish == pytest.approx(NOW + 0.01 + 0.0025)

    def test_what_ends_in_time_with_all_who_may_come_is_not_looked_into(self) -> None:
        full = forecast(queue_of(1), 0.0, 0.02).expected_finish(arriving(), BUSY, NOW, 1e6, NOW + 1)
        assert full == pytest.approx(NOW + 0.01 + 0.16), "8 rows, where 2 would be planned"


class TestFinishAtBest:
    def finish(self, queue: RequestQueue, busy: list[float], rows: int = 1) -> float:
        return forecast(queue).finish_at_best(arriving(rows), busy, NOW) - NOW

    def test_an_idle_instance(self) -> None:
        assert self.finish(RequestQueue(), [-math.inf]) == pytest.approx(0.0025)

    def test_a_busy_one(self) -> None:
        assert self.finish(RequestQueue(), [NOW + 1, NOW + 2], rows=2) == pytest.approx(1.003)

    def test_whole_batches_before_it_are_shared(self) -> None:
        queue = queue_of(*[math.inf] * 32)
        assert self.finish(queue, [NOW, NOW]) == pytest.approx(4 * 0.006 / 2 + 0.0025)

    def test_the_rest_before_it_shares_its_batch(self) -> None:
        assert self.finish(queue_of(*[math.inf] * 3), [NOW]) == pytest.approx(0.004)

    def test_a_request_that_does_not_fit_to_the_rest_takes_another_batch(self) -> None:
        assert self.finish(queue_of(*[math.inf] * 7), [NOW], rows=4) == pytest.approx(0.006 + 0.004)

    def test_one_larger_than_others_are_put_together_to_runs_by_itself(self) -> None:
        alone = forecast(RequestQueue(), enough=4).finish_at_best(arriving(8), [NOW], NOW)
        assert alone == pytest.approx(NOW + 0.006)

    def test_who_has_a_deadline_may_be_dropped_for_it(self) -> None:
        assert self.finish(queue_of(*[1] * 32), [NOW]) == pytest.approx(0.0025)
