"""Asks a graph that nobody proved whether its rows are answered apart from each other.

A free first axis need not be a batch: it may be time, or words, or what a softmax runs over. Requests put together
on it would get answers made of each other's rows.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from service.backend.base import Backend
from service.errors import BackendFailed
from service.repository.measuring import free_sizes
from service.tensors import TensorSpec, as_numbers

_LOG = logging.getLogger(__name__)
_ROWS = 2
# Of the greatest answer. Kernels and ranges that are chosen by batch change less, rows of others much more.
_TOLERANCE = 0.05
_SMALL_SIZES = (3, 1)  # of free dimensions, where the usual ones do not run: as filters may be, and where much fits


def answers_rows_apart(backend: Backend, model: str, axes: Sequence[str] = ()) -> bool:
    """Tell whether two made-up rows are answered together as they are alone, so far as can be seen; log if not.

    Answers of other sizes than alone are not apart: how many there are, or how wide they are, is then up to the
    company. A graph that does not run on them is believed, unless its inputs' first axes are named differently; so is
    one without a free first axis, where there is nothing to tell.

    Args:
        backend: Runs the graph.
        model: Its name, for the log.
        axes: What the graph calls its inputs' first axes; empty where it does not.
    """
    if any(not spec.shape or spec.shape[0] != -1 for spec in (*backend.inputs, *backend.outputs)):
        return True
    for size, least in _attempts(backend.inputs):
        inputs = [_made_up(spec, size, least) for spec in backend.inputs]
        try:
            together = backend.run(inputs)
        except BackendFailed:
            continue
        if _answered_alone(backend, inputs, together):
            return True
        _LOG.warning("rows change each other's answers: served without batching", extra={"fields": {"model": model}})
        return False
    if len(set(axes) - {""}) < 2:
        return True
    _LOG.warning(
        "made-up rows do not run, and the inputs' first axes have different names: served without batching",
        extra={"fields": {"model": model, "axes": list(axes)}},
    )
    return False


def _attempts(specs: Sequence[TensorSpec]) -> list[tuple[int, int]]:
    """Return the sizes of free dimensions and least whole numbers to try: some graphs divide by them.

    Large sizes go with noughts and ones alone: whole numbers may be sizes themselves.
    """
    small = _SMALL_SIZES if any(-1 in spec.shape[1:] for spec in specs) else (1,)
    sizes = dict.fromkeys((*free_sizes(specs)[:-1], *small))
    return [(size, 0) for size in sizes] + [(size, 1) for size in small]


def _answered_alone(backend: Backend, inputs: Sequence[np.ndarray], together: Sequence[np.ndarray]) -> bool:
    try:
        alone = [backend.run([array[row : row + 1] for array in inputs]) for row in range(_ROWS)]
    except BackendFailed:  # it needs its company
        return False
    return all(_same(output, rows) for output, *rows in zip(together, *alone, strict=True))


def _made_up(spec: TensorSpec, size: int, least: int) -> np.ndarray:
    """Return two rows that differ. Whole numbers are small: they may be places in a table."""
    random = np.random.default_rng(len(spec.name))
    shape = (_ROWS, *(size if free == -1 else free for free in spec.shape[1:]))
    if spec.datatype == "BYTES":
        return np.where(random.integers(0, 2, shape), "a", "b c").astype(object)
    if spec.dtype.kind == "f":
        numbers = random.standard_normal(shape)
        numbers[1] *= 2  # what is scaled by all rows would else hardly change
        return numbers.astype(spec.dtype)
    return random.integers(least, 256 if spec.datatype == "UINT8" else least + 2, shape).astype(spec.dtype)


def _same(together: np.ndarray, alone: Sequence[np.ndarray]) -> bool:
    if together.ndim == 0 or len(together) != _ROWS:
        return False
    return all(_alike(together[row : row + 1], expected) for row, expected in enumerate(alone))


def _alike(answer: np.ndarray, expected: np.ndarray) -> bool:
    if answer.shape != expected.shape:
        return False
    if expected.dtype == object:
        return np.array_equal(answer, expected)
    one, other = (as_numbers(array).astype(np.float64) for array in (answer, expected))
    greatest = np.abs(other[np.isfinite(other)]).max(initial=0)
    return np.allclose(one, other, rtol=0, atol=_TOLERANCE * greatest, equal_nan=True)
