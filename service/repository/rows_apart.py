"""Finds out whether an unproven graph answers its rows independently of each other.

A free first axis need not be a batch axis: it may be time, or words, or what a softmax runs over. Requests that share
such an axis would get answers mixed with each other's rows.
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
# Share of the greatest answer. Kernels and ranges that are chosen by batch change less, other rows much more.
_TOLERANCE = 0.05
_SMALL_SIZES = (3, 1)  # of free dimensions, if the usual ones do not run: a filter's size, and one that often fits


def answers_rows_apart(backend: Backend, model: str, axes: Sequence[str] = ()) -> bool:
    """Return whether two made-up rows get the same answers together as alone, as far as can be seen; log if not.

    Answers of other sizes than alone also count as different: their number or width then depends on the other rows. A
    graph that does not run on the made-up rows counts as independent, unless its inputs' first axes have different
    names. So does a graph without a free first axis, where there is nothing to try.

    Args:
        backend: Runs the graph.
        model: The model's name, for the log.
        axes: The graph's names of its inputs' first axes; empty where it has none.
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
        _LOG.warning("rows affect each other's answers: served without batching", extra={"fields": {"model": model}})
        return False
    if len(set(axes) - {""}) < 2:
        return True
    _LOG.warning(
        "the graph fails on random rows, and the inputs' first axes have different names: served without batching",
        extra={"fields": {"model": model, "axes": list(axes)}},
    )
    return False


def _attempts(specs: Sequence[TensorSpec]) -> list[tuple[int, int]]:
    """Return the pairs to try: a size of free dimensions, and the least whole number, since some graphs divide by them.

    Large sizes go only with zeros and ones, since whole numbers may themselves be sizes.
    """
    small = _SMALL_SIZES if any(-1 in spec.shape[1:] for spec in specs) else (1,)
    sizes = dict.fromkeys((*free_sizes(specs)[:-1], *small))
    return [(size, 0) for size in sizes] + [(size, 1) for size in small]


def _answered_alone(backend: Backend, inputs: Sequence[np.ndarray], together: Sequence[np.ndarray]) -> bool:
    try:
        alone = [backend.run([array[row : row + 1] for array in inputs]) for row in range(_ROWS)]
    except BackendFailed:  # a row does not run alone
        return False
    return all(_same(output, rows) for output, *rows in zip(together, *alone, strict=True))


def _made_up(spec: TensorSpec, size: int, least: int) -> np.ndarray:
    """Return two rows that differ. Whole numbers are small, since they may be indices into a table."""
    random = np.random.default_rng(len(spec.name))
    shape = (_ROWS, *(size if free == -1 else free for free in spec.shape[1:]))
    if spec.datatype == "BYTES":
        return np.where(random.integers(0, 2, shape), "a", "b c").astype(object)
    if spec.dtype.kind == "f":
        numbers = random.standard_normal(shape)
        numbers[1] *= 2  # or a scale taken over all rows would hardly change
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
