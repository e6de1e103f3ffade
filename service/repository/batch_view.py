"""A graph with or without a batch axis, seen as if it always had one."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from service.backend.base import Backend
from service.batching.run import Run
from service.tensors import TensorSpec


@dataclass(frozen=True, slots=True)
class BatchView:
    """A graph seen as if it always had a batch axis; optional inputs stay as they are."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batched: bool
    run: Run


def batch_view(backend: Backend, batched: bool = True) -> BatchView:
    """Return a view of a graph with a batch axis; without one of its own, a call is a single row, run as it stands.

    Args:
        backend: Runs the graph.
        batched: False if the graph's first axis, free or not, is known to be no batch axis.
    """
    tensors = (*backend.inputs, *backend.outputs)
    if batched and all(spec.shape and spec.shape[0] == -1 for spec in tensors):
        return BatchView(tuple(backend.inputs), tuple(backend.outputs), True, backend.run)

    def run(inputs: Sequence[np.ndarray], overrides: Mapping[str, np.ndarray] | None = None, /) -> list[np.ndarray]:
        # Not array[0]: for shape (1,) that is no array.
        arrays = [array.reshape(array.shape[1:]) for array in inputs]
        return [output[np.newaxis] for output in backend.run(arrays, overrides)]

    inputs, outputs = (
        tuple(dataclasses.replace(spec, shape=(-1, *spec.shape)) for spec in specs)
        for specs in (backend.inputs, backend.outputs)
    )
    return BatchView(inputs, outputs, False, run)
