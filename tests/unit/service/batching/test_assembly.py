"""Rows into a batch and answers back into rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.batching.assembly import BatchBuffer, padding_ratio, split
from service.batching.request import PendingRequest
from service.tensors import TensorSpec
from tests.fakes import RecordingReply, make_request, number_buffer, per_row

IDS = TensorSpec("ids", "INT64", (-1, -1))
TEXTS = TensorSpec("texts", "BYTES", (-1,))


def request_of(*arrays: np.ndarray) -> PendingRequest:
    return PendingRequest(arrays, "g", float("inf"), 0.0, RecordingReply())


def test_copies_rows_in_order_and_pads_with_the_last() -> None:
    """Not with zeros, which a graph that divides by them fails on."""
    buffer = number_buffer()
    buffer.assemble([make_request(9, 9, 9), make_request(9)], 4)  # leaves nines behind
    (batch,) = buffer.assemble([make_request(1), make_request(2, 3)], 4)
    assert batch[:, 0].tolist() == [1, 2, 3, 3]


def test_a_lone_request_that_fills_its_bucket_is_not_copied() -> None:
    request = make_request(1, 2)
    (batch,) = number_buffer().assemble([request], 2)
    assert batch is request.inputs[0]


def test_a_lone_request_reaches_the_backend_contiguous() -> None:
    columns = np.arange(8, dtype=np.float32).reshape(2, 4)[:, ::2]
    (batch,) = number_buffer().assemble([request_of(columns)], 2)
    assert batch.flags.c_contiguous
    np.testing.assert_array_equal(batch, columns)


def test_sentences_of_different_lengths_are_padded_with_the_padding_id() -> None:
    buffer = BatchBuffer([IDS], 4, padding_value=7)
    (batch,) = buffer.assemble([request_of(np.array([[1, 2, 3]])), request_of(np.array([[4], [5]]))], 4)
    assert batch.tolist() == [[1, 2, 3], [4, 7, 7], [5, 7, 7], [5, 7, 7]]
    assert batch.dtype == np.int64


def test_sentences_of_one_length_are_put_together_and_the_last_repeated() -> None:
    buffer = BatchBuffer([IDS], 4, padding_value=7)
    (batch,) = buffer.assemble([request_of(np.array([[1, 2]])), request_of(np.array([[3, 4], [5, 6]]))], 4)
    assert batch.tolist() == [[1, 2], [3, 4], [5, 6], [5, 6]]
    assert batch.dtype == np.int64


def test_texts_in_free_dimensions_are_padded_with_text() -> None:
    buffer = BatchBuffer([TensorSpec("texts", "BYTES", (-1, -1))], 4, padding_value=7)
    rows = [np.array([[b"a", b"b"]], dtype=object), np.array([[b"c"]], dtype=object)]
    (batch,) = buffer.assemble([request_of(array) for array in rows], 3)
    assert batch.tolist() == [[b"a", b"b"], [b"c", b" "], [b"c", b" "]]


def test_absent_texts_stay_text() -> None:
    buffer = BatchBuffer([TEXTS], 4)
    (batch,) = buffer.assemble(
        [request_of(np.array([b"a"], dtype=object)), request_of(np.array([b"b", b"c"], object))], 4
    )
    assert batch.tolist() == [b"a", b"b", b"c", b"c"]


def test_several_inputs_keep_their_own_arrays() -> None:
    buffer = BatchBuffer([TensorSpec("x", "FP32", (-1, 1)), IDS], 4)
    first = request_of(np.ones((1, 1), np.float32), np.array([[1]]))
    second = request_of(np.full((1, 1), 2, np.float32), np.array([[2, 2]]))
    numbers, ids = buffer.assemble([first, second], 2)
    assert numbers.tolist() == [[1], [2]]
    assert ids.tolist() == [[1, 0], [2, 2]]


def test_padding_is_counted_in_elements() -> None:
    requests = [request_of(np.array([[1, 2, 3]])), request_of(np.array([[4]]))]
    batch = BatchBuffer([IDS], 4).assemble(requests, 4)
    assert padding_ratio(requests, batch) == pytest.approx(1 - 4 / 12)


def test_one_that_fills_its_batch_has_no_padding() -> None:
    request = make_request(1, 2)
    assert padding_ratio([request], number_buffer().assemble([request], 2)) == 0.0


def test_an_empty_batch_has_no_padding() -> None:
    """Sentences of no tokens: the graph may like them or not, the arithmetic must not fail."""
    requests = [request_of(np.zeros((1, 0), np.int64)), request_of(np.zeros((1, 0), np.int64))]
    assert padding_ratio(requests, BatchBuffer([IDS], 4).assemble(requests, 2)) == 0.0


@given(st.lists(st.integers(1, 4), min_size=1, max_size=8), st.integers(0, 5), st.integers(0, 1000))
def test_everybody_gets_the_answer_that_it_would_get_alone(rows: list[int], spare: int, seed: int) -> None:
    values = np.random.default_rng(seed).integers(-1000, 1000, sum(rows)).tolist()
    requests = [make_request(*(values.pop() for _ in range(count))) for count in rows]
    buffer = number_buffer(sum(rows) + spare)
    outputs = per_row(buffer.assemble(requests, sum(rows) + spare))
    for request, (own,) in zip(requests, split(outputs, requests), strict=True):
        np.testing.assert_array_equal(own, per_row(number_buffer().assemble([request], request.rows))[0])
