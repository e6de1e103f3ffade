"""The measured cost: prediction, learning, and no estimate that can shut itself out for good."""

from __future__ import annotations

import threading

import pytest

from service.batching.cost import CostModel, buckets_up_to
from tests.fakes import GUARD_SECONDS, linear_cost


@pytest.mark.parametrize(
    ("largest", "buckets"), [(1, (1,)), (2, (1, 2)), (12, (1, 2, 4, 8, 12)), (16, (1, 2, 4, 8, 16))]
)
def test_buckets_are_powers_of_two_and_the_largest(largest: int, buckets: tuple[int, ...]) -> None:
    assert buckets_up_to(largest) == buckets


@pytest.mark.parametrize(("rows", "bucket"), [(1, 1), (2, 2), (3, 4), (5, 8), (8, 8), (9, 9)])
def test_a_batch_runs_at_the_next_bucket(rows: int, bucket: int) -> None:
    assert linear_cost().bucket_of(rows) == bucket


@pytest.mark.parametrize(("rows", "bucket"), [(1, 0), (2, 1), (3, 2), (8, 4), (9, 8), (99, 8)])
def test_the_bucket_below_is_the_largest_of_fewer_rows(rows: int, bucket: int) -> None:
    assert linear_cost().bucket_below(rows) == bucket


def test_starts_from_the_median_and_the_spread() -> None:
    cost = CostModel([1], {"g": [[1.0, 1.2, 9.0]]})
    assert cost.seconds(1, "g") == 1.2
    assert cost.bound_seconds(1, "g") == pytest.approx(1.2 + 3 * (0.2 + 7.8) / 3)
    assert cost.least_seconds(1, "g") == 1.0


def test_learns_how_far_runs_differ() -> None:
    cost = linear_cost()
    for number in range(200):
        cost.observe(4, "numbers", 0.1 if number % 2 else 0.3)
    mean, bound = cost.seconds(4, "numbers"), cost.bound_seconds(4, "numbers")
    assert mean == pytest.approx(0.2, rel=0.1)
    assert bound - mean == pytest.approx(3 * 0.1, rel=0.1)
    assert cost.table()["numbers"][2] == (4, mean)


def test_what_nobody_tests_stays_as_uncertain_as_it_was_at_first() -> None:
    cost = CostModel([1, 2], {"g": [[0.001], [0.001, 0.002, 0.003]]})
    bound = cost.bound_seconds(2, "g")
    for _ in range(900):
        cost.observe(1, "g", 0.001)
    assert cost.bound_seconds(2, "g") == pytest.approx(bound)


def test_past_the_largest_a_batch_is_taken_to_cost_what_that_one_does() -> None:
    cost = linear_cost()
    assert cost.seconds(9, "numbers") == cost.seconds(8, "numbers")


def test_learns_a_new_level() -> None:
    cost = linear_cost()
    for _ in range(200):
        cost.observe(4, "numbers", 0.5)
    assert cost.seconds(4, "numbers") == pytest.approx(0.5, rel=0.01)
    assert cost.bound_seconds(4, "numbers") == pytest.approx(0.5, rel=0.05)


def test_gives_up_by_the_first_measurement_only_after_a_pause() -> None:
    cost = linear_cost()
    before = cost.seconds(8, "numbers")
    for _ in range(2):  # one alone counts as four times the mean
        cost.observe(8, "numbers", 30.0)
    assert cost.seconds(8, "numbers") > 1.0
    assert cost.least_seconds(8, "numbers") == pytest.approx(before, rel=0.01)


def test_a_pause_of_the_machine_is_no_cost() -> None:
    """Else one of a second rules the size out of batches for hundreds of them."""
    cost = linear_cost()
    before = cost.bound_seconds(8, "numbers")
    cost.observe(8, "numbers", 1.0)
    assert cost.bound_seconds(8, "numbers") < 2.5 * before
    for _ in range(40):
        cost.observe(8, "numbers", before)
    assert cost.bound_seconds(8, "numbers") < 1.2 * before


