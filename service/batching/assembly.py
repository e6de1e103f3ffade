"""Rows of several requests into one batch, and the answers back into rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from service.batching.request import PendingRequest
from service.tensors import TensorSpec


class BatchBuffer:
    """One instance's batch buffers, reused from batch to batch. For that instance's thread only.

    Inputs of fixed shape share one array, sized for the largest batch. Inputs with free dimensions
    (token ids) are built anew for each batch, since their length varies.
    """

    def __init__(self, specs: Sequence[TensorSpec], max_batch_size: int, padding_value: int = 0) -> None:
        """Allocate.

        Args:
            specs: The graph's inputs, batch dimension first.
            max_batch_size: Most rows in a batch.
            padding_value: What fills free dimensions on the right: the padding id of sentences.
        """
        self._padding_value = padding_value
        self._fixed = [
            np.zeros((max_batch_size, *spec.shape[1:]), dtype=spec.dtype) if -1 not in spec.shape[1:] else None
            for spec in specs
        ]

    def assemble(self, requests: Sequence[PendingRequest], bucket: int) -> list[np.ndarray]:
        """Copy the requests' rows together, in order, and pad to ``bucket`` rows by repeating the last one.

        The graph might fail on a made-up row, such as zeros, and the real requests would fail with it.

        A lone request that fills its bucket is passed through without a copy. The result is valid
        until the next call.

        Args:
            requests: At least one request, all of one group, with at most ``bucket`` rows together.
            bucket: Rows of the batch.

        Returns:
            One array (bucket, ...) per input.
        """
        if len(requests) == 1 and requests[0].rows == bucket:
            return [np.ascontiguousarray(array) for array in requests[0].inputs]
        return [
            self._fill(fixed, [request.inputs[i] for request in requests], bucket)
            for i, fixed in enumerate(self._fixed)
        ]

    def _fill(self, fixed: np.ndarray | None, arrays: Sequence[np.ndarray], bucket: int) -> np.ndarray:
        if fixed is None:
            return self._fill_free(arrays, bucket)
        batch = fixed[:bucket]
        _put_together(arrays, batch)
        return batch

    def _fill_free(self, arrays: Sequence[np.ndarray], bucket: int) -> np.ndarray:
        shapes = {array.shape[1:] for array in arrays}
        if len(shapes) == 1:
            batch = np.empty((bucket, *shapes.pop()), arrays[0].dtype)
            _put_together(arrays, batch)
            return batch
        blank = b" " if arrays[0].dtype == object else self._padding_value  # text must stay text for the runtime
        batch = np.full((bucket, *map(max, *shapes)), blank, arrays[0].dtype)
        row = 0
        for array in arrays:
            batch[(slice(row, row + len(array)), *map(slice, array.shape[1:]))] = array
            row += len(array)
        batch[row:] = batch[row - 1]
        return batch


def _put_together(arrays: Sequence[np.ndarray], batch: np.ndarray) -> None:
    """Fill a batch with the rows of equally shaped arrays, in order, and repeat the last row to the end."""
    rows = sum([len(array) for array in arrays])
    np.concatenate(arrays, out=batch[:rows])
    if rows < len(batch):
        batch[rows:] = batch[rows - 1]


def split(outputs: Sequence[np.ndarray], requests: Sequence[PendingRequest]) -> Iterator[list[np.ndarray]]:
    """Yield each request's rows of every output, in the order of assembly, without the padding."""
    row = 0
    for request in requests:
        yield [output[row : row + request.rows] for output in outputs]
        row += request.rows


def padding_ratio(requests: Sequence[PendingRequest], batch: Sequence[np.ndarray]) -> float:
    """Return the share of a batch's elements that are padding, in [0, 1)."""
    if len(requests) == 1 and requests[0].rows == len(batch[0]):
        return 0.0
    brought = sum([array.size for request in requests for array in request.inputs])
    ran = sum([array.size for array in batch])
    return 1.0 - brought / ran if ran else 0.0
