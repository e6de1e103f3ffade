"""On a GPU: every way of running gives the golden answers, and says that it ran on CUDA."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from service.backend.cuda import CudaOptions
from service.backend.onnx import OnnxBackend
from service.errors import ProviderUnavailable
from service.golden import read_golden

MODELS = Path(__file__).parents[2] / "models"
LENET = MODELS / "lenet5-mnist" / "1"

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("execution", ["plain", "bound", "graph"])
def test_golden_answers_at_every_batch_size(execution: str) -> None:
    try:
        backend = OnnxBackend(LENET / "model.onnx", "cuda", cuda=CudaOptions(execution))  # type: ignore[arg-type]
    except ProviderUnavailable as error:
        pytest.skip(f"no CUDA here: {error}")
    assert backend.provider.actual == "CUDAExecutionProvider"
    golden = read_golden(LENET / "golden.npz")
    for size in (1, 2, 4, 8, 16, 32):
        for start in range(0, 3 * size, size):  # the third run of a size replays what the second captured
            rows = np.arange(start, start + size) % golden.count
            (answer,) = backend.run([golden.inputs[0][rows]])
            np.testing.assert_allclose(answer, golden.outputs[0][rows], atol=1e-4)