@pytest.mark.parametrize("times", [10, 1000])
def test_what_takes_far_longer_twice_in_a_row_counts_in_full(times: int) -> None:
    """On a machine that became slower, or of a graph with a loop, whose number of turns the input says."""
    cost = linear_cost()
    before = cost.seconds(8, "numbers")
    for _ in range(16):
        cost.observe(8, "numbers", times * before)
    assert cost.seconds(8, "numbers") > times / 2 * before
    assert cost.bound_seconds(8, "numbers") > times * before


def test_that_tiny_batches_wait_for_a_time_slice_now_and_then_is_a_cost() -> None:
    cost = linear_cost(fixed=0.0, per_row=1e-5)
    before = cost.seconds(8, "numbers")
    cost.observe(8, "numbers", 0.003)
    assert cost.seconds(8, "numbers") - before == pytest.approx((0.003 - before) / 16)


def test_the_first_measurement_is_not_the_best_for_good() -> None:
    """The machine may have been busy just then, and all callers in more of a hurry than that."""
    cost = CostModel([1], {"g": [[0.034, 0.036]]})
    cost.observe(1, "g", 0.0045)
    assert cost.least_seconds(1, "g") == 0.0045


def test_nor_is_the_quickest_of_all_on_a_machine_that_became_slower() -> None:
    """Else who cannot be answered any more is let in, and told late, for good."""
    cost = linear_cost()
    for _ in range(300):
        cost.observe(4, "numbers", 3 * 0.004)
    assert cost.least_seconds(4, "numbers") == pytest.approx(3 * 0.004)


def test_an_inflated_estimate_that_nobody_tests_is_forgotten() -> None:
    """Else a pause during a batch of 8 would rule out batches of 8 for good: what never runs is never measured."""
    cost = linear_cost()
    before, four = cost.bound_seconds(8, "numbers"), cost.seconds(4, "numbers")
    cost.observe(8, "numbers", 3.0)
    assert cost.seconds(4, "numbers") < 1.02 * four, "a pause says nothing of other sizes"
    for _ in range(900):
        cost.observe(4, "numbers", four)
    assert cost.bound_seconds(8, "numbers") == pytest.approx(before, rel=0.05)


@pytest.mark.parametrize(("times", "count"), [(1.3, 1000), (0.8, 600)])
def test_what_nobody_tests_rises_and_falls_with_what_is_tested(times: float, count: int) -> None:
    """Else a queue of rows that no batch takes at once would be taken for shorter than it is on a machine at work.

    And a batch of 8 whose only measurement was a slow first run would never be tried: two of 4 seem quicker.
    """
    cost = linear_cost()
    first_four, first_eight = cost.seconds(4, "numbers"), cost.seconds(8, "numbers")
    for _ in range(count):
        cost.observe(4, "numbers", times * first_four)
    assert cost.seconds(8, "numbers") == pytest.approx(times * first_eight, rel=0.01)
    assert cost.least_seconds(8, "numbers") <= times * first_eight * 1.01


def test_sizes_that_run_by_turns_are_what_they_were_measured_to_be() -> None:
    """However far each is from its first measurement."""
    cost = linear_cost()
    real = {rows: level * cost.seconds(rows, "numbers") for rows, level in ((1, 1.9), (2, 1.6), (4, 1.3), (8, 1.1))}
    for _ in range(300):
        for rows, seconds in real.items():
            cost.observe(rows, "numbers", seconds)
    assert {rows: cost.seconds(rows, "numbers") for rows in real} == pytest.approx(real, rel=0.001)


def test_a_small_batch_says_little_of_a_large_one() -> None:
    cost = CostModel([1, 32], {"g": [[0.001], [0.032]]})
    for _ in range(64):
        cost.observe(1, "g", 0.0019)
    assert cost.seconds(32, "g") < 0.034


def test_what_takes_more_than_twice_what_it_took_says_nothing_of_others() -> None:
    """A small model's row takes several times what its run alone took; a pause is forgotten all the same."""
    cost = linear_cost()
    eight = cost.seconds(8, "numbers")
    for _ in range(900):
        cost.observe(4, "numbers", 0.05)
    assert cost.seconds(8, "numbers") == pytest.approx(eight, rel=0.2)
    cost.observe(8, "numbers", 3.0)
    for _ in range(900):
        cost.observe(4, "numbers", 0.05)
    assert cost.seconds(8, "numbers") == pytest.approx(eight, rel=0.05)


