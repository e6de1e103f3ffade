"""What a call brings against what its model takes; tensors that do not fit are in ``test_dataplane.py``."""

from __future__ import annotations

import numpy as np
import pytest

from service.checks import check_forms, check_names, check_overrides
from service.errors import InvalidInput
from service.repository.servable import Servable
from service.tensors import Form, TensorSpec
from tests.unit.service.samples import bare_servable, make_servable

X: Form = ("FP32", (3, 2))


@pytest.fixture
def tunable() -> Servable:
    """Takes ``x``, and perhaps a gain and a word."""
    return bare_servable(optional_inputs=(TensorSpec("gain", "FP32", (1,)), TensorSpec("word", "BYTES", (1,))))


def objects(*elements: bytes) -> np.ndarray:
    array = np.empty(len(elements), dtype=object)
    array[:] = elements
    return array


@pytest.mark.parametrize(
    ("forms", "message"),
    [
        ({"y": X}, "model 'bare': expected inputs x and perhaps gain, word, got y"),
        ({"gain": ("FP32", (1,))}, "model 'bare': expected inputs x and perhaps gain, word, got gain"),
        ({"x": X, "y": X}, "model 'bare': expected inputs x and perhaps gain, word, got x, y"),
        ({"x": ("FP64", (3, 2))}, "input 'x': expected datatype FP32, got FP64"),
        ({"x": ("FP32", (3, 3))}, "input 'x': expected shape [-1, 2], got [3, 3]"),
        ({"x": ("FP32", (5, 2))}, "batch of 5, expected 1 to 4"),
        ({"x": ("FP32", (0, 2))}, "batch of 0, expected 1 to 4"),
        ({"x": X, "gain": ("FP32", (2,))}, "input 'gain': expected shape [1], got [2]"),
        ({"x": X, "word": ("FP32", (1,))}, "input 'word': expected datatype BYTES, got FP32"),
    ],
)
def test_what_does_not_fit_is_refused_by_what_the_message_states_of_it(
    tunable: Servable, forms: dict[str, Form], message: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_forms(tunable, forms)
    assert caught.value.message == message


@pytest.mark.parametrize("optional", [{}, {"gain": ("FP32", (1,))}, {"word": ("BYTES", (1,)), "gain": ("FP32", (1,))}])
def test_optional_inputs_may_come_or_not(tunable: Servable, optional: dict[str, Form]) -> None:
    check_forms(tunable, {**optional, "x": X})
    check_names(tunable, {**optional, "x": X})


def test_a_form_has_no_batch_axis_where_the_model_has_none() -> None:
    servable = bare_servable(inputs=(TensorSpec("x", "FP32", (1, 7, 2)),), batched=False, max_batch_size=1)
    check_forms(servable, {"x": ("FP32", (7, 2))})
    with pytest.raises(InvalidInput, match=r"expected shape \[7, 2\], got \[1, 7, 2\]"):
        check_forms(servable, {"x": ("FP32", (1, 7, 2))})


def test_a_model_of_pictures_takes_them_encoded_or_as_their_tensor() -> None:
    servable = make_servable()
    for form in (("BYTES", (4,)), ("BYTES", (4, 1)), ("UINT8", (4, 2, 3, 1))):
        check_forms(servable, {"images": form})
    for form in (("BYTES", (5,)), ("BYTES", (4, 2)), ("UINT8", (4,)), ("UINT8", (5, 2, 3, 1))):
        with pytest.raises(InvalidInput):
            check_forms(servable, {"images": form})


def test_the_optional_inputs_that_came_are_returned_as_they_came(tunable: Servable) -> None:
    x, gain = np.ones((3, 2), np.float32), np.ones(1, np.float32)
    assert check_overrides(tunable, {"x": x}) == {}
    assert check_overrides(tunable, {"x": x, "gain": gain}) == {"gain": gain}
    both = check_overrides(tunable, {"word": objects("ä".encode()), "x": x, "gain": gain})
    assert (both["word"].tolist(), both["gain"]) == (["ä"], gain)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("gain", np.ones(1), "input 'gain': expected datatype FP32, got FP64"),
        ("gain", np.ones(2, np.float32), "input 'gain': expected shape [1], got [2]"),
        ("word", objects(b"\xff"), "input 'word': an element is not UTF-8, expected UTF-8 strings"),
    ],
)
def test_optional_inputs_that_do_not_fit_are_refused(
    tunable: Servable, name: str, array: np.ndarray, message: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_overrides(tunable, {"x": np.ones((3, 2), np.float32), name: array})
    assert caught.value.message == message
