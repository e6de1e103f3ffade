"""The three hot unary methods, bytes in and bytes out, the same behind every door.

A door hands over a message and a :class:`Responder`; from then on the call belongs to the core,
which settles it exactly once from whichever thread has the answer.
"""

from __future__ import annotations

import math
from collections import Counter as Counts
from collections.abc import Mapping, Sequence
from functools import partial

from google.protobuf.message import DecodeError

from service.checks import check_forms
from service.dataplane import DataPlane, Ticket
from service.errors import DeadlineUnmeetable, InvalidInput, ServingError, Unloading
from service.manifest import Task
from service.metrics import Metrics, taken
from service.pb.convserve.classification.v1 import classification_pb2 as classification
from service.pb.inference import grpc_service_pb2 as inference
from service.preparation import Burst, Terms
from service.preprocessing.prepare import Item
from service.repository.servable import Servable
from service.transport import tensor_codec, wire
from service.transport.access import Access, Metadata
from service.transport.call import Call, InFlight, Responder, is_rpc
from service.transport.recorder import Recorder
from service.transport.repeated import RepeatedRefusal, Shedder, repeated_refusal
from service.transport.replies import ClassifyReply, InferForm, InferReply
from service.transport.shared_memory import SharedMemory
from service.transport.status import Status, status_of
from service.transport.template import Template, Templates, template_of

_DEFAULT_TOP_K = 5
_FIELDS_BESIDE_ITEMS = 64  # of a Classify… request; fields may be repeated, or stem from a later protocol version
_SETTLE_CALLS = 512
MAX_INFER_FIELDS = 4096  # far more than three per input and output, and as many parameters
_SWAPS = 3  # swaps of a version that one call may meet; it meets a second one only if loading takes microseconds

MODEL_INFER = "/inference.GRPCInferenceService/ModelInfer"
CLASSIFY_IMAGES = "/convserve.classification.v1.ClassificationService/ClassifyImages"
CLASSIFY_SENTENCES = "/convserve.classification.v1.ClassificationService/ClassifySentences"
HOT_METHODS = (MODEL_INFER, CLASSIFY_IMAGES, CLASSIFY_SENTENCES)


