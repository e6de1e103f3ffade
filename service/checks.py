"""What a call brings against what its model takes: names, datatypes, shapes, text that is text."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from service.errors import InvalidInput
from service.preprocessing.prepare import Item
from service.repository.servable import Servable


def check_names(servable: Servable, inputs: Mapping[str, np.ndarray]) -> None:
    """Refuse inputs of which one is missing or unknown.

    Raises:
        InvalidInput: Names those expected and those that came (INVALID_ARGUMENT).
    """
    expected = [spec.name for spec in servable.inputs]
    if len(inputs) == len(expected) and all(name in inputs for name in expected):
        return
    optional = [spec.name for spec in servable.optional_inputs]
    if all(name in inputs for name in expected) and all(name in expected or name in optional for name in inputs):
        return
    may = f" and perhaps {', '.join(optional)}" if optional else ""
    raise InvalidInput(
        f"model '{servable.name}': expected inputs {', '.join(expected)}{may}, got {', '.join(inputs) or 'none'}"
    )


def check_overrides(servable: Servable, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the optional inputs that came; they have no batch axis of ours.

    Raises:
        InvalidInput: One has another dtype or shape (INVALID_ARGUMENT).
    """
    overrides: dict[str, np.ndarray] = {}
    for spec in servable.optional_inputs:
        if spec.name in inputs:
            array = inputs[spec.name]
            spec.check(array)
            overrides[spec.name] = _texts(spec.name, array) if array.dtype == object else array
    return overrides


def encoded_items(servable: Servable, array: np.ndarray) -> Sequence[Item]:
    """Return the pictures or sentences of an array (N,) or (N, 1) of bytes objects.

    Raises:
        InvalidInput: Another shape, or more than a request may have (INVALID_ARGUMENT).
    """
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]  # Triton's clients of string models often send (N, 1)
    if array.ndim != 1 or not 1 <= len(array) <= servable.max_rows:
        raise InvalidInput(
            f"input '{servable.inputs[0].name}': expected BYTES of shape [N], N from 1 to "
            f"{servable.max_rows}, got shape {list(array.shape)}"
        )
    items: list[Item] = array.tolist()
    return items


def _texts(name: str, array: np.ndarray) -> np.ndarray:
    """Decode BYTES for a graph's string tensor, which is UTF-8 (ONNX, "Tensor Element Types").

    Bytes that are not would fail the whole batch in the runtime, neighbours included.
    """
    texts = np.empty(array.size, dtype=object)
    try:
        texts[:] = [element.decode() for element in array.flat]
    except UnicodeDecodeError:
        raise InvalidInput(f"input '{name}': an element is not UTF-8, which the model's strings must be") from None
    return texts.reshape(array.shape)


def check_arrays(servable: Servable, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Return the required inputs in the graph's order, each with a batch axis.

    Raises:
        InvalidInput: Another dtype, shape or batch size (INVALID_ARGUMENT).
    """
    arrays = [inputs[spec.name] for spec in servable.inputs]
    for number, (spec, array) in enumerate(zip(servable.inputs, arrays, strict=True)):
        # Without batching a caller neither sends nor hears of the axis that is added here.
        (spec if servable.batched else dataclasses.replace(spec, shape=spec.shape[1:])).check(array)
        checked = _texts(spec.name, array) if array.dtype == object else array
        arrays[number] = checked if servable.batched else checked[np.newaxis]
    rows = {len(array) for array in arrays}
    if len(rows) != 1:
        raise InvalidInput(f"inputs have different batch sizes {sorted(rows)}")
    if not 1 <= (batch := rows.pop()) <= servable.max_rows:
        raise InvalidInput(f"batch of {batch}, expected 1 to {servable.max_rows}")
    return arrays
