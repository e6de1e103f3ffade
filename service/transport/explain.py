"""A request that explains itself: on request, the response says where its time went and what ran it."""

from __future__ import annotations

from service.batching.request import BatchFacts, PendingRequest
from service.pb.convserve.classification.v1 import classification_pb2 as classification
from service.pb.inference import grpc_service_pb2 as inference
from service.repository.servable import Servable


def fill(
    explanation: classification.Explanation, servable: Servable, request: PendingRequest, facts: BatchFacts
) -> None:
    """Fill the message of ClassificationService."""
    for name, value in _facts(servable, request, facts).items():
        setattr(explanation, name, value)


def as_parameters(servable: Servable, request: PendingRequest, facts: BatchFacts) -> bytes:
    """Return a serialised ModelInferResponse with nothing but parameters, to be concatenated."""
    response = inference.ModelInferResponse()
    for name, value in _facts(servable, request, facts).items():
        parameter = response.parameters[name]
        if isinstance(value, str):
            parameter.string_param = value
        elif isinstance(value, bool):
            parameter.bool_param = value
        elif isinstance(value, int):
            parameter.int64_param = value
        else:
            parameter.double_param = value
    return response.SerializeToString()


def _facts(servable: Servable, request: PendingRequest, facts: BatchFacts) -> dict[str, str | int | float]:
    return {
        "queue_seconds": facts.released - request.queued if facts.ran else 0.0,
        "decode_seconds": request.queued - request.arrival,
        "assemble_seconds": facts.assemble_seconds,
        "infer_seconds": facts.infer_seconds,
        "batch_size": facts.rows,
        "bucket": facts.bucket,
        "padding_ratio": facts.padding_ratio,
        "instance": str(facts.instance) if facts.ran else "",
        "execution_provider": servable.provider.actual,
        "device": servable.provider.device,
        "model_digest": servable.digest,
        "release_reason": facts.release_reason,
        "lone": facts.lone,
    }