class Calls:
    """Begins hot calls and counts how they end. Thread-safe."""

    def __init__(
        self,
        dataplane: DataPlane,
        metrics: Metrics,
        shared_memory: SharedMemory,
        overload_status: str,
        access: Access,
        recorder: Recorder,
    ) -> None:
        """Wire up; ``overload_status`` is as in :class:`service.settings.Settings`."""
        self._access = access
        self.recorder = recorder
        self.dataplane = dataplane
        self.in_flight = InFlight()
        self._metrics = metrics
        self._shared_memory = shared_memory
        self._overload_status = overload_status
        self._classify_limits = dataplane.max_items + _FIELDS_BESIDE_ITEMS, dataplane.max_items
        self._templates = Templates()
        self.repeated: RepeatedRefusal | None = None
        """The last refusal that other calls may get as well; see :meth:`shedder`."""
        # Calls that are watched or need a credential are looked at one by one.
        self._may_repeat = access.open_to_infer and not self.recorder.draws
        self._begin = {
            MODEL_INFER: self._model_infer,
            CLASSIFY_IMAGES: self._classify_images,
            CLASSIFY_SENTENCES: self._classify_sentences,
        }
        self._ended: list[tuple[str, str, str, str, bool]] = []
        self.rpcs = metrics.rpcs
        dataplane.lifecycle.when_withdrawn(self._let_go)
        metrics.before_scrapes(self)
        metrics.inflight.set_function(lambda: self.in_flight.count)

    def begin(
        self,
        method: str,
        payload: bytes,
        time_remaining: float | None,
        responder: Responder,
        metadata: Metadata = (),
        burst: Burst | None = None,
    ) -> Ticket | None:
        """Take a call in. Never raises; the responder hears of everything.

        Args:
            method: One of :data:`HOT_METHODS`.
            payload: The serialised request.
            time_remaining: Seconds to the caller's deadline; None for none.
            responder: The way back.
            metadata: The call's metadata, with its credential.
            burst: The calls that it came with; None if it came alone.

        Returns:
            A ticket to cancel the call with; None if it was refused at once.
        """
        arrival = self.dataplane.clock()
        deadline = math.inf if time_remaining is None else arrival + time_remaining
        call = Call(self, method, responder, arrival, burst, deadline)
        if self.recorder.draws:
            call.record = self.recorder.begin(method, metadata, arrival)
        self._enter(method, responder)
        try:
            if not self._access.open_to_infer:
                self.check_access(method, metadata)
            try:
                return self._begin[method](call, payload)
            except Unloading:
                return self._begin_anew(call, method, payload)
        except ServingError as error:
            call.refuse(error)
        except DecodeError:
            call.refuse(InvalidInput("the request message is damaged, or a sentence in it is not UTF-8"))
        except Exception:
            call.unexpected()
        return None

    def shedder(self) -> Shedder:
        """Return a shedder for one thread, which asks it about each call before beginning the call."""
        return Shedder(self, MODEL_INFER)

    def refuse(self, method: str, responder: Responder, error: ServingError) -> None:
        """Settle a call that a door does not let in."""
        call = Call(self, method, responder, self.dataplane.clock())
        self._enter(method, responder)
        call.refuse(error)

    def check_access(self, method: str, metadata: Metadata) -> None:
        """Check that a call is allowed.

        Raises:
            Unauthenticated: It needs a token and has no valid one (UNAUTHENTICATED).
            PermissionDenied: Its token is of another group (PERMISSION_DENIED).
            NotAllowed: Nobody may call the method here (FAILED_PRECONDITION).
        """
        error = self._access.refusal(method, metadata)
        try:
            if error is not None:
                raise error
        finally:
            del error  # its traceback knows this frame: the message would wait for the garbage collector

    def _begin_anew(self, call: Call, method: str, payload: bytes) -> Ticket:
        """Begin a call again whose version was just being swapped out; it has not been answered."""
        for _ in range(_SWAPS - 1):
            try:
                return self._begin[method](call, payload)
            except Unloading:
                continue
        return self._begin[method](call, payload)

    def _enter(self, method: str, responder: Responder) -> None:
        self.in_flight.enter()
        if is_rpc(responder):
            self.rpcs.started(method)

    def count(
        self, method: str, code: str, model: str = "", version: str = "", number: int = 1, *, rpc: bool = True
    ) -> None:
        """Count calls that ended alike, a door's own methods included; ``rpc``: they were counted as started RPCs."""
        self._ended.extend([(model, version, method, code, rpc)] * number)
        if len(self._ended) >= _SETTLE_CALLS:
            self.settle()

    def settle(self) -> None:
        """Add up the calls that have ended. Called before every scrape, and once there are many."""
        for (model, version, method, code, rpc), count in Counts(taken(self._ended)).items():
            self._metrics.requests.labels(model, version, method.rpartition("/")[2], code).inc(count)
            if rpc:
                self.rpcs.handled(method, code, count)

    def status_of(self, error: ServingError, request_id: str) -> Status:
        """Translate an error as this server is set up to."""
        return status_of(error, request_id, self._overload_status)

    def _model_infer(self, call: Call, payload: bytes) -> Ticket:
        template = self._templates.find(payload)
        if template is not None and self.dataplane.lends(template.form.servable, template.model_version):
            return self._infer_like(template, call, payload)
        request = wire.parse(inference.ModelInferRequest, payload, MAX_INFER_FIELDS)
        call.caller_id = request.id
        servable = call.find(request.model_name, request.model_version)
        parameters = request.parameters
        timeout_seconds, priority, wants_facts = math.inf, 0, False
        if parameters:
            timeout_seconds = _timeout_seconds(parameters)
            priority = tensor_codec.integer(parameters, "priority")
            wants_facts = _wants_facts(parameters)
        outputs = tensor_codec.requested_outputs(request, servable.outputs)
        for output in outputs:
            if output.region is not None:
                self._shared_memory.check(output.region.name, output.region.offset, output.region.byte_size)
        form = InferForm(servable, outputs, wants_facts=wants_facts)
        reply = InferReply(call, form, call.caller_id, self._shared_memory)
        inputs = tensor_codec.decode_inputs(request, self._shared_memory, partial(check_forms, servable))
        terms = Terms(servable, call.arrival, call.deadline, timeout_seconds, priority, call.burst)
        ticket = self.dataplane.infer(servable, inputs, terms, reply)
        template = template_of(payload, request, inputs, form, timeout_seconds, priority)
        if template is not None:
            self._templates.keep(payload, template)
            self._let_go_if_withdrawn(servable, request.model_version)
        return ticket

    def _infer_like(self, template: Template, call: Call, payload: bytes) -> Ticket:
        """Take in a call that equals an earlier one apart from its tensors and id."""
        servable = template.form.servable
        call.lent(servable)
        call.caller_id = template.request_id(payload)
        terms = Terms(servable, call.arrival, call.deadline, template.timeout_seconds, template.priority, call.burst)
        reply = InferReply(call, template.form, call.caller_id, self._shared_memory)
        if template.items:
            return self.dataplane.infer_items(servable, template.encoded_items(payload), terms, reply)
        try:
            return self.dataplane.submit(servable, template.inputs(payload), template.group, terms, reply)
        except DeadlineUnmeetable as error:
            if self._may_repeat:
                self.repeated = repeated_refusal(template, payload, error, call.request_id, self.status_of)
                self._let_go_if_withdrawn(servable, template.model_version)
            raise

    def _let_go_if_withdrawn(self, servable: Servable, version: str) -> None:
        """Let go of a servable that was withdrawn after this call found it: no later notice will come."""
        if not self.dataplane.lends(servable, version):
            self._let_go(servable)

    def _let_go(self, servable: Servable) -> None:
        """Drop what was learnt for later calls of a servable: it would keep the servable's weights."""
        self._templates.forget(servable)
        if (repeated := self.repeated) is not None and repeated.template.form.servable is servable:
            self.repeated = None

    def _classify_images(self, call: Call, payload: bytes) -> Ticket:
        request = wire.parse(classification.ClassifyImagesRequest, payload, *self._classify_limits)
        response = classification.ClassifyImagesResponse()
        return self._classify(call, request, request.images, "image-classification", response)

    def _classify_sentences(self, call: Call, payload: bytes) -> Ticket:
        request = wire.parse(classification.ClassifySentencesRequest, payload, *self._classify_limits)
        response = classification.ClassifySentencesResponse()
        return self._classify(call, request, request.sentences, "sentence-classification", response)

    def _classify(
        self,
        call: Call,
        request: classification.ClassifyImagesRequest | classification.ClassifySentencesRequest,
        items: Sequence[Item],
        task: Task,
        response: classification.ClassifyImagesResponse | classification.ClassifySentencesResponse,
    ) -> Ticket:
        call.caller_id = response.request_id = request.request_id
        servable = call.find(request.model_name, request.model_version, task)
        if request.top_k < 0:
            raise InvalidInput(f"top_k: expected 0 or more, got {request.top_k}")
        reply = ClassifyReply(call, servable, request.top_k or _DEFAULT_TOP_K, response, request.explain)
        terms = Terms(servable, call.arrival, call.deadline, burst=call.burst)
        return self.dataplane.classify(servable, items, terms, reply)


def _timeout_seconds(parameters: Mapping[str, inference.InferParameter]) -> float:
    """Read ``timeout``, in microseconds; without one, or below 1, there is no deadline."""
    microseconds = tensor_codec.integer(parameters, "timeout")
    return microseconds * 1e-6 if microseconds > 0 else math.inf


def _wants_facts(parameters: Mapping[str, inference.InferParameter]) -> bool:
    """Read ``explain``."""
    if "explain" not in parameters:
        return False
    choice = parameters["explain"].WhichOneof("parameter_choice")
    if choice != "bool_param":
        raise InvalidInput(f"parameter 'explain': expected bool_param, got {choice or 'no value'}")
    return parameters["explain"].bool_param
