"""The three hot unary methods, bytes in and bytes out, the same behind every door.

A door hands over a message and a :class:`Responder`; from then on the call belongs to the core,
which settles it exactly once from whichever thread has the answer.
"""

from __future__ import annotations

import itertools
import logging
import math
import os
import threading
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from google.protobuf.message import DecodeError
from prometheus_client import Counter

from service.batching.request import BatchFacts, PendingRequest
from service.dataplane import DataPlane, Item, Ticket
from service.errors import InvalidInput, ServingError, Unloading
from service.metrics import Metrics
from service.pb.convserve.classification.v1 import classification_pb2 as classification
from service.pb.inference import grpc_service_pb2 as inference
from service.preprocessing.scores import top_k
from service.repository.servable import Servable
from service.transport import explain, tensor_codec
from service.transport.status import Status, internal, status_of

_LOG = logging.getLogger(__name__)
_DEFAULT_TOP_K = 5
_SWAPS = 3  # swaps of a version that one call may meet; it meets the second only if loading takes microseconds

MODEL_INFER = "/inference.GRPCInferenceService/ModelInfer"
CLASSIFY_IMAGES = "/convserve.classification.v1.ClassificationService/ClassifyImages"
CLASSIFY_SENTENCES = "/convserve.classification.v1.ClassificationService/ClassifySentences"
HOT_METHODS = (MODEL_INFER, CLASSIFY_IMAGES, CLASSIFY_SENTENCES)

_ids = itertools.count(1)
_run_id = os.urandom(4).hex()


def new_request_id() -> str:
    """Return an id that no other call of this or another run has."""
    return f"{_run_id}-{next(_ids):x}"


class Responder(Protocol):
    """A door's way back to one caller. Exactly one method is called, once, from any thread."""

    @property
    def request_id(self) -> str:
        """The caller's id of the call, or one of ours."""
        ...

    def respond(self, payload: bytes) -> None:
        """Send the serialised response with status OK."""
        ...

    def fail(self, status: Status) -> None:
        """End the call with an error."""
        ...


