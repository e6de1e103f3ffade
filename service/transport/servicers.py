"""The methods that answer at once: metadata, configuration, statistics, readiness, description."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from service.errors import ModelNotReady
from service.pb.convserve.classification.v1 import classification_pb2 as classification
from service.pb.inference import grpc_service_pb2 as inference
from service.repository.lifecycle import Lifecycle
from service.repository.servable import Servable
from service.transport import describe

_INFERENCE = "/inference.GRPCInferenceService/"
_CLASSIFICATION = "/convserve.classification.v1.ClassificationService/"


@dataclass(frozen=True, slots=True)
class Method:
    """A unary method: its path, its types, and what answers it.

    Attributes:
        path: ``/package.Service/Method``.
        request_type: Message class.
        response_type: Message class.
        handle: Turns a request into a response; may raise ServingError.
        blocking: Whether it may wait for a disk, so that it must not run on an event loop.
        changes: Whether it changes what is served, which may take as long as loading. Such calls wait for each other
            anyway, so they share one thread and take none from other calls.
    """

    path: str
    request_type: Any
    response_type: Any
    handle: Callable[[Any], Any]
    blocking: bool = False
    changes: bool = False


def inference_method(
    name: str, handle: Callable[[Any], Any], *, blocking: bool = False, changes: bool = False
) -> Method:
    """Return a method of GRPCInferenceService, whose types are named after it."""
    request, response = (getattr(inference, name + kind) for kind in ("Request", "Response"))
    return Method(_INFERENCE + name, request, response, handle, blocking, changes)


class Servicers:
    """Answers from the lifecycle; no method blocks."""

    def __init__(self, lifecycle: Lifecycle, is_ready: Callable[[], bool], extensions: Sequence[str]) -> None:
        """Wire up; ``extensions`` are the protocol's that this server offers, on which clients act."""
        self._lifecycle = lifecycle
        self._is_ready = is_ready
        self._extensions = extensions

    def methods(self) -> Sequence[Method]:
        """List every method with its types."""
        method = inference_method
        return (
            method("ServerLive", lambda _: inference.ServerLiveResponse(live=True)),
            method("ServerReady", lambda _: inference.ServerReadyResponse(ready=self._is_ready())),
            method("ServerMetadata", lambda _: describe.server_metadata(self._extensions)),
            method("ModelReady", self._model_ready),
            method("ModelMetadata", self._model_metadata),
            method("ModelConfig", self._model_config),
            method("ModelStatistics", self._model_statistics),
            Method(
                _CLASSIFICATION + "DescribeModel",
                classification.DescribeModelRequest,
                classification.DescribeModelResponse,
                self._describe_model,
            ),
        )

    def _model_ready(self, request: inference.ModelReadyRequest) -> inference.ModelReadyResponse:
        """Tell whether a model is ready. Not ready is an answer, not an error; unknown is NOT_FOUND."""
        try:
            self._lifecycle.find(request.name, request.version)
        except ModelNotReady:
            return inference.ModelReadyResponse(ready=False)
        return inference.ModelReadyResponse(ready=True)

    def _model_metadata(self, request: inference.ModelMetadataRequest) -> inference.ModelMetadataResponse:
        servable = self._lifecycle.find(request.name, request.version)
        return describe.model_metadata(servable, self._lifecycle.servables(request.name))

    def _model_config(self, request: inference.ModelConfigRequest) -> inference.ModelConfigResponse:
        servable = self._lifecycle.find(request.name, request.version)
        return inference.ModelConfigResponse(config=describe.model_config(servable))

    def _model_statistics(self, request: inference.ModelStatisticsRequest) -> inference.ModelStatisticsResponse:
        """Return the statistics of every model without a name, and of every version with a name alone."""
        lifecycle = self._lifecycle
        if request.version:
            chosen: Sequence[Servable] = [lifecycle.find(request.name, request.version)]
        elif request.name:
            lifecycle.find(request.name, "")
            chosen = lifecycle.servables(request.name)
        else:
            names = dict.fromkeys(status.name for status in lifecycle.statuses())
            chosen = [servable for name in names for servable in lifecycle.servables(name)]
        return inference.ModelStatisticsResponse(model_stats=map(describe.model_statistics, chosen))

    def _describe_model(self, request: classification.DescribeModelRequest) -> classification.DescribeModelResponse:
        """Describe a version; one that is not READY by its state and the reason."""
        try:
            return describe.describe_model(self._lifecycle.find(request.model_name, request.model_version))
        except ModelNotReady:
            status = self._lifecycle.newest_status(request.model_name, request.model_version)
            if status.state == "READY":  # by now; whoever asks again is told all
                raise
            return describe.describe_status(status)
