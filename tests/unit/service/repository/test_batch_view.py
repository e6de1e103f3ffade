from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from service.backend.base import Provider
from service.repository.batch_view import batch_view
from service.tensors import TensorSpec


class FakeBackend:
    """Adds one to each of its inputs."""

    provider = Provider("cpu", "CPUExecutionProvider", "cpu")

    def __init__(self, *shapes: tuple[int, ...]) -> None:
        specs = [TensorSpec(f"x{number}", "FP32", shape) for number, shape in enumerate(shapes)]
        self.inputs = specs[:1]
        self.outputs = specs[1:]
        self.seen: list[tuple[int, ...]] = []

    def run(self, inputs: Sequence[np.ndarray], overrides: object = None) -> list[np.ndarray]:
        self.seen += [array.shape for array in inputs]
        return [array + 1 for array in inputs]


def test_a_batched_graph_is_seen_as_it_is() -> None:
    backend = FakeBackend((-1, 3), (-1, 2))
    view = batch_view(backend)
    assert view.batched
    assert (list(view.inputs), list(view.outputs)) == (backend.inputs, backend.outputs)
    assert view.run == backend.run


@pytest.mark.parametrize("shapes", [((2, 3), (2, 3)), ((-1, 3), (3,)), ((), (-1,)), ((-1,), (1, 3))])
def test_one_tensor_without_a_free_first_axis_rules_batching_out(shapes: tuple[tuple[int, ...], ...]) -> None:
    view = batch_view(FakeBackend(*shapes))
    assert not view.batched
    assert [spec.shape for spec in (*view.inputs, *view.outputs)] == [(-1, *shape) for shape in shapes]


def test_a_call_is_a_single_row_run_as_it_stands() -> None:
    backend = FakeBackend((2, 3), (2, 3))
    (output,) = batch_view(backend).run([np.zeros((1, 2, 3))])
    assert backend.seen == [(2, 3)]
    assert output.tolist() == np.ones((1, 2, 3)).tolist()


def test_scalars_stay_arrays() -> None:
    """What ONNX Runtime takes; NumPy's scalars it refuses."""
    backend = FakeBackend((), ())
    kinds: list[type] = []
    run = backend.run

    def seen(inputs: Sequence[np.ndarray], overrides: object = None) -> list[np.ndarray]:
        kinds.extend(map(type, inputs))
        return run(inputs, overrides)

    backend.run = seen  # type: ignore[method-assign]
    (output,) = batch_view(backend).run([np.zeros(1)])
    assert (kinds, output.tolist()) == ([np.ndarray], [1.0])