class InFlight:
    """Counts the calls taken in and not yet settled. Thread-safe."""

    def __init__(self) -> None:
        self._count = 0
        self._changed = threading.Condition()

    @property
    def count(self) -> int:
        """Calls in flight now."""
        return self._count

    def enter(self) -> None:
        """Count a call in."""
        with self._changed:
            self._count += 1

    def leave(self) -> None:
        """Count it out."""
        with self._changed:
            self._count -= 1
            if not self._count:
                self._changed.notify_all()

    def wait_idle(self, timeout_seconds: float) -> bool:
        """Wait until nothing is in flight; tell whether that came about."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._count, timeout_seconds)


class Calls:
    """Begins hot calls and counts how they end. Thread-safe."""

    def __init__(self, dataplane: DataPlane, metrics: Metrics, overload_status: str) -> None:
        """Wire up; ``overload_status`` as in :class:`service.settings.Settings`."""
        self.dataplane = dataplane
        self.in_flight = InFlight()
        self._metrics = metrics
        self._overload_status = overload_status
        self._begin = {
            MODEL_INFER: self._model_infer,
            CLASSIFY_IMAGES: self._classify_images,
            CLASSIFY_SENTENCES: self._classify_sentences,
        }
        self._counters: dict[tuple[str, str, str, str], Counter] = {}
        metrics.inflight.set_function(lambda: self.in_flight.count)

    def begin(self, method: str, payload: bytes, time_remaining: float | None, responder: Responder) -> Ticket | None:
        """Take a call in. Never raises; the responder hears of everything.

        Args:
            method: One of :data:`HOT_METHODS`.
            payload: The serialised request.
            time_remaining: Seconds to the caller's deadline; None for none.
            responder: The way back.

        Returns:
            A ticket to cancel the call with; None if it was refused at once.
        """
        arrival = self.dataplane.clock()
        deadline = math.inf if time_remaining is None else arrival + time_remaining
        call = _Call(self, method, responder, arrival)
        self.in_flight.enter()
        try:
            return self._begin_on_newest(call, method, payload, deadline)
        except ServingError as error:
            call.refuse(error)
        except DecodeError:
            call.refuse(InvalidInput("the request message is damaged, or a sentence in it is not UTF-8"))
        except Exception:
            call.unexpected()
        return None

    def _begin_on_newest(self, call: _Call, method: str, payload: bytes, deadline: float) -> Ticket:
        """Begin a call, anew if its version was being swapped out just when it came: nobody has answered yet."""
        for _ in range(_SWAPS):
            try:
                return self._begin[method](call, payload, deadline)
            except Unloading:
                continue
        return self._begin[method](call, payload, deadline)

    def count(self, method: str, code: str, model: str = "", version: str = "") -> None:
        """Count a call that ended, also one of a door's own methods."""
        key = (model, version, method.rpartition("/")[2], code)
        counter = self._counters.get(key)
        if counter is None:
            counter = self._counters[key] = self._metrics.requests.labels(*key)
        counter.inc()

    def status_of(self, error: ServingError, request_id: str) -> Status:
        """Translate an error as this server is set up to."""
        return status_of(error, request_id, self._overload_status)

    def _model_infer(self, call: _Call, payload: bytes, deadline: float) -> Ticket:
        request = inference.ModelInferRequest.FromString(payload)
        servable = call.find(request.model_name, request.model_version)
        parameters = request.parameters
        if parameters and "timeout" in parameters:
            microseconds = parameters["timeout"].int64_param or parameters["timeout"].uint64_param
            if microseconds > 0:
                deadline = min(deadline, call.arrival + microseconds * 1e-6)
        outputs = tensor_codec.requested_outputs(request, servable.outputs)
        wants_facts = bool(parameters) and "explain" in parameters and parameters["explain"].bool_param
        reply = _InferReply(call, servable, request.id, outputs, wants_facts)
        return self.dataplane.infer(servable, tensor_codec.decode_inputs(request), deadline, call.arrival, reply)

    def _classify_images(self, call: _Call, payload: bytes, deadline: float) -> Ticket:
        request = classification.ClassifyImagesRequest.FromString(payload)
        servable = call.find(request.model_name, request.model_version, "image-classification")
        response = classification.ClassifyImagesResponse()
        return self._classify(call, servable, request, request.images, response, deadline)

    def _classify_sentences(self, call: _Call, payload: bytes, deadline: float) -> Ticket:
        request = classification.ClassifySentencesRequest.FromString(payload)
        servable = call.find(request.model_name, request.model_version, "sentence-classification")
        response = classification.ClassifySentencesResponse()
        return self._classify(call, servable, request, request.sentences, response, deadline)

    def _classify(
        self,
        call: _Call,
        servable: Servable,
        request: classification.ClassifyImagesRequest | classification.ClassifySentencesRequest,
        items: Sequence[Item],
        response: classification.ClassifyImagesResponse | classification.ClassifySentencesResponse,
        deadline: float,
    ) -> Ticket:
        if request.top_k < 0:
            raise InvalidInput(f"top_k: expected 0 or more, got {request.top_k}")
        response.request_id = request.request_id
        reply = _ClassifyReply(call, servable, request.top_k or _DEFAULT_TOP_K, response, request.explain)
        return self.dataplane.classify(servable, items, deadline, call.arrival, reply)


