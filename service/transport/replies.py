"""Turns a batch's rows into response messages, on the thread that ran the batch."""

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

_MAX_HEADS = 1024


class InferForm:
    """What the answers to requests of one kind have in common. Thread-safe.

    Attributes:
        servable: The servable that answers.
        outputs: The requested outputs, in that order.
        wants_facts: Whether each answer explains itself.
    """

    __slots__ = ("_heads", "_plain_dtype", "outputs", "servable", "wants_facts")

    def __init__(
        self, servable: Servable, outputs: Sequence[tensor_codec.RequestedOutput], *, wants_facts: bool = False
    ) -> None:
        self.servable = servable
        self.outputs = outputs
        self.wants_facts = wants_facts
        self._plain_dtype = _plain_dtype(servable, outputs[0]) if len(outputs) == 1 and not wants_facts else None
        self._heads: dict[tuple[tuple[int, ...], ...], bytes] = {}

    def plain(self, outputs: Sequence[np.ndarray]) -> bytes | None:
        """Return an answer's message without an id; None if it has more than one array of numbers."""
        if self._plain_dtype is None:
            return None
        array = outputs[self.outputs[0].index]
        if array.dtype != self._plain_dtype:
            return None
        return self.head((array.shape,), (array.nbytes,)) + array.tobytes()

    def head(self, shapes: tuple[tuple[int, ...], ...], plain_bytes: tuple[int, ...] = ()) -> bytes:
        """Return the part that precedes id and contents: model, version, and the outputs' names and shapes.

        Args:
            shapes: The outputs' shapes.
            plain_bytes: Sizes of contents; the tag and the length of each are appended.
        """
        key = (*shapes, plain_bytes)
        head = self._heads.get(key)
        if head is None:
            head = _head(self.servable, self.outputs, shapes) + b"".join(map(tensor_codec.raw_tag, plain_bytes))
            if len(self._heads) >= _MAX_HEADS:  # shapes of third-party graphs come from callers
                self._heads.clear()
            self._heads[key] = head
        return head


def _plain_dtype(servable: Servable, output: tensor_codec.RequestedOutput) -> np.dtype | None:
    """Return the dtype of an output whose rows are sent as they are; None for text, classes, regions, no batch axis."""
    spec = servable.outputs[output.index]
    if spec.datatype == "BYTES" or output.classes or output.region is not None or not servable.batched:
        return None
    return spec.dtype


class InferReply:
    """Turns a request's rows into a ModelInferResponse."""

    __slots__ = ("_call", "_form", "_id", "_shared_memory")

    def __init__(self, call: Call, form: InferForm, request_id: str, shared_memory: SharedMemory) -> None:
        self._call = call
        self._form = form
        self._id = request_id
        self._shared_memory = shared_memory

    def answer(self, outputs: Sequence[np.ndarray], request: PendingRequest, facts: BatchFacts) -> None:
        """Encode and send the requested outputs."""
        if self._call.record is not None:
            self._call.record.ran(request, facts)
        try:
            payload = None if self._id else self._form.plain(outputs)
            if payload is None:
                payload = self._encode(outputs, request, facts)
        except ServingError as error:
            self._call.refuse(error)
        except Exception:
            self._call.unexpected()
        else:
            self._call.respond(payload)

    def refuse(self, error: ServingError) -> None:
        """Pass the failure on."""
        self._call.refuse(error)

    def _encode(self, outputs: Sequence[np.ndarray], request: PendingRequest, facts: BatchFacts) -> bytes:
        form = self._form
        chosen = [self._chosen(outputs[wanted.index], wanted) for wanted in form.outputs]
        head = form.head(tuple(array.shape for array in chosen))
        if form.wants_facts:
            head += explain.as_parameters(form.servable, request, facts)
        raw = [
            self._placed(tensor_codec.encode_raw(array), wanted)
            for array, wanted in zip(chosen, form.outputs, strict=True)
        ]
        return tensor_codec.encode_response(head, self._id, raw)

    def _placed(self, data: bytes, wanted: tensor_codec.RequestedOutput) -> bytes:
        """Return an output's contents for the message; as in Triton, an empty entry if they go into shared memory."""
        if wanted.region is None:
            return data
        self._shared_memory.write(wanted.region.name, wanted.region.offset, wanted.region.byte_size, data)
        return b""

    def _chosen(self, array: np.ndarray, wanted: tensor_codec.RequestedOutput) -> np.ndarray:
        servable = self._form.servable
        if wanted.classes:
            array = tensor_codec.classification(array, wanted.classes, servable.labels)
        return array if servable.batched else array.reshape(array.shape[1:])


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
        if self._call.record is not None:
            self._call.record.ran(request, facts)
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


def _head(
    servable: Servable, wanted: Sequence[tensor_codec.RequestedOutput], shapes: Sequence[tuple[int, ...]]
) -> bytes:
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
    return response.SerializeToString()
