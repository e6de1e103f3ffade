"""From a batch's rows to response messages, built on the thread that ran the batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from service.batching.request import BatchFacts, PendingRequest
from service.errors import InvalidInput, ServingError
from service.pb.convserve.classification.v1 import classification_pb2 as classification
from service.pb.inference import grpc_service_pb2 as inference
from service.preprocessing.scores import top_k
from service.repository.servable import Servable
from service.transport import explain, tensor_codec
from service.transport.call import Call
from service.transport.shared_memory import SharedMemory
from service.transport.status import status_of


class InferReply:
    """Turns a request's rows into a ModelInferResponse."""

    __slots__ = ("_call", "_id", "_outputs", "_servable", "_shared_memory", "_wants_facts")

    def __init__(
        self,
        call: Call,
        servable: Servable,
        request_id: str,
        outputs: Sequence[tensor_codec.RequestedOutput],
        shared_memory: SharedMemory,
        *,
        wants_facts: bool,
    ) -> None:
        self._call = call
        self._servable = servable
        self._id = request_id
        self._outputs = outputs
        self._shared_memory = shared_memory
        self._wants_facts = wants_facts

    def answer(self, outputs: Sequence[np.ndarray], request: PendingRequest, facts: BatchFacts) -> None:
        """Choose, encode and send what was asked for."""
        try:
            chosen = [self._encoded(outputs[wanted.index], wanted) for wanted in self._outputs]
            head = _head(self._servable, self._outputs, [array.shape for array in chosen])
            if self._wants_facts:
                head += explain.as_parameters(self._servable, request, facts)
            raw = [
                self._placed(tensor_codec.encode_raw(array), wanted)
                for array, wanted in zip(chosen, self._outputs, strict=True)
            ]
            payload = tensor_codec.encode_response(head, self._id, raw)
        except ServingError as error:
            self._call.refuse(error)
        except Exception:
            self._call.unexpected()
        else:
            self._call.respond(payload)

    def refuse(self, error: ServingError) -> None:
        """Pass the failure on."""
        self._call.refuse(error)

    def _placed(self, data: bytes, wanted: tensor_codec.RequestedOutput) -> bytes:
        """Return what travels: nothing of an output that goes into shared memory, yet its entry, as in Triton."""
        if wanted.region is None:
            return data
        self._shared_memory.write(wanted.region.name, wanted.region.offset, wanted.region.byte_size, data)
        return b""

    def _encoded(self, array: np.ndarray, wanted: tensor_codec.RequestedOutput) -> np.ndarray:
        if wanted.classes:
            array = tensor_codec.classification(array, wanted.classes, self._servable.labels)
        return array if self._servable.batched else array.reshape(array.shape[1:])


class ClassifyReply:
    """Turns the outcomes of a call's items into a Classify… response."""

    __slots__ = ("_call", "_response", "_servable", "_top_k", "_wants_facts")

    def __init__(
        self,
        call: Call,
        servable: Servable,
        top_k: int,
        response: classification.ClassifyImagesResponse | classification.ClassifySentencesResponse,
        wants_facts: bool,
    ) -> None:
        self._call = call
        self._servable = servable
        self._top_k = top_k
        self._response = response
        self._wants_facts = wants_facts

    def answer(
        self, outcomes: Sequence[np.ndarray | InvalidInput], request: PendingRequest | None, facts: BatchFacts | None
    ) -> None:
        """Put the labels or the error of each item into the response and send it."""
        try:
            response = self._response
            response.model_name = self._servable.name
            response.model_version = str(self._servable.version)
            for outcome in outcomes:
                result = response.results.add()
                if isinstance(outcome, InvalidInput):
                    result.error.code = status_of(outcome, "").number
                    result.error.message = outcome.message
                else:
                    _add_labels(result.classification, outcome, self._top_k, self._servable.labels)
            if self._wants_facts and request is not None and facts is not None:
                explain.fill(response.explanation, self._servable, request, facts)
            payload = response.SerializeToString()
        except Exception:
            self._call.unexpected()
        else:
            self._call.respond(payload)

    def refuse(self, error: ServingError) -> None:
        """Pass the failure on."""
        self._call.refuse(error)


def _add_labels(
    result: classification.Classification, probabilities: np.ndarray, k: int, labels: Sequence[str]
) -> None:
    for index in top_k(probabilities, k).tolist():
        result.scored_labels.add(index=index, label=labels[index], probability=float(probabilities[index]))


_heads: dict[tuple[object, ...], bytes] = {}
_MAX_HEADS = 4096


def _head(
    servable: Servable, wanted: Sequence[tensor_codec.RequestedOutput], shapes: Sequence[tuple[int, ...]]
) -> bytes:
    """Return the part of a response that many share, made once: model, version, outputs' names and shapes."""
    key = (
        servable.digest,
        servable.name,
        servable.version,
        *((output.index, bool(output.classes), output.region) for output in wanted),
        *shapes,
    )
    head = _heads.get(key)
    if head is None:
        response = inference.ModelInferResponse(model_name=servable.name, model_version=str(servable.version))
        for output, shape in zip(wanted, shapes, strict=True):
            spec = servable.outputs[output.index]
            datatype = "BYTES" if output.classes else spec.datatype
            tensor = response.outputs.add(name=spec.name, datatype=datatype, shape=shape)
            if output.region is not None:
                tensor.parameters["shared_memory_region"].string_param = output.region.name
                tensor.parameters["shared_memory_byte_size"].int64_param = output.region.byte_size
                if output.region.offset:
                    tensor.parameters["shared_memory_offset"].int64_param = output.region.offset
        head = response.SerializeToString()
        if len(_heads) >= _MAX_HEADS:  # shapes of third-party graphs come from callers
            _heads.clear()
        _heads[key] = head
    return head
