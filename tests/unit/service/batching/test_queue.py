"""The queue: order, groups and the counts that admission relies on."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from service.batching.queue import RequestQueue
from tests.fakes import make_request


def test_keeps_groups_apart_and_in_order() -> None:
    queue = RequestQueue()
    a1, b1, a2 = make_request(1, group="a"), make_request(2, group="b"), make_request(3, group="a")
    for request in (a1, b1, a2):
        queue.append(request)
    assert queue.waiting("a") == [a1, a2]
    assert queue.waiting("b") == [b1]


def test_the_group_whose_head_is_oldest_comes_first() -> None:
    queue = RequestQueue()
    queue.append(make_request(group="young", arrival=3.0))
    old = make_request(group="old", arrival=1.0)
    queue.append(old)
    queue.append(make_request(group="middle", arrival=2.0))
    assert queue.groups_by_age() == ["old", "middle", "young"]
    queue.remove(old)
    assert queue.groups_by_age() == ["middle", "young"]


def test_removing_tells_whether_it_still_waited() -> None:
    queue = RequestQueue()
    request, other = make_request(1), make_request(1)
    queue.append(request)
    assert not queue.remove(other)
    assert queue.remove(request)
    assert not queue.remove(request)
    assert queue.groups_by_age() == []


def test_the_copy_of_what_waits_does_not_change_with_the_queue() -> None:
    queue = RequestQueue()
    request = make_request()
    queue.append(request)
    copy = queue.waiting("numbers")
    queue.remove(request)
    assert copy == [request]


def test_the_first_deadline_is_of_the_first_in_line_where_only_its_group_waits() -> None:
    queue = RequestQueue()
    assert queue.first_deadline("a") == math.inf
    queue.append(make_request(group="a", arrival=1.0, deadline=9.0))
    queue.append(make_request(group="a", arrival=2.0, deadline=5.0))
    assert queue.first_deadline("a") == 9.0
    assert queue.first_deadline("b") == math.inf
    queue.append(make_request(group="b", arrival=3.0, deadline=7.0))
    assert queue.first_deadline("a") == math.inf
    assert queue.first_deadline("b") == math.inf


def test_drain_gives_everything_oldest_first() -> None:
    queue = RequestQueue()
    requests = [make_request(group=group, arrival=arrival) for group, arrival in (("a", 2.0), ("b", 1.0), ("a", 3.0))]
    for request in requests:
        queue.append(request)
    assert [request.arrival for request in queue.drain()] == [1.0, 2.0, 3.0]
    assert (len(queue), queue.rows, queue.patient_rows_before(math.inf), queue.groups_by_age()) == (0, 0, 0, [])


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["append", "remove", "take"]),
        st.sampled_from("abc"),
        st.integers(1, 4),
        st.sampled_from([5.0, math.inf]),
        st.sampled_from([0.0, 1.0, 2.0]),
    ),
    max_size=40,
)


@given(OPERATIONS)
def test_agrees_with_a_sorted_list(operations: list[tuple[str, str, int, float, float]]) -> None:
    queue, model, appended = RequestQueue(), [], 0
    for clock, (operation, group, number, deadline, handicap) in enumerate(operations):
        own = [request for request in model if request.group == group]
        if operation == "append":
            request = make_request(*range(number), group=group, deadline=deadline, arrival=clock / 8, handicap=handicap)
            queue.append(request)
            appended += 1
            model = sorted([*model, request], key=lambda request: request.turn)
        elif operation == "remove" and model:
            victim = model[number % len(model)]
            assert queue.remove(victim)
            model.remove(victim)
        elif operation == "take" and own:
            queue.take(group, own[-number:])
            model = [request for request in model if request not in own[-number:]]
        assert len(queue) == len(model)
        assert queue.departures == appended - len(model)
        assert queue.rows == sum(request.rows for request in model)
        patient = [request for request in model if request.deadline == math.inf]
        for turn in (0.0, clock / 8, clock / 8 + 1.0, math.inf):
            ahead = [request for request in model if request.turn <= turn]
            assert queue.rows_before(turn) == sum(request.rows for request in ahead)
            assert queue.patient_rows_before(turn) == sum(request.rows for request in ahead if request in patient)
        assert sorted(map(id, queue)) == sorted(map(id, model))
        assert set(queue.groups_by_age()) == {request.group for request in model}
        for key in queue.groups_by_age():
            assert queue.waiting(key) == [request for request in model if request.group == key]
