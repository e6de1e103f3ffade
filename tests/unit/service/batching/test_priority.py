"""Levels of priority: the handicap that stands for each."""

from __future__ import annotations

import pytest

from service.batching.priority import Priorities


@pytest.mark.parametrize("asked", [0, 1, 2, -5])
def test_without_levels_all_are_equal(asked: int) -> None:
    assert Priorities().handicap(asked) == 0


@pytest.mark.parametrize(("levels", "middle"), [(0, 0), (1, 1), (2, 1), (3, 2), (10, 5)])
def test_the_middle_level_is_the_default(levels: int, middle: int) -> None:
    assert Priorities(levels).default_level == middle


def test_the_default_is_one_of_the_levels() -> None:
    assert Priorities(3, 7).default_level == 3


def test_each_level_stands_a_second_behind_the_one_before() -> None:
    assert [Priorities(3).handicap(level) for level in (1, 2, 3)] == [0, 1, 2]


@pytest.mark.parametrize("asked", [0, -1, 4, 2**63])
def test_no_level_or_none_that_exists_gets_the_default(asked: int) -> None:
    assert Priorities(3, 3).handicap(asked) == 2
