from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from service.backend.base import Provider
from service.errors import BackendFailed
from service.repository.rows_apart import answers_rows_apart
from service.tensors import DTYPES, TensorSpec

Compute = Callable[[np.ndarray], np.ndarray]


class FakeBackend:
    """Computes one output of the first input."""

    provider = Provider("cpu", "CPUExecutionProvider", "cpu")

    def __init__(self, compute: Compute, *shapes: tuple[int, ...], datatype: str = "FP32") -> None:
        self.inputs = [TensorSpec(f"x{number}", datatype, shape) for number, shape in enumerate(shapes or [(-1, 3)])]
        self.outputs = [TensorSpec("y", "FP32", (-1, 3))]
        self.optional_inputs: list[TensorSpec] = []
        self.seen: list[list[tuple[int, ...]]] = []
        self._compute = compute

    def run(self, inputs: Sequence[np.ndarray], overrides: object = None, /) -> list[np.ndarray]:
        self.seen.append([array.shape for array in inputs])
        return [self._compute(inputs[0])]

    def interrupt(self) -> None:
        pass


def _softmax_of_all(x: np.ndarray) -> np.ndarray:
    raised: np.ndarray = np.exp(x)
    return raised / raised.sum(axis=0)


@pytest.mark.parametrize(
    "compute",
    [
        pytest.param(lambda x: np.cumsum(x, axis=0), id="time"),
        pytest.param(_softmax_of_all, id="softmax over rows"),
        pytest.param(lambda x: x - x.mean(axis=0), id="batch norm that trains"),
        pytest.param(lambda x: np.repeat(x.argmax(axis=0)[None], len(x), axis=0), id="whole numbers"),
        pytest.param(lambda x: x[::-1], id="order"),
        pytest.param(lambda x: x / np.sqrt((x**2).mean()), id="scaled by all"),
        pytest.param(lambda x: x[:1], id="another number of rows"),
        pytest.param(lambda x: np.ones((len(x), len(x))), id="sizes of the batch"),
        pytest.param(lambda x: np.float32(1), id="no rows"),
        pytest.param(lambda x: np.full(len(x), str(len(x)), object), id="text"),
    ],
)
def test_rows_that_change_each_others_answers_are_seen_and_logged(
    compute: Compute, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert not answers_rows_apart(FakeBackend(compute), "sums")
    assert "rows affect each other's answers" in caplog.text
    assert caplog.records[0].fields == {"model": "sums"}


@pytest.mark.parametrize("datatype", sorted(DTYPES))
def test_every_datatype_is_made_up(datatype: str) -> None:
    assert answers_rows_apart(FakeBackend(lambda x: x, datatype=datatype), "m")


@pytest.mark.parametrize(
    "compute",
    [
        pytest.param(lambda x: x * (1 + 0.01 * (len(x) == 1)), id="rounding"),
        pytest.param(lambda x: np.full_like(x, np.nan), id="no numbers"),
        pytest.param(lambda x: np.full(len(x), "a", object), id="text"),
    ],
)
def test_what_is_the_same_is_believed(compute: Compute) -> None:
    assert answers_rows_apart(FakeBackend(compute), "m")


def test_free_dimensions_have_the_first_size_that_runs() -> None:
    def picky(x: np.ndarray) -> np.ndarray:
        if x.shape[1] > 1:
            raise BackendFailed("no")
        return np.cumsum(x, axis=0)

    backend = FakeBackend(picky, (-1, -1), (-1, 2, -1))
    assert not answers_rows_apart(backend, "m")
    assert backend.seen == [[(rows, size), (rows, 2, size)] for rows, size in ((2, 64), (2, 3), (2, 1), (1, 1), (1, 1))]


def test_rows_that_do_not_run_alone_are_no_batch() -> None:
    def needs_two(x: np.ndarray) -> np.ndarray:
        if len(x) < 2:
            raise BackendFailed("no")
        return x

    assert not answers_rows_apart(FakeBackend(needs_two), "m")


def test_what_does_not_run_is_no_batch_where_the_graph_has_different_names_for_it() -> None:
    def fails(_: np.ndarray) -> np.ndarray:
        raise BackendFailed("no")

    backend = FakeBackend(fails, (-1, 3), (-1, 3))
    assert not answers_rows_apart(backend, "m", ["questions", "answers"])
    assert answers_rows_apart(backend, "m", ["batch", "batch"])
    assert answers_rows_apart(backend, "m", ["batch", ""])
    assert answers_rows_apart(FakeBackend(lambda x: x, (-1, 3), (-1, 3)), "m", ["a_dynamic_axes_1", "b_dynamic_axes_1"])


def test_whole_numbers_are_of_those_that_run() -> None:
    def divides(x: np.ndarray) -> np.ndarray:
        if not x.all():
            raise BackendFailed("division by zero")
        return np.cumsum(x, axis=0)

    assert not answers_rows_apart(FakeBackend(divides, (-1, 8), datatype="INT32"), "m")


def test_what_does_not_run_or_has_no_batch_is_believed() -> None:
    def fails(_: np.ndarray) -> np.ndarray:
        raise BackendFailed("no")

    assert answers_rows_apart(FakeBackend(fails), "m")
    fixed = FakeBackend(fails, (2, 3))
    assert answers_rows_apart(fixed, "m")
    assert not fixed.seen
    wide = FakeBackend(fails, (-1, -1, -1, -1))
    assert answers_rows_apart(wide, "m")
    assert wide.seen == [[(2, size, size, size)] for size in (3, 1, 3, 1)]
