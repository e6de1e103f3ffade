"""Who runs what, and until when."""

from __future__ import annotations

import pytest

from service.batching.occupancy import IDLE, INLINE, Occupancy
from service.batching.policy import Release

NOW = 100.0


def release() -> Release:
    return Release("numbers", [], [], "idle")


@pytest.fixture
def occupancy() -> Occupancy:
    return Occupancy(2)


def test_batches_begin_and_end(occupancy: Occupancy) -> None:
    first, second = release(), release()
    occupancy.begin(1, first, NOW, NOW + 1)
    assert (occupancy.idle, occupancy.running, occupancy.busy_until()) == (1, 1, [IDLE, NOW + 1])
    occupancy.begin(0, second, NOW, NOW + 2)
    assert (occupancy.idle, occupancy.busy_until()) == (0, [NOW + 2, NOW + 1])
    assert list(occupancy.releases()) == [second, first]
    assert occupancy.end(1) == (first, NOW, NOW + 1)
    assert (occupancy.idle, occupancy.busy_until()) == (1, [NOW + 2, IDLE])


def test_where_nothing_ran_nothing_ends(occupancy: Occupancy) -> None:
    assert occupancy.end(0) is None
    assert occupancy.idle == 2


@pytest.mark.parametrize("busy", [0, 1])
def test_one_inline_stands_for_an_idle_instance(occupancy: Occupancy, busy: int) -> None:
    inline = release()
    occupancy.begin(INLINE, inline, NOW, NOW + 3)
    assert (occupancy.idle, occupancy.busy_until()) == (1, [NOW + 3, IDLE])
    occupancy.begin(busy, release(), NOW, NOW + 1)
    assert occupancy.idle == 0
    assert sorted(occupancy.busy_until()) == [NOW + 1, NOW + 3]
    assert occupancy.end(INLINE) == (inline, NOW, NOW + 3)
    assert occupancy.busy_until()[busy] == NOW + 1
    assert occupancy.idle == 1


def test_the_longest_tells_whether_one_hangs(occupancy: Occupancy) -> None:
    occupancy.begin(INLINE, release(), NOW, NOW + 1)
    occupancy.begin(0, release(), NOW + 50, NOW + 51)
    assert occupancy.began_before(NOW + 1)
    assert not occupancy.began_before(NOW)