def test_nor_does_it_lift_what_is_quicker_than_it_was_at_first() -> None:
    cost = linear_cost()
    for _ in range(200):
        cost.observe(8, "numbers", 0.004)
    quicker = cost.seconds(8, "numbers")
    for _ in range(900):
        cost.observe(4, "numbers", 0.05)
    assert cost.seconds(8, "numbers") == pytest.approx(quicker)


def test_what_has_run_is_known() -> None:
    cost = linear_cost()
    assert not cost.has_run("numbers"), "measured at load, perhaps estimated"
    cost.observe(1, "numbers", 0.001)
    cost.observe(1, "new", 0.001)
    assert cost.has_run("numbers")
    assert cost.has_run("new")


def test_an_unknown_shape_costs_what_a_known_one_does_until_it_ran() -> None:
    cost = linear_cost()
    assert cost.seconds(8, "other") == cost.seconds(8, "numbers")
    cost.observe(4, "other", 10 * cost.seconds(4, "numbers"))
    assert cost.seconds(4, "other") == pytest.approx(10 * cost.seconds(4, "numbers"))
    assert cost.seconds(8, "other") == pytest.approx(10 * cost.seconds(8, "numbers"))


def test_what_is_known_of_a_new_shape_is_as_uncertain_as_what_it_is_taken_for() -> None:
    cost = CostModel([1, 2], {"g": [[0.001, 0.002, 0.003], [0.002, 0.004, 0.006]]})
    cost.observe(1, "other", 10 * cost.seconds(1, "g"))
    for rows in (1, 2):
        assert cost.bound_seconds(rows, "other") == pytest.approx(10 * cost.bound_seconds(rows, "g"))


def test_nobody_is_given_up_on_account_of_a_shape_that_was_not_measured_at_load() -> None:
    cost = CostModel([1], {"huge": [[30.0]]})
    assert cost.least_seconds(1, "tiny") == 0.0
    cost.observe(1, "tiny", 20.0)  # the first run compiled something
    assert cost.least_seconds(1, "tiny") == 0.0


def test_a_shape_that_was_not_measured_at_load_takes_at_best_what_it_took_once_it_has_run_often() -> None:
    """Else who cannot be answered any more is kept until the deadline passes, as an answer might take no time."""
    cost = CostModel([1, 2], {"huge": [[30.0], [60.0]]})
    cost.observe(1, "tiny", 1.0)
    for _ in range(63):
        cost.observe(1, "tiny", 0.5)
    assert cost.least_seconds(1, "tiny") == 0.0
    cost.observe(1, "tiny", 0.75)
    assert cost.least_seconds(1, "tiny") == pytest.approx(0.5, rel=0.01)
    assert cost.least_seconds(2, "tiny") == 0.0, "that size has not run"


def test_memory_is_bounded_however_many_shapes_come() -> None:
    cost = linear_cost()
    for shape in range(1000):
        cost.observe(1, shape, 5.0)
    assert len(cost.table()) == 256
    assert cost.seconds(1, "numbers") == pytest.approx(0.0025), "a shape without a place must not spoil another's"


def test_a_cost_is_never_nothing() -> None:
    cost = CostModel([1], {"g": [[0.0]]})
    cost.observe(1, "g", 0.0)
    assert cost.seconds(1, "g") > 0


def test_the_table_shows_every_bucket() -> None:
    cost = linear_cost(0.002, 0.001, buckets=(1, 4))
    assert cost.table() == {"numbers": [(1, 0.003), (4, 0.006)]}


def test_reading_while_shapes_are_added_does_not_fail() -> None:
    cost = linear_cost()
    errors: list[BaseException] = []
    done = threading.Event()

    def read() -> None:
        try:
            while not done.is_set():
                cost.table()
                cost.seconds(3, "numbers")
        except BaseException as error:
            errors.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for shape in range(300):
        cost.observe(1, shape, 0.001)
    done.set()
    reader.join(GUARD_SECONDS)
    assert not errors
