from __future__ import annotations

import threading

import pytest

from service.transport.call import InFlight, new_request_id, request_id_of


def test_waiting_for_idle_ends_with_the_last_call() -> None:
    in_flight = InFlight()
    assert in_flight.wait_idle(0)
    in_flight.enter()
    in_flight.enter()
    assert not in_flight.wait_idle(0)
    waiter = threading.Thread(target=in_flight.wait_idle, args=(10,))
    waiter.start()
    in_flight.leave()
    in_flight.leave()
    waiter.join(10)
    assert not waiter.is_alive()
    assert in_flight.count == 0


def test_request_ids_are_told_apart() -> None:
    ids = [new_request_id() for _ in range(100)]
    assert len(set(ids)) == 100
    assert len({identifier.split("-")[0] for identifier in ids}) == 1


def test_a_callers_own_id_is_taken() -> None:
    assert request_id_of([("user-agent", "x"), ("x-request-id", "theirs"), ("x-request-id", "second")]) == "theirs"


def test_a_long_id_of_a_caller_is_cut() -> None:
    """It goes into the metadata of errors and into the log."""
    assert request_id_of([("x-request-id", "i" * 7000)]) == "i" * 128


@pytest.mark.parametrize("metadata", [(), [("x-request-id", "")], [("x-request-id", b"bytes")], [("other", "theirs")]])
def test_without_an_id_of_the_caller_there_is_one_of_ours(metadata: list[tuple[str, str | bytes]]) -> None:
    first, second = request_id_of(metadata), request_id_of(metadata)
    assert first != second
    assert first.split("-")[0] == new_request_id().split("-")[0]
