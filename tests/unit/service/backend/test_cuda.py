"""CUDA's options, the GPU's name, and bound runs: the same calls as on a GPU, with buffers on the CPU."""

from __future__ import annotations

import ctypes
import threading
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from service.backend import cuda
from service.backend.cuda import CUDA, TENSORRT, BoundRuns, CudaOptions, gpu_name
from service.settings import Settings
from tests.integration import graphs
from tests.unit.service.samples import graph_model

ALL = [TENSORRT, CUDA, "CPUExecutionProvider"]


def test_by_default_answers_are_as_precise_as_those_of_the_cpu() -> None:
    ((name, options),) = CudaOptions().providers(ALL)
    assert name == CUDA
    assert options == {"cudnn_conv_algo_search": "HEURISTIC", "use_tf32": "0", "enable_cuda_graph": "0"}


def test_every_choice_reaches_the_provider() -> None:
    settings = Settings(cuda_execution="graph", cudnn_search="exhaustive", tf32=True)
    ((_, options),) = CudaOptions.of(settings).providers(ALL)
    assert options == {"cudnn_conv_algo_search": "EXHAUSTIVE", "use_tf32": "1", "enable_cuda_graph": "1"}


def test_tensorrt_goes_first_where_it_is_and_keeps_its_engines() -> None:
    options = CudaOptions.of(Settings(tensorrt=True, tensorrt_cache="engines"))
    assert [name for name, _ in options.providers(ALL)] == [TENSORRT, CUDA]
    engines = options.providers(ALL)[0][1]
    assert engines["trt_engine_cache_enable"] == engines["trt_timing_cache_enable"] == "True"
    assert engines["trt_engine_cache_path"] == engines["trt_timing_cache_path"] == "engines"
    assert [name for name, _ in options.providers([CUDA])] == [CUDA]


class Bound:
    """Bound runs of ``sum`` = a + b, ``difference`` = a - b on the CPU, which knows no graphs and ignores their ids."""

    def __init__(self, *, capture: bool = False) -> None:
        self.session = ort.InferenceSession(graphs.add_sub().SerializeToString(), providers=["CPUExecutionProvider"])
        self.options: list[ort.RunOptions] = []
        self.runs = BoundRuns(self.session, "cpu", capture=capture, on_options=self.options.append)

    def run(self, rows: int, value: float) -> list[np.ndarray]:
        a = np.full((rows, 4), value, np.float32)
        return self.runs.run([a, np.ones_like(a)])


@pytest.mark.parametrize("capture", [False, True])
def test_bound_runs_give_the_answers_of_plain_ones_at_every_batch_size(capture: bool) -> None:
    bound = Bound(capture=capture)
    for value in range(5):
        for rows in (1, 2, 4):
            added, subtracted = bound.run(rows, float(value))
            assert added.tolist() == np.full((rows, 4), value + 1.0).tolist()
            assert subtracted.tolist() == np.full((rows, 4), value - 1.0).tolist()
    assert len(bound.runs._bound) == 3


def test_an_answer_is_the_callers_own() -> None:
    bound = Bound()
    first = [bound.run(2, float(value))[0] for value in range(4)]
    assert [answer[0, 0] for answer in first] == [1, 2, 3, 4]


def test_every_batch_size_of_every_thread_is_a_graph_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    ids: list[str] = []

    class Options(ort.RunOptions):
        def add_run_config_entry(self, key: str, value: str) -> None:
            assert key == "gpu_graph_id"
            ids.append(value)

    monkeypatch.setattr(cuda.ort, "RunOptions", Options)
    for _ in range(2):
        thread = threading.Thread(target=lambda: [Bound(capture=True).run(rows, 1.0) for rows in (1, 2)])
        thread.start()
        thread.join()
    graphs_captured = [value for value in ids if value != "-1"]
    assert len(graphs_captured) == len(set(graphs_captured)) == 4


def test_buffers_are_kept_for_a_bounded_number_of_shapes() -> None:
    bound = Bound()
    for rows in range(1, 100):
        assert bound.run(rows, 1.0)[0].shape == (rows, 4)
    assert len(bound.runs._bound) == 64


