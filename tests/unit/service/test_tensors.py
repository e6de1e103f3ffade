from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import InvalidInput
from service.tensors import DTYPES, TensorSpec

SPEC = TensorSpec("images", "UINT8", (-1, 28, 28, 1))


def test_names_and_dtypes_are_one_to_one() -> None:
    assert len(set(DTYPES.values())) == len(DTYPES)
    assert all(TensorSpec("x", name, ()).dtype == dtype for name, dtype in DTYPES.items())


def test_a_specification_reads_as_error_messages_write_it() -> None:
    assert str(SPEC) == "images UINT8 [-1, 28, 28, 1]"


@given(st.lists(st.integers(-1, 3), max_size=4), st.lists(st.integers(0, 3), max_size=4))
def test_a_shape_fits_where_every_dimension_is_free_or_equal(spec: list[int], shape: list[int]) -> None:
    fits = len(spec) == len(shape) and all(want in (-1, got) for want, got in zip(spec, shape, strict=False))
    assert TensorSpec("x", "FP32", tuple(spec)).accepts_shape(tuple(shape)) == fits


def test_an_array_that_fits_passes() -> None:
    SPEC.check(np.zeros((5, 28, 28, 1), np.uint8))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((1, 28, 28, 1), np.int8), "input 'images': expected datatype UINT8, got INT8"),
        (np.zeros((1, 28, 28, 1), np.complex64), "input 'images': expected datatype UINT8, got complex64"),
        (np.zeros((1, 28, 28), np.uint8), "input 'images': expected shape [-1, 28, 28, 1], got [1, 28, 28]"),
        (np.zeros((1, 28, 27, 1), np.uint8), "input 'images': expected shape [-1, 28, 28, 1], got [1, 28, 27, 1]"),
    ],
)
def test_an_array_that_does_not_fit_is_refused_with_both_sides(array: np.ndarray, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        SPEC.check(array)
    assert caught.value.message == message
