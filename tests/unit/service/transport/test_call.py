from __future__ import annotations

import threading

from service.transport.call import InFlight, new_request_id


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
