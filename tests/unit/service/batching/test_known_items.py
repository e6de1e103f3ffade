"""Items that were answered before: kept one by one, found all together, and timed."""

from __future__ import annotations

import numpy as np
import pytest

from service.batching.known_items import KnownItems
from service.batching.response_cache import ResponseCache
from service.errors import DeadlineExceeded
from tests.fakes import TickingClock, Told

LATER = float("inf")


class Stage:
    def __init__(self, max_bytes: int = 10_000) -> None:
        self.told = Told()
        self.clock = TickingClock()
        self.items = KnownItems("m 1", ResponseCache(max_bytes).shelf(), self.told, self.clock)

    def keep(self, *items: bytes, calls: int = 1) -> None:
        self.items.keep(self.items.keys_of(items), calls, [np.arange(2 * len(items)).reshape(-1, 2)])

    def find(self, *items: bytes, started: float = 99.0, deadline: float = LATER) -> list[list[list[int]]] | None:
        found = self.items.find(self.items.keys_of(items), started, deadline)
        return None if found is None else [rows[0].tolist() for rows in found]


def test_each_item_is_found_with_its_own_row_and_none_unless_all_are_known() -> None:
    stage = Stage()
    stage.keep(b"a", b"b", b"c")
    assert stage.find(b"c", b"a") == [[[4, 5]], [[0, 1]]]
    assert stage.find(b"a", b"d") is None
    assert stage.told.counts == {"miss": 1, "hit": 1, "evicted": 0}


def test_the_parts_of_a_call_are_one_miss() -> None:
    stage = Stage()
    stage.keep(b"a", calls=1)
    stage.keep(b"b", calls=0)
    assert stage.told.counts["miss"] == 1


def test_finding_is_timed_from_the_beginning_and_keeping_by_itself() -> None:
    stage = Stage()
    stage.keep(b"a")
    assert stage.told.seconds == [0.25]
    started = stage.clock()
    stage.find(b"a", started=started)
    assert stage.told.seconds == [0.25, 0.25]


def test_who_had_to_leave_is_told() -> None:
    stage = Stage(max_bytes=800)
    for item in (b"a", b"b", b"c"):
        stage.keep(item)
    assert stage.told.counts == {"miss": 3, "evicted": 2}
    stage.keep(b"c")
    assert stage.told.counts["evicted"] == 2, "kept a moment ago, nobody has to leave"


def test_a_deadline_that_is_now_has_passed() -> None:
    stage = Stage()
    stage.keep(b"a")
    with pytest.raises(DeadlineExceeded):
        stage.find(b"a", deadline=stage.clock.now + 0.25)
    assert stage.find(b"a", deadline=stage.clock.now + 0.75) is not None
    assert stage.told.counts == {"miss": 1, "hit": 1, "evicted": 0, "deadline_exceeded": 1}
