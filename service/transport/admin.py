"""The methods that change the server: repository, shared memory, logging. Some block on the disk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from service import logs
from service.errors import InvalidInput, NotAllowed, NotFound, Unimplemented
from service.pb.inference import grpc_service_pb2 as inference
from service.repository.reconciler import Reconciler
from service.transport.servicers import Method, inference_method
from service.transport.shared_memory import SharedMemory


class Admin:
    """Answers from the reconciler, the registered regions and the logging set-up."""

    def __init__(self, reconciler: Reconciler, shared_memory: SharedMemory, *, may_load: bool) -> None:
        """Wire up; ``may_load`` tells whether callers may load and unload models (mode ``explicit``)."""
        self._reconciler = reconciler
        self._shared_memory = shared_memory
        self._may_load = may_load

    def methods(self) -> Sequence[Method]:
        """List every method with its types."""
        return (
            inference_method("RepositoryIndex", self._index, blocking=True),
            inference_method("RepositoryModelLoad", self._load, changes=True),
            inference_method("RepositoryModelUnload", self._unload, changes=True),
            inference_method("SystemSharedMemoryStatus", self._region_status),
            inference_method("SystemSharedMemoryRegister", self._register_region),
            inference_method("SystemSharedMemoryUnregister", self._unregister_region),
            inference_method("LogSettings", self._log_settings),
            inference_method("TraceSetting", _trace_setting),
            inference_method("CudaSharedMemoryStatus", _cuda_memory),
            inference_method("CudaSharedMemoryRegister", _cuda_memory),
            inference_method("CudaSharedMemoryUnregister", _unregister_cuda_region),
        )

    def _index(self, request: inference.RepositoryIndexRequest) -> inference.RepositoryIndexResponse:
        _only_repository(request.repository_name)
        response = inference.RepositoryIndexResponse()
        for status in self._reconciler.index():
            if request.ready and status.state != "READY":
                continue
            # The operator's reason may hold paths: callers get the short one.
            reason = status.hint if status.state == "UNAVAILABLE" else ""
            response.models.add(name=status.name, version=str(status.version), state=status.state, reason=reason)
        return response

    def _load(self, request: inference.RepositoryModelLoadRequest) -> inference.RepositoryModelLoadResponse:
        self._check_may_load(request)
        if request.parameters:
            # Triton's `config` and `file:` parameters write into the repository from the wire.
            raise Unimplemented(
                f"parameters {', '.join(sorted(request.parameters))} are not supported: models come from the repository"
            )
        self._reconciler.load_model(request.model_name)
        return inference.RepositoryModelLoadResponse()

    def _unload(self, request: inference.RepositoryModelUnloadRequest) -> inference.RepositoryModelUnloadResponse:
        """No model depends on another here, so ``unload_dependents`` asks for nothing more."""
        self._check_may_load(request)
        unknown = set(request.parameters) - {"unload_dependents"}
        if unknown:
            raise Unimplemented(f"parameters {', '.join(sorted(unknown))} are not known")
        self._reconciler.unload_model(request.model_name)
        return inference.RepositoryModelUnloadResponse()

    def _check_may_load(
        self, request: inference.RepositoryModelLoadRequest | inference.RepositoryModelUnloadRequest
    ) -> None:
        # Field 1 is the model's name in KServe's contract.
        if request.repository_name and not request.model_name:
            raise InvalidInput(
                f"expected model_name (field 2), got only repository_name (field 1) '{request.repository_name}': "
                "use Triton's contract of this method, KServe's has other field numbers"
            )
        _only_repository(request.repository_name)
        if not self._may_load:
            raise NotAllowed(
                "calls can load and unload models only if the server runs with --model-control-mode explicit"
            )

    def _region_status(self, request: Any) -> inference.SystemSharedMemoryStatusResponse:
        response = inference.SystemSharedMemoryStatusResponse()
        for region in self._shared_memory.regions(request.name):
            entry = response.regions[region.name]
            entry.name, entry.key = region.name, region.key
            entry.offset, entry.byte_size = region.offset, region.byte_size
        return response

    def _register_region(self, request: Any) -> inference.SystemSharedMemoryRegisterResponse:
        self._shared_memory.register(request.name, request.key, request.offset, request.byte_size)
        return inference.SystemSharedMemoryRegisterResponse()

    def _unregister_region(self, request: Any) -> inference.SystemSharedMemoryUnregisterResponse:
        self._shared_memory.unregister(request.name)
        return inference.SystemSharedMemoryUnregisterResponse()

    def _log_settings(self, request: inference.LogSettingsRequest) -> inference.LogSettingsResponse:
        """Change what is asked for, all or nothing, and return what holds now."""
        wanted = dict(_log_setting(name, value) for name, value in request.settings.items())
        if wanted:
            logs.set_level(_level(logs.settings() | wanted))
        response = inference.LogSettingsResponse()
        for name, value in logs.settings().items():
            if isinstance(value, bool):
                response.settings[name].bool_param = value
            else:
                response.settings[name].uint32_param = value
        return response


def _trace_setting(_: inference.TraceSettingRequest) -> inference.TraceSettingResponse:
    raise Unimplemented("calls cannot change traces: start the server with --otlp-endpoint")


def _cuda_memory(_: Any) -> Any:
    raise Unimplemented(
        "CUDA shared memory is not supported: send tensors or encoded items, or use system shared memory"
    )


def _unregister_cuda_region(_: Any) -> inference.CudaSharedMemoryUnregisterResponse:
    """Do nothing, as for any unknown region: Triton's clients clear both kinds of memory before they use one."""
    return inference.CudaSharedMemoryUnregisterResponse()


def _log_setting(name: str, value: inference.LogSettingsRequest.SettingValue) -> tuple[str, bool | int]:
    expected = {"log_verbose_level": "uint32_param"}.get(name, "bool_param")
    known = logs.settings()
    if name not in known:
        raise InvalidInput(f"log setting '{name}' is not one of {', '.join(known)}")
    choice = value.WhichOneof("parameter_choice")
    if choice != expected:
        raise InvalidInput(f"log setting '{name}': expected {expected}, got {choice or 'nothing'}")
    return name, getattr(value, expected)


def _level(wanted: dict[str, bool | int]) -> str:
    """Return the least severe level that the switches leave on."""
    if wanted["log_verbose_level"]:
        return "debug"
    return next((level for level in ("info", "warning", "error") if wanted[f"log_{level}"]), "critical")


def _only_repository(name: str) -> None:
    if name:
        raise NotFound(f"no model repository '{name}': this server has only one, with an empty name")