class _Call:
    """One call until it is settled: its way back and its place in the metrics."""

    __slots__ = ("_calls", "_method", "_model", "_responder", "_servable", "_settled", "arrival")

    def __init__(self, calls: Calls, method: str, responder: Responder, arrival: float) -> None:
        self.arrival = arrival
        self._calls = calls
        self._method = method
        self._responder = responder
        self._servable: Servable | None = None
        self._model = ""
        self._settled = False

    def find(self, name: str, version: str, task: str = "") -> Servable:
        """Lend the servable, and label the call with it."""
        lifecycle = self._calls.dataplane.lifecycle
        self._model = name if lifecycle.knows(name) else ""
        servable = self._calls.dataplane.find(name, version)
        self._servable = servable
        if task and servable.task != task:
            raise InvalidInput(f"model '{name}' has task {servable.task}, this method needs {task}")
        return servable

    def respond(self, payload: bytes) -> None:
        """Settle with an answer."""
        if not self._settle("OK"):
            return
        if self._servable is not None:
            self._servable.metrics.observe_success(self._seconds())
        self._responder.respond(payload)

    def refuse(self, error: ServingError) -> None:
        """Settle with an error."""
        self._fail(self._calls.status_of(error, self._responder.request_id))

    def unexpected(self) -> None:
        """Settle with INTERNAL and log the exception being handled."""
        request_id = self._responder.request_id
        _LOG.exception("a call failed", extra={"fields": {"request_id": request_id, "method": self._method}})
        self._fail(internal(request_id))

    def _fail(self, status: Status) -> None:
        if not self._settle(status.code.name):
            return
        if self._servable is not None:
            self._servable.metrics.observe_failure(self._seconds())
        self._responder.fail(status)

    def _settle(self, code: str) -> bool:
        if self._settled:
            return False
        self._settled = True
        version = str(self._servable.version) if self._servable else ""
        self._calls.count(self._method, code, self._model, version)
        self._calls.in_flight.leave()
        return True

    def _seconds(self) -> float:
        return self._calls.dataplane.clock() - self.arrival


class _InferReply:
    """Turns a request's rows into a ModelInferResponse."""

    __slots__ = ("_call", "_id", "_outputs", "_servable", "_wants_facts")

    def __init__(
        self,
        call: _Call,
        servable: Servable,
        request_id: str,
        outputs: Sequence[tensor_codec.RequestedOutput],
        wants_facts: bool,
    ) -> None:
        self._call = call
        self._servable = servable
        self._id = request_id
        self._outputs = outputs
        self._wants_facts = wants_facts

    def answer(self, outputs: Sequence[np.ndarray], request: PendingRequest, facts: BatchFacts) -> None:
        try:
            chosen = [self._encoded(outputs[wanted.index], wanted) for wanted in self._outputs]
            head = _head(self._servable, self._outputs, [array.shape for array in chosen])
            if self._wants_facts:
                head += explain.as_parameters(self._servable, request, facts)
            payload = tensor_codec.encode_response(head, self._id, [tensor_codec.encode_raw(array) for array in chosen])
        except Exception:
            self._call.unexpected()
        else:
            self._call.respond(payload)

    def refuse(self, error: ServingError) -> None:
        self._call.refuse(error)

    def _encoded(self, array: np.ndarray, wanted: tensor_codec.RequestedOutput) -> np.ndarray:
        if wanted.classes:
            array = tensor_codec.classification(array, wanted.classes, self._servable.labels)
        return array if self._servable.batched else array.reshape(array.shape[1:])


class _ClassifyReply:
    """Turns the outcomes of a call's items into a Classify… response."""

    __slots__ = ("_call", "_response", "_servable", "_top_k", "_wants_facts")

    def __init__(
        self,
        call: _Call,
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
        *((output.index, bool(output.classes)) for output in wanted),
        *shapes,
    )
    head = _heads.get(key)
    if head is None:
        response = inference.ModelInferResponse(model_name=servable.name, model_version=str(servable.version))
        for output, shape in zip(wanted, shapes, strict=True):
            spec = servable.outputs[output.index]
            response.outputs.add(name=spec.name, datatype="BYTES" if output.classes else spec.datatype, shape=shape)
        head = response.SerializeToString()
        if len(_heads) >= _MAX_HEADS:  # shapes of third-party graphs come from callers
            _heads.clear()
        _heads[key] = head
    return head
