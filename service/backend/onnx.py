"""ONNX Runtime: opens a graph on the device that was asked for, says which one it got, runs batches."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import math
import threading
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort

from service.backend.base import Provider
from service.backend.cuda import CUDA, DRIVER, NO_GRAPH, TENSORRT, BoundRuns, CudaOptions
from service.backend.ranks import without_shape
from service.backend.remedies import not_opened, wrong_type
from service.backend.weights import read_weights
from service.digests import remedy_of_pointer
from service.errors import BackendFailed, GraphNotRunnable, OutputNotText, ProviderUnavailable
from service.tensors import BF16, AnyRank, TensorSpec

RUNTIME = f"onnxruntime {ort.__version__}"
_CPU = "CPUExecutionProvider"
_ONNX_BFLOAT16 = 16  # TensorProto.DataType in onnx.proto
_DEFAULT_CUDA = CudaOptions()
_LOG = logging.getLogger(__name__)
_DATATYPES = {
    "tensor(bool)": "BOOL",
    "tensor(uint8)": "UINT8",
    "tensor(uint16)": "UINT16",
    "tensor(uint32)": "UINT32",
    "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8",
    "tensor(int16)": "INT16",
    "tensor(int32)": "INT32",
    "tensor(int64)": "INT64",
    "tensor(float16)": "FP16",
    "tensor(bfloat16)": "BF16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    "tensor(string)": "BYTES",
}


def _share_an_arena() -> None:
    """Let this process's CPU-only sessions take their memory from one arena, which has a lock.

    A session's own arena keeps the memory of its largest batch for as long as the session lives. The shared one keeps
    it once for all sessions, for as long as the process lives.
    """
    memory = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    with contextlib.suppress(RuntimeError):  # somebody in this process was first; ONNX Runtime 1.20 takes that ill
        ort.create_and_register_allocator(memory, None)


_share_an_arena()  # before any session is opened


class OnnxBackend:
    """An ONNX Runtime session; see :class:`service.backend.base.Backend`. ``run`` is thread-safe."""

    def __init__(
        self,
        path: Path,
        device: str = "auto",
        intra_op_threads: int = 1,
        cuda: CudaOptions = _DEFAULT_CUDA,
        *,
        lone: bool = False,
    ) -> None:
        """Open the graph.

        It takes tens of milliseconds for a small graph, seconds for a large one. ONNX Runtime 1.23 holds the GIL
        meanwhile (microsoft/onnxruntime#27063), 1.32 does not.

        Args:
            path: model.onnx.
            device: ``"auto"`` takes CUDA where it works and the CPU otherwise; ``"cuda"`` refuses
                anything else; ``"cpu"`` never tries CUDA.
            intra_op_threads: Threads for one run on the CPU, the caller included; at least 1. The others are one pool
                for all runs.
            cuda: How it runs on CUDA.
            lone: One run at a time, while nothing else wants the cores.

        Raises:
            GraphInvalid: The file is missing or damaged, or (GraphNotRunnable) has what the runtime or the protocol has
                not.
            OutOfMemory: It does not fit into memory.
            ProviderUnavailable: ``"cuda"`` was asked for and the session came up without it.
        """
        options = ort.SessionOptions()
        providers = _candidates(device, cuda)
        # A GPU's work is enqueued by one thread.
        options.intra_op_num_threads = 1 if len(providers) > 1 else intra_op_threads
        options.inter_op_num_threads = 1
        # A spinning worker takes the core that the gRPC threads need. While a lone run lasts they have nothing to do,
        # and a worker that sleeps between two nodes costs most of what it gains; it spins no longer than the run.
        options.add_session_config_entry("session.intra_op.allow_spinning", "1" if lone else "0")
        if lone:
            options.add_session_config_entry("session.force_spinning_stop", "1")
        if providers == [_CPU]:
            options.add_session_config_entry("session.use_env_allocators", "1")
        options.log_severity_level = 3
        try:
            weights = read_weights(path, options)
            self._session = ort.InferenceSession(path, options, providers=providers)
            del weights
        except Exception as error:  # ONNX Runtime raises its own family and plain RuntimeError
            if device == "cuda" and CUDA in str(error):
                raise ProviderUnavailable(_no_cuda(str(error))) from None
            refusal = not_opened(error)
            raise type(refusal)(f"{path}: {refusal}{remedy_of_pointer(path)}") from None
        # get_available_providers() is no evidence; only the session's own list tells.
        actual = self._session.get_providers()[0]
        on_cuda = actual in (CUDA, TENSORRT)
        if device == "cuda" and not on_cuda:
            raise ProviderUnavailable(_no_cuda(f"the session runs on {actual}"))
        self.provider = Provider(device, actual, "cuda:0" if on_cuda else "cpu")
        if device == "auto" and not on_cuda and CUDA in ort.get_available_providers():
            why = _missing_driver() or "see ONNX Runtime's own lines above"
            _LOG.warning("CUDA does not work here, so the CPU is used: %s", why, extra={"fields": {"graph": str(path)}})
        ends = [*self._session.get_inputs(), *self._session.get_outputs()]
        open_ranks = frozenset() if all(node.shape for node in ends) else without_shape(path)
        self.inputs: Sequence[TensorSpec] = [_spec(node, path, open_ranks) for node in self._session.get_inputs()]
        # One of a type that no caller can send keeps its default.
        defaults = [node for node in self._session.get_overridable_initializers() if node.type in _DATATYPES]
        self.optional_inputs: Sequence[TensorSpec] = [_spec(node, path) for node in defaults]
        self.outputs: Sequence[TensorSpec] = [_spec(node, path, open_ranks) for node in self._session.get_outputs()]
        self._input_names = [spec.name for spec in self.inputs]
        self._output_names = [spec.name for spec in self.outputs]
        self._local = threading.local()
        self._run_options: list[ort.RunOptions] = []
        self._interrupted = False
        datatypes = {spec.datatype for spec in (*self.inputs, *self.optional_inputs, *self.outputs)}
        self._has_bf16 = "BF16" in datatypes
        if datatypes >= {"BF16", "BYTES"}:
            raise GraphNotRunnable(f"{path}: has BF16 and string tensors, which the runtime's Python API cannot mix")
        self._binds = on_cuda and cuda.execution != "plain" and not datatypes & {"BF16", "BYTES"}
        self._captures = cuda.execution == "graph"

    @property
    def first_axes(self) -> Sequence[str]:
        """What the graph calls the first axis of each input; empty where it has no name."""
        firsts = [node.shape[0] if node.shape else "" for node in self._session.get_inputs()]
        return [first if isinstance(first, str) else "" for first in firsts]

    def run(
        self, inputs: Sequence[np.ndarray], overrides: Mapping[str, np.ndarray] | None = None, /
    ) -> list[np.ndarray]:
        """See :class:`service.backend.base.Backend`."""
        feeds = dict(zip(self._input_names, inputs, strict=True))
        if overrides:
            feeds |= overrides
        try:
            if self._binds and not overrides:
                return self._bound_runs().run(inputs)
            if self._has_bf16:
                return self._run_with_values(feeds)
            return list(self._session.run(self._output_names, feeds, self._options()))
        except UnicodeDecodeError as error:  # of Python's, so it ran: strings become str, whatever they hold
            raise self._not_text(feeds) from error
        except Exception as error:
            # The text may hold paths and shapes of the graph: whoever runs a batch may log it, and never sends it.
            raise BackendFailed("the runtime failed on this batch") from error

    def _not_text(self, feeds: Mapping[str, np.ndarray]) -> BackendFailed:
        """Tell which output it is; if there are several of text, by having each alone."""
        names = [spec.name for spec in self.outputs if spec.datatype == "BYTES"]
        name = names[0] if len(names) == 1 else next((name for name in names if self._is_not_text(name, feeds)), None)
        if name is None:
            return BackendFailed("the runtime failed on this batch")
        return OutputNotText(f"output '{name}' has text that is not UTF-8, which the runtime cannot return")

    def _is_not_text(self, name: str, feeds: Mapping[str, np.ndarray]) -> bool:
        try:
            self._session.run([name], feeds, self._options())
        except Exception as error:  # it may have been interrupted by now
            return isinstance(error, UnicodeDecodeError)
        return False

    def interrupt(self) -> None:
        """See :class:`service.backend.base.Backend`; ONNX Runtime looks at it between two nodes."""
        self._interrupted = True
        for options in self._run_options:
            options.terminate = True

    def _options(self) -> ort.RunOptions:
        """Return this thread's options, which only :meth:`interrupt` ever changes."""
        options = getattr(self._local, "options", None)
        if options is None:
            options = self._local.options = ort.RunOptions()
            if self._captures and self._binds:
                options.add_run_config_entry(*NO_GRAPH)
            self._keep(options)
        return options

    def _keep(self, options: ort.RunOptions) -> None:
        options.log_severity_level = 4  # the runtime's own lines for a run that fails say what is raised
        self._run_options.append(options)
        if self._interrupted:  # by now, or before this thread came
            options.terminate = True

    def _bound_runs(self) -> BoundRuns:
        runs: BoundRuns | None = getattr(self._local, "bound", None)
        if runs is None:
            runs = BoundRuns(self._session, "cuda", capture=self._captures, on_options=self._keep)
            self._local.bound = runs
        return runs

    def _run_with_values(self, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Run a graph with BF16 tensors, which have no NumPy dtype that the runtime knows: as their bits."""
        values = {
            name: ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(np.uint16), _ONNX_BFLOAT16)
            if array.dtype == BF16
            else ort.OrtValue.ortvalue_from_numpy(array)
            for name, array in feeds.items()
        }
        results = self._session.run_with_ort_values(self._output_names, values, self._options())
        return [_array(value, spec) for value, spec in zip(results, self.outputs, strict=True)]


def _array(value: ort.OrtValue, spec: TensorSpec) -> np.ndarray:
    """Return a copy of a result."""
    if spec.datatype != "BF16":
        return np.array(value.numpy())
    shape = tuple(value.shape())
    size = math.prod(shape) * BF16.itemsize
    bits = ctypes.string_at(value.data_ptr(), size) if size else b""
    return np.frombuffer(bits, BF16).reshape(shape)


def _candidates(device: str, cuda: CudaOptions) -> list[str | tuple[str, dict[str, str]]]:
    """Return the providers to ask for; importing CUDA's libraries from the wheels first."""
    available = ort.get_available_providers()
    if device == "cpu" or CUDA not in available:
        if device == "cuda":
            raise ProviderUnavailable(_no_cuda("this ONNX Runtime was built without it"))
        return [_CPU]
    if missing := _missing_driver():
        # If asked for CUDA all the same, ONNX Runtime writes its own lines about it for each model.
        if device == "cuda":
            raise ProviderUnavailable(_no_cuda(missing))
        return [_CPU]
    ort.preload_dlls()
    return [*cuda.providers(available), _CPU]


def _missing_driver() -> str:
    """Return why the NVIDIA driver, which comes from the host and not from a wheel, cannot be used; "" if it can."""
    try:
        ctypes.CDLL(DRIVER)
    except OSError as error:
        return str(error)
    return ""


def _no_cuda(why: str) -> str:
    remedy = 'Use --device auto (in serving.toml: device = "auto") to allow the CPU'
    return f"device 'cuda' was requested, but CUDA does not work here: {why}. {remedy}"


def _spec(node: ort.NodeArg, path: Path, open_ranks: Collection[str] = ()) -> TensorSpec:
    if node.type not in _DATATYPES:
        raise GraphNotRunnable(f"{path}: {wrong_type(node.name, node.type)}")
    shape = tuple(size if isinstance(size, int) and size >= 0 else -1 for size in node.shape)
    kind = AnyRank if not shape and node.name in open_ranks else TensorSpec  # of others it infers the shape
    return kind(node.name, _DATATYPES[node.type], shape)