def test_where_the_sizes_of_the_outputs_depend_on_the_batch_there_are_no_buffers(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Of the columns those that are not all 0, as a detector answers with what it found."""
    model = graph_model(
        [
            helper.make_node("ReduceMax", ["x"], ["greatest"], axes=[0], keepdims=0),
            helper.make_node("Cast", ["greatest"], ["any"], to=TensorProto.BOOL),
            helper.make_node("Compress", ["x", "any"], ["y"], axis=1),
        ],
        [("x", TensorProto.FLOAT, ("N", 4))],
        [("y", TensorProto.FLOAT, ("N", "M"))],
    )
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    runs = BoundRuns(session, "cpu", capture=False, on_options=_hush)
    for row, found in (([1, 0, 2, 0], 2), ([3, 0, 4, 0], 2), ([0, 0, 5, 0], 1), ([0, 0, 0, 0], 0), ([1, 2, 3, 4], 4)):
        (answer,) = runs.run([np.array([row], np.float32)])
        assert answer.tolist() == [[value for value in row if value]]
        assert answer.shape == (1, found)
    assert len(caplog.records) == 1


def test_a_batch_that_fails_costs_no_other_its_buffers() -> None:
    model = graph_model(
        [helper.make_node("Gather", ["table", "x"], ["y"])],
        [("x", TensorProto.INT64, ("N", 1))],
        [("y", TensorProto.FLOAT, ("N", 1))],
        {"table": np.array([5, 6], np.float32)},
    )
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    runs = BoundRuns(session, "cpu", capture=False, on_options=_hush)
    for place in (0, 1, 7, 1):
        if place < 2:
            assert runs.run([np.array([[place]])])[0].tolist() == [[5.0 + place]]
        else:
            with pytest.raises(Exception, match="out of data bounds"):
                runs.run([np.array([[place]])])
    assert None not in runs._bound.values()


def _hush(options: ort.RunOptions) -> None:
    options.log_severity_level = 4


def test_every_run_can_be_interrupted() -> None:
    bound = Bound(capture=True)
    bound.run(1, 1.0)
    bound.run(1, 1.0)
    for options in bound.options:
        options.terminate = True
    with pytest.raises(Exception, match=r"(?i)terminat"):
        bound.run(1, 1.0)


def test_a_contiguous_copy_is_made_where_needed() -> None:
    bound = Bound()
    wide = np.arange(16, dtype=np.float32).reshape(2, 8)[:, ::2]
    for _ in range(2):
        added, _subtracted = bound.runs.run([wide, np.zeros_like(wide)])
        assert added.tolist() == wide.tolist()


class Driver:
    """CUDA's driver with one GPU; ``fails`` names the function that returns an error."""

    def __init__(self, fails: str = "") -> None:
        self._fails = fails

    def cuInit(self, _flags: int) -> int:
        return int(self._fails == "cuInit")

    def cuDeviceGet(self, device: Any, ordinal: int) -> int:
        device._obj.value = 7
        return int(self._fails == "cuDeviceGet" or ordinal != 0)

    def cuDeviceGetName(self, name: Any, size: int, device: ctypes.c_int) -> int:
        assert (size, device.value) == (256, 7)
        name.value = b"NVIDIA H100"
        return int(self._fails == "cuDeviceGetName")


def use(monkeypatch: pytest.MonkeyPatch, driver: object) -> None:
    def library(_name: str) -> object:
        if isinstance(driver, OSError):
            raise driver
        return driver

    monkeypatch.setattr(ctypes, "CDLL", library)


def test_the_first_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Driver())
    assert gpu_name() == "NVIDIA H100"


@pytest.mark.parametrize(
    "driver",
    [OSError("no such file"), object(), Driver("cuInit"), Driver("cuDeviceGet"), Driver("cuDeviceGetName")],
)
def test_without_a_driver_or_a_gpu_there_is_no_name(monkeypatch: pytest.MonkeyPatch, driver: object) -> None:
    use(monkeypatch, driver)
    assert gpu_name() == ""
