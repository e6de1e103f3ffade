"""Checks a call's inputs against its model: names, datatypes, shapes, and whether text is UTF-8."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from service.errors import InvalidInput
from service.preprocessing.prepare import Item
from service.repository.servable import Servable
from service.tensors import Form, TensorSpec


def check_forms(servable: Servable, forms: Mapping[str, Form]) -> None:
    """Refuse inputs by the datatypes and shapes that their message states, so that nothing too large is decoded.

    Raises:
        InvalidInput: A wrong name, datatype, shape or number of rows (INVALID_ARGUMENT).
    """
    check_names(servable, forms)
    for spec in servable.inputs:
        datatype, shape = forms[spec.name]
        if datatype == "BYTES" and servable.preparer is not None:
            _check_items(servable, shape)
            continue
        _as_sent(servable, spec).check_form(datatype, shape)
        if servable.batched:
            _check_rows(servable, shape[0])
        if servable.preparer is not None:
            servable.preparer.check_shape(shape)
    for spec in servable.optional_inputs:
        if spec.name in forms:
            spec.check_form(*forms[spec.name])


def check_names(servable: Servable, inputs: Collection[str]) -> None:
    """Refuse a call that lacks a required input or has an unknown one.

    Raises:
        InvalidInput: Names the expected and the given inputs (INVALID_ARGUMENT).
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
    """Return the optional inputs that the call gives; the server adds no batch axis to them.

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
        InvalidInput: The shape is another, or there are more items than a request may have (INVALID_ARGUMENT).
    """
    _check_items(servable, array.shape)
    items: list[Item] = array.ravel().tolist()
    return items


def _check_items(servable: Servable, shape: tuple[int, ...]) -> None:
    """Refuse all shapes but (N,) and (N, 1); Triton's clients often send the latter to string models."""
    if not shape or shape[1:] not in ((), (1,)) or not 1 <= shape[0] <= servable.max_rows:
        raise InvalidInput(
            f"input '{servable.inputs[0].name}': expected BYTES of shape [N], N from 1 to "
            f"{servable.max_rows}, got shape {list(shape)}"
        )


def _texts(name: str, array: np.ndarray) -> np.ndarray:
    """Decode BYTES for a graph's string tensor, which is UTF-8 (ONNX, "Tensor Element Types").

    Other bytes would make the runtime fail the whole batch, neighbours included.
    """
    texts = np.empty(array.size, dtype=object)
    try:
        texts[:] = [element.decode() for element in array.flat]
    except UnicodeDecodeError:
        raise InvalidInput(f"input '{name}': an element is not UTF-8, expected UTF-8 strings") from None
    return texts.reshape(array.shape)


def check_arrays(servable: Servable, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Return the required inputs in the graph's order, each with a batch axis.

    Raises:
        InvalidInput: Another dtype, shape or batch size (INVALID_ARGUMENT).
    """
    arrays = [inputs[spec.name] for spec in servable.inputs]
    for number, (spec, array) in enumerate(zip(servable.inputs, arrays, strict=True)):
        _as_sent(servable, spec).check(array)
        checked = _texts(spec.name, array) if array.dtype == object else array
        arrays[number] = checked if servable.batched else checked[np.newaxis]
    rows = {len(array) for array in arrays}
    if len(rows) != 1:
        raise InvalidInput(f"inputs have different batch sizes {sorted(rows)}")
    _check_rows(servable, rows.pop())
    return arrays


def _as_sent(servable: Servable, spec: TensorSpec) -> TensorSpec:
    """Return an input's specification as callers know it: without batching, without the first axis."""
    return spec if servable.batched else dataclasses.replace(spec, shape=spec.shape[1:])


def _check_rows(servable: Servable, rows: int) -> None:
    if not 1 <= rows <= servable.max_rows:
        raise InvalidInput(f"batch of {rows}, expected 1 to {servable.max_rows}")
