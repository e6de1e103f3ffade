"""More threads for a batch that has the cores to itself: what is tried, measured once, and believed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.backend.base import Provider
from service.batching.choice import Layout
from service.repository.batch_view import BatchView
from service.repository.lone_pricing import Disturbed, LonePricing
from service.repository.measuring import Measuring, Subject
from service.repository.pricing import Pricing
from service.repository.proof import Proof
from service.repository.store import VersionFolder
from service.settings import Settings
from service.tensors import TensorSpec

SETTINGS = Settings(device="cpu")
BUCKETS = (1, 2, 4)
PAIR = TensorSpec("x", "FP32", (-1, 2))


class Timed:
    """A graph whose rows take so long; the clock of the measurement is its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.runs = 0
        monkeypatch.setattr("service.repository.lone_pricing.Measuring", self.measuring)

    def measuring(self, subject: Subject) -> Measuring:
        return Measuring(subject, clock=lambda: self.now)

    def subject(self, row_seconds: float) -> Subject:
        def run(inputs: Sequence[np.ndarray], _: object = None, /) -> list[np.ndarray]:
            self.now += row_seconds * len(inputs[0])
            self.runs += 1
            return list(inputs)

        provider = Provider("cpu", "CPUExecutionProvider", "cpu")
        return Subject(BatchView((PAIR,), (PAIR,), True, run), provider, BUCKETS, None)


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> Timed:
    for module in ("pricing", "lone_pricing"):
        monkeypatch.setattr(f"service.repository.{module}.usable_cores", lambda: 4)
    return Timed(monkeypatch)


def priced(folder: Path, usual: Subject, row_seconds: float = 0.008, **changes: Any) -> LonePricing:
    """Price the version as at load, without measuring, and return what prices its lone runs."""
    settings = dataclasses.replace(SETTINGS, **changes)
    pricing = Pricing(VersionFolder("m", 1, folder), "sha256:1", settings)
    seconds = {bucket: [row_seconds * bucket] * 5 for bucket in BUCKETS}
    pricing.price(usual, Proof(0.0, 1, seconds, (2,)))
    return LonePricing(pricing, settings)


def test_all_cores_are_tried_and_then_fewer(tmp_path: Path, timed: Timed) -> None:
    usual = timed.subject(0.008)
    assert list(priced(tmp_path, usual).candidates(usual)) == [4, 2]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"intra_op_threads": 1}, []),
        ({"weight": 0.5}, []),
        ({"lone_threads": 1}, []),
        ({"lone_threads": 2}, [2]),
        ({"instances": 1}, []),  # it has all cores already
        ({"instances": 2}, [4]),
    ],
    ids=str,
)
def test_the_operator_may_bound_it(tmp_path: Path, timed: Timed, changes: dict[str, Any], expected: list[int]) -> None:
    usual = timed.subject(0.008)
    assert list(priced(tmp_path, usual, **changes).candidates(usual)) == expected


def test_nothing_is_tried_where_a_row_is_over_in_a_moment(tmp_path: Path, timed: Timed) -> None:
    usual = timed.subject(0.0002)
    assert list(priced(tmp_path, usual, 0.0002).candidates(usual)) == []


def test_both_are_measured_alone_once_and_then_known(tmp_path: Path, timed: Timed) -> None:
    usual, lone = timed.subject(0.006), timed.subject(0.002)
    found = priced(tmp_path, usual).price(usual, lone, 4, lambda: True)
    assert found is not None
    cost, quicker = found
    assert quicker == {None: frozenset(BUCKETS)}
    assert cost.seconds(1, None) == pytest.approx(0.002)
    again = priced(tmp_path, usual)
    assert again.knows(usual, [4])
    assert not again.knows(usual, [4, 2])
    timed.runs = 0
    assert list(again.candidates(usual)) == [4, 2]
    kept = again.price(usual, lone, 4, lambda: False)
    assert kept is not None
    assert (timed.runs, kept[1]) == (0, quicker)
    assert kept[0].seconds(4, None) == pytest.approx(cost.seconds(4, None))


def test_an_instance_is_taken_as_it_is_alone_not_beside_others(tmp_path: Path, timed: Timed) -> None:
    """All instances at once took 8 ms a row; one alone takes 3, and four threads take 2: no good use of four cores."""
    usual, lone = timed.subject(0.003), timed.subject(0.002)
    assert priced(tmp_path, usual, 0.008).price(usual, lone, 4, lambda: True) is None


def test_known_to_gain_nothing_it_is_not_tried_again(tmp_path: Path, timed: Timed) -> None:
    usual, lone = timed.subject(0.008), timed.subject(0.0075)
    assert priced(tmp_path, usual).price(usual, lone, 4, lambda: True) is None
    assert list(priced(tmp_path, usual).candidates(usual)) == [2]


def test_what_was_disturbed_is_not_believed(tmp_path: Path, timed: Timed) -> None:
    usual, lone = timed.subject(0.008), timed.subject(0.0075)
    pricing = priced(tmp_path, usual)
    with pytest.raises(Disturbed):
        pricing.price(usual, lone, 4, lambda: False)
    assert list(pricing.candidates(usual)) == [4, 2]
    assert list(priced(tmp_path, usual).candidates(usual)) == [4, 2]


def test_where_nothing_can_be_kept_it_is_known_until_the_end(tmp_path: Path, timed: Timed) -> None:
    usual, lone = timed.subject(0.008), timed.subject(0.0075)
    pricing = priced(tmp_path / "gone", usual)
    assert pricing.price(usual, lone, 4, lambda: True) is None
    assert list(pricing.candidates(usual)) == [2]


def test_what_inspect_has_kept_meanwhile_stays(tmp_path: Path, timed: Timed) -> None:
    usual, lone = timed.subject(0.008), timed.subject(0.002)
    serving = priced(tmp_path, usual)
    priced(tmp_path, usual, instances=2)  # another process, another layout
    serving.price(usual, lone, 4, lambda: True)
    kept = Pricing(VersionFolder("m", 1, tmp_path), "sha256:1", SETTINGS)
    entry = kept.kept.read(kept.key)
    assert entry is not None
    assert [table.layout for table in entry.layouts] == [Layout(4, 1), Layout(2, 2)]
    assert sorted(table.threads for table in entry.lone) == [1, 4]
