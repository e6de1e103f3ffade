"""How the native door's intake waits; the listener is a stand-in that never opens a socket."""

from __future__ import annotations

import threading
import time
import weakref
from types import SimpleNamespace
from typing import Any

import pytest

from service.vital import OnDeath

fast_lane = pytest.importorskip("service.transport.fast_lane", exc_type=ImportError)


class Listener:
    """Hands over the trips that it was given, then ends."""

    def __init__(self, *trips: int) -> None:
        self.waits: list[int] = []
        self.ended = threading.Event()
        self._trips = list(trips)

    def set_fallback(self, _path: str) -> None: ...

    def start(self) -> None: ...

    def close(self) -> None: ...

    def recv_batch_details(self, _most: int, milliseconds: int) -> list[Any] | None:
        self.waits.append(milliseconds)
        if not self._trips:
            self.ended.set()
            return None
        return [(fast_lane.EVENT_CALL, number, 0, b"", None, ((), "", None)) for number in range(self._trips.pop(0))]


class Calls:
    """Refuses every call."""

    repeated = None
    in_flight = SimpleNamespace(count=0)
    dataplane = SimpleNamespace(burst=lambda: SimpleNamespace(alone=False, finish=lambda: None))

    def shedder(self) -> Any:
        return SimpleNamespace(settle=lambda: None)

    def begin(self, *_: object) -> None: ...


def lane_of(monkeypatch: pytest.MonkeyPatch, listener: Any, on_death: OnDeath = lambda _: None) -> Any:
    """Return a lane that has this listener."""
    monkeypatch.setattr(fast_lane, "NativeGrpcFront", lambda *_, **__: listener)
    return fast_lane.FastLane(
        "127.0.0.1:0",
        "unused",
        Calls(),
        limits=SimpleNamespace(
            max_message_bytes=1,
            keepalive_seconds=1,
            keepalive_timeout_seconds=1,
            max_concurrent_streams=1,
            max_metadata_bytes=1,
        ),
        cores=SimpleNamespace(lead=lambda _: None),
        on_death=on_death,
    )


def waits(monkeypatch: pytest.MonkeyPatch, *trips: int) -> tuple[list[int], list[float]]:
    """Return how long the intake waited for calls, and how long it rested, for trips of so many calls."""
    listener, rests, died = Listener(*trips), [], []
    monkeypatch.setattr(fast_lane, "time", SimpleNamespace(monotonic=time.monotonic, sleep=rests.append))
    lane = lane_of(monkeypatch, listener, died.append)
    lane.start()
    assert listener.ended.wait(5)
    lane.close()
    assert not died
    return listener.waits, rests


def test_who_refuses_nobody_waits_for_calls_and_does_not_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    assert waits(monkeypatch, 0, 0) == ([500, 500, 500], [])


def test_who_refused_rests_and_then_waits_no_longer_than_that(monkeypatch: pytest.MonkeyPatch) -> None:
    assert waits(monkeypatch, 2, 0) == ([500, 3, 3], [0.003])


def test_what_a_call_brought_is_let_go_before_the_next_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    class Message:
        """Stands for bytes, which cannot be watched."""

        def __len__(self) -> int:
            return 0

    class Watched(Listener):
        message: Any = None
        still_held: Any = None

        def recv_batch_details(self, _most: int, _milliseconds: int) -> list[Any] | None:
            if self.message is not None:
                self.still_held = self.message()
                self.ended.set()
                return None
            message = Message()
            self.message = weakref.ref(message)
            return [(fast_lane.EVENT_CALL, 0, 0, message, None, ((), "", None))]

    listener = Watched()
    lane = lane_of(monkeypatch, listener)
    lane.start()
    assert listener.ended.wait(5)
    lane.close()
    assert listener.still_held is None


def test_calls_are_unsent_until_the_listener_has_ended_them(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, _ = fast_lane.HOT_METHODS
    listener = Listener()
    listener.metrics = lambda: {
        "methods": {
            first: {"started": 7, "status": {0: {"count": 3}, 1: {"count": 2}}},
            second: {"started": 1, "status": {}},
            "other": {"started": 5, "status": {}},
        }
    }
    assert lane_of(monkeypatch, listener).unsent == 3
    listener.metrics = lambda: None
    assert lane_of(monkeypatch, listener).unsent == 0
