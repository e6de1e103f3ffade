"""CUDA: the options of its provider, runs with buffers that stay on the device, and the GPU's name.

Written to ONNX Runtime's documentation ("CUDA Execution Provider", "TensorRT Execution Provider") and
tried with the same calls on the CPU; ``tests/gpu`` holds it on a GPU.
"""

from __future__ import annotations

import ctypes
import itertools
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnxruntime as ort

from service.settings import Settings

DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"
_LOG = logging.getLogger(__name__)
_MAX_SHAPES = 64  # whose buffers a thread keeps; a third party's graph may see more
_NAME_BYTES = 256
_GRAPH_ID = "gpu_graph_id"
NO_GRAPH = (_GRAPH_ID, "-1")  # run options' entry: neither captures nor replays
_graph_ids = itertools.count(1)


@dataclass(frozen=True, slots=True)
class CudaOptions:
    """How a graph runs on CUDA.

    Attributes:
        execution: ``"plain"`` copies and allocates in every run; ``"bound"`` keeps buffers on the device
            for each batch size; ``"graph"`` also captures each batch size's kernels once as a CUDA graph.
        cudnn_search: How cuDNN chooses a convolution's algorithm; ``"exhaustive"`` takes longer to load.
        tf32: Whether matrix products may round their inputs to TF32's 10 bits.
        tensorrt: Whether TensorRT is asked first.
        tensorrt_cache: Folder of the engines that it builds, which takes minutes; empty for none.
    """

    execution: Literal["plain", "bound", "graph"] = "plain"
    cudnn_search: Literal["heuristic", "exhaustive"] = "heuristic"
    tf32: bool = False
    tensorrt: bool = False
    tensorrt_cache: str = ""

    @classmethod
    def of(cls, settings: Settings) -> CudaOptions:
        """Return what an operator chose."""
        return cls(
            settings.cuda_execution,
            settings.cudnn_search,
            settings.tf32,
            settings.tensorrt,
            settings.tensorrt_cache,
        )

    def providers(self, available: Sequence[str]) -> list[tuple[str, dict[str, str]]]:
        """Return the providers to ask for, with their options.

        Args:
            available: What this ONNX Runtime was built with.
        """
        cuda = {
            "cudnn_conv_algo_search": self.cudnn_search.upper(),
            "use_tf32": str(int(self.tf32)),
            "enable_cuda_graph": str(int(self.execution == "graph")),
        }
        if not self.tensorrt or TENSORRT not in available:
            return [(CUDA, cuda)]
        tensorrt = {"trt_cuda_graph_enable": str(self.execution == "graph")}
        if self.tensorrt_cache:
            tensorrt |= {
                "trt_engine_cache_enable": "True",
                "trt_engine_cache_path": self.tensorrt_cache,
                "trt_timing_cache_enable": "True",
                "trt_timing_cache_path": self.tensorrt_cache,
            }
        return [(TENSORRT, tensorrt), (CUDA, cuda)]


class BoundRuns:
    """One thread's runs, with buffers on the device for each batch size. For that thread only.

    CUDA graphs need it so: fixed shapes and addresses, and the thread that captured one replays it.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        device: str,
        *,
        capture: bool,
        on_options: Callable[[ort.RunOptions], None],
    ) -> None:
        """Keep the session.

        Args:
            session: Of a graph whose tensors are numbers.
            device: ``"cuda"``; ``"cpu"`` does the same without a GPU.
            capture: Whether each batch size becomes a CUDA graph.
            on_options: Told of every run's options, by which it can be interrupted.
        """
        self._session = session
        self._device = device
        self._capture = capture
        self._on_options = on_options
        self._input_names = [node.name for node in session.get_inputs()]
        self._output_names = [node.name for node in session.get_outputs()]
        self._plain_options = self._options(NO_GRAPH[1])
        self._bound: dict[tuple[tuple[int, ...], ...], _Bound | None] = {}  # None: not by buffers of fixed sizes

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Compute one batch; as :meth:`service.backend.base.Backend.run`, but raises what ONNX Runtime raises.

        Of some graphs the sizes of the outputs depend on what is in a batch: those run without buffers once it shows.
        """
        shapes = tuple(array.shape for array in inputs)
        bound = self._bound.get(shapes)
        if bound is not None:
            try:
                return bound.run(inputs)
            except Exception:
                outputs = self._run_plain(inputs)  # which fails as well if it is the batch that does
                self._bound[shapes] = None
                _LOG.warning("batches of shapes %s run without buffers on the device from now on", shapes)
                return outputs
        outputs = self._run_plain(inputs)
        if shapes not in self._bound and len(self._bound) < _MAX_SHAPES:  # for the next batch of this size
            self._bound[shapes] = self._bind(inputs, outputs)
        return outputs

    def _run_plain(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        feeds = dict(zip(self._input_names, inputs, strict=True))
        return list(self._session.run(self._output_names, feeds, self._plain_options))

    def _bind(self, inputs: Sequence[np.ndarray], outputs: Sequence[np.ndarray]) -> _Bound:
        binding = self._session.io_binding()
        values = [self._buffer(array) for array in inputs]
        results = [self._buffer(array) for array in outputs]
        for name, value in zip(self._input_names, values, strict=True):
            binding.bind_ortvalue_input(name, value)
        for name, value in zip(self._output_names, results, strict=True):
            binding.bind_ortvalue_output(name, value)
        options = self._options(str(next(_graph_ids))) if self._capture else self._plain_options
        return _Bound(self._session, binding, values, results, options)

    def _buffer(self, like: np.ndarray) -> ort.OrtValue:
        return ort.OrtValue.ortvalue_from_shape_and_type(like.shape, like.dtype, self._device, 0)

    def _options(self, graph_id: str) -> ort.RunOptions:
        options = ort.RunOptions()
        if self._capture:
            options.add_run_config_entry(_GRAPH_ID, graph_id)
        self._on_options(options)
        return options


@dataclass(frozen=True, slots=True)
class _Bound:
    """The buffers of one batch size."""

    session: ort.InferenceSession
    binding: ort.IOBinding
    inputs: list[ort.OrtValue]
    outputs: list[ort.OrtValue]
    options: ort.RunOptions

    def run(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        for value, array in zip(self.inputs, inputs, strict=True):
            value.update_inplace(np.ascontiguousarray(array))
        self.session.run_with_iobinding(self.binding, self.options)
        return [np.array(value.numpy()) for value in self.outputs]


def gpu_name() -> str:
    """Return the name that the driver gives the first visible GPU; empty without a driver or a GPU.

    Asks CUDA's driver, which heeds ``CUDA_VISIBLE_DEVICES``, and makes no context.
    """
    try:
        driver = ctypes.CDLL(DRIVER)
        device = ctypes.c_int()
        name = ctypes.create_string_buffer(_NAME_BYTES)
        failed = (
            driver.cuInit(0)
            or driver.cuDeviceGet(ctypes.byref(device), 0)
            or driver.cuDeviceGetName(name, _NAME_BYTES, device)
        )
    except (OSError, AttributeError):  # no driver, or none of CUDA's
        return ""
    return "" if failed else name.value.decode(errors="replace")
