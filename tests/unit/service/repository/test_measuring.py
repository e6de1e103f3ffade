from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.backend.base import Provider
from service.errors import BackendFailed
from service.repository.batch_view import BatchView
from service.repository.measuring import Measuring, Subject
from service.repository.proof import LENGTH_GROUPS
from service.tensors import TensorSpec
from tests.fakes import FakeClock

FREE = TensorSpec("ids", "INT64", (-1, -1))
PAIR = TensorSpec("x", "FP32", (-1, 2))
PLENTY = 1e6


def subject_of(
    run: Any, inputs: Sequence[TensorSpec], buckets: Sequence[int], max_tokens: int | None = None
) -> Subject:
    provider = Provider("cpu", "CPUExecutionProvider", "cpu")
    return Subject(BatchView(tuple(inputs), (), True, run), provider, buckets, max_tokens)


class Timed:
    """Takes 1 s and 1 s an element's row, on a clock of its own; records the shapes it ran."""

    def __init__(self, unable: int = 0) -> None:
        self.clock = FakeClock()
        self.shapes: list[tuple[int, ...]] = []
        self._unable = unable

    def __call__(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        shape = inputs[0].shape
        if shape[0] == self._unable:
            raise BackendFailed("not this size")
        self.shapes.append(shape)
        self.clock.advance(1 + shape[0] * shape[1])
        return []

    def measuring(self, buckets: Sequence[int], max_tokens: int | None = None) -> Measuring:
        subject = subject_of(self, [PAIR if max_tokens is None else FREE], buckets, max_tokens)
        return Measuring(subject, clock=self.clock)


def test_every_bucket_is_timed() -> None:
    backend = Timed()
    assert backend.measuring([1, 2, 4]).measure(PLENTY) == {None: [[3.0] * 4, [5.0] * 4, [9.0] * 4]}
    assert list(dict.fromkeys(backend.shapes)) == [(4, 2), (2, 2), (1, 2)]  # the arena grows once


def test_without_a_budget_each_bucket_runs_once() -> None:
    backend = Timed()
    backend.measuring([1, 2, 4]).measure(0)
    assert backend.shapes == [(4, 2), (2, 2), (1, 2)]


def test_what_is_known_need_not_run() -> None:
    backend = Timed()
    measuring = backend.measuring([1, 2, 4])
    measuring.know({1: [9.0, 3.0], 2: [9.0, 5.0, 5.0], 4: [30.0]})
    # The first of several is left out; few are worth no more than twice the next smaller batch.
    assert measuring.measure(0) == {None: [[3.0], [5.0], [10.0]]}
    assert backend.shapes == []


@pytest.mark.parametrize(
    ("two", "taken"),
    [
        ([12.0], [6.0, 7.0, 10.0]),
        ([9.0, 8.0, 9.0], [6.0, 7.0, 8.0]),  # another program had the core in all of that moment
        ([9.0, 6.5, 12.0], [6.0, 6.5, 6.5]),
        ([9.0, 5.0, 12.0], [5.0, 5.0, 5.0]),
        ([9.0, *[8.0] * 9], [6.0, 7.0, 8.0]),
        ([9.0, *[8.0] * 10], [8.0] * 10),  # so many tell that a row of two is dearer
    ],
)
def test_few_samples_make_a_larger_batch_no_dearer_a_row(two: list[float], taken: list[float]) -> None:
    """Else it would look dear for good, and never be tried."""
    measuring = Timed().measuring([1, 2])
    measuring.know({1: [9.0, 3.0, 3.5, 5.0], 2: two})
    assert measuring.measure(0) == {None: [[3.0, 3.5, 5.0], taken]}


def test_a_budget_buys_more_samples_of_the_small() -> None:
    backend = Timed()
    measuring = backend.measuring([1, 2, 4])
    measuring.know({1: [3.0], 2: [5.0], 4: [9.0]})
    measuring.measure(16)
    assert backend.shapes == [(1, 2), (2, 2), (1, 2), (2, 2)]


@pytest.mark.parametrize(("budget", "runs"), [(118, True), (117, False)])
def test_what_was_never_run_is_expected_to_take_longer_in_proportion_to_its_length(budget: float, runs: bool) -> None:
    backend = Timed()
    measuring = backend.measuring([1], 64)
    measuring.know({1: [17.0]}, tokens=16)
    measuring.measure(budget)  # 17 s for 16 tokens, 33 s for 32, and then it expects 17 / 16 * 64 = 68 s for 64
    assert ((1, 64) in backend.shapes) == runs


@given(st.floats(0, 500), st.sampled_from([None, 10, 100, 4096]), st.booleans())
def test_a_budget_is_kept_and_every_cell_is_filled(budget: float, max_tokens: int | None, known: bool) -> None:
    backend = Timed()
    buckets = [1, 2, 4, 8]
    measuring = backend.measuring(buckets, max_tokens)
    if known:
        tokens = None if max_tokens is None else 16
        measuring.know({bucket: [1.0 + bucket * (tokens or 2)] for bucket in buckets}, tokens)
    least = 0 if known else sum(1 + bucket * (2 if max_tokens is None else 16) for bucket in buckets)
    start = backend.clock()
    table = measuring.measure(budget)
    assert backend.clock() - start <= max(budget, least) + 1e-9
    for row in table.values():
        assert len(row) == len(buckets)
        assert all(samples and min(samples) > 0 for samples in row)


def test_sentences_are_timed_by_length_and_longer_ones_extrapolated() -> None:
    backend = Timed()
    table = backend.measuring([1, 3], 4096).measure(PLENTY)
    assert set(backend.shapes) == {(bucket, length) for bucket in (1, 3) for length in (16, 32, 64)}
    assert list(table) == list(LENGTH_GROUPS)
    assert table[128] == [[2 * seconds for seconds in samples] for samples in table[64]]


def test_lengths_without_a_measurement_are_scaled_from_their_neighbour() -> None:
    measuring = Timed().measuring([1, 2], 100)
    measuring.know({1: [4.0], 2: [8.0]}, tokens=30)
    assert measuring.measure(0) == {
        16: [[2.0], [4.0]],
        32: [[4.0], [8.0]],
        64: [[8.0], [16.0]],
        128: [[16.0], [32.0]],
    }


def test_a_length_between_two_that_were_measured_is_scaled_from_the_shorter_one() -> None:
    measuring = Timed().measuring([1, 2], 100)
    measuring.know({1: [2.0], 2: [4.0]}, tokens=16)
    measuring.know({1: [20.0], 2: [40.0]}, tokens=64)
    assert measuring.measure(0) == {
        16: [[2.0], [4.0]],
        32: [[4.0], [8.0]],
        64: [[20.0], [40.0]],
        128: [[40.0], [80.0]],
    }


def test_a_batch_without_a_measurement_is_at_best_as_quick_as_a_smaller_one() -> None:
    backend = Timed(unable=2)
    measuring = backend.measuring([1, 2, 4])
    one, two, four = measuring.measure(PLENTY)[None]
    assert (one, two, four) == ([3.0] * 4, [3.0, 6.0, 6.0, 6.0, 6.0], [6.0, 9.0, 9.0, 9.0, 9.0])


@pytest.mark.parametrize(
    ("longest", "free", "run_at"),
    [(64, (-1,), (64,)), (64, (-1, -1), (64, 64)), (10, (-1,), (1,)), (64, (-1, -1, -1), (1, 1, 1))],
)
def test_a_free_dimension_is_run_as_a_short_sentence_or_small_picture_if_it_can_be(
    longest: int, free: tuple[int, ...], run_at: tuple[int, ...]
) -> None:
    shapes: set[tuple[int, ...]] = set()

    def run(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        if max(inputs[0].shape) > longest:
            raise BackendFailed("longer than this graph knows")
        assert {array.dtype for array in inputs} == {np.dtype(np.float32)}
        shapes.update(array.shape for array in inputs)
        return []

    measuring = Measuring(subject_of(run, [TensorSpec("x", "FP32", (-1, *free, 3)), PAIR], [1, 2]))
    assert len(measuring.measure(PLENTY)[None][0]) > 1
    assert shapes == {(1, *run_at, 3), (2, *run_at, 3), (1, 2), (2, 2)}


def test_text_is_run_as_text() -> None:
    def run(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        assert inputs[0].tolist() == [[""], [""]]
        return []

    assert len(Measuring(subject_of(run, [TensorSpec("s", "BYTES", (-1, 1))], [2])).measure(0)[None]) == 1


def test_a_graph_that_does_not_run_on_zeros_is_given_a_guess_that_grows() -> None:
    def fail(_: Sequence[np.ndarray]) -> list[np.ndarray]:
        raise BackendFailed("no")

    small, large = Measuring(subject_of(fail, [PAIR], [1, 8])).measure(PLENTY)[None]
    assert 0 < max(small) < max(large)


@pytest.mark.parametrize(("longest", "groups"), [(100, [16, 32, 64, 128]), (10, [16])])
def test_no_group_is_longer_than_the_longest_sentence(longest: int, groups: list[int]) -> None:
    assert list(Timed().measuring([1], longest).measure(0)) == groups
