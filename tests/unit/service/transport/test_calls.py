from __future__ import annotations

import dataclasses
import gc
import inspect
import logging
import math
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

from service.batching.refusal import Refusal
from service.batching.request import BatchFacts, PendingRequest
from service.dataplane import DataPlane
from service.errors import (
    DeadlineUnmeetable,
    Draining,
    InvalidInput,
    ModelNotFound,
    ModelNotReady,
    QueueFull,
    RequestCancelled,
    ServingError,
    Unloading,
)
from service.logs import _BOUNDS
from service.metrics import Metrics
from service.model_metrics import ModelMetrics
from service.pb.convserve.classification.v1 import classification_pb2 as classification
from service.pb.inference import grpc_service_pb2 as inference
from service.repository.servable import Servable
from service.tensors import TensorSpec
from service.transport import call, replies, tensor_codec
from service.transport.access import Access, TokenFile
from service.transport.access_log import AccessLog
from service.transport.calls import CLASSIFY_IMAGES, CLASSIFY_SENTENCES, MODEL_INFER, Calls
from service.transport.recorder import Recorder
from service.transport.repeated import Shedder
from service.transport.shared_memory import SharedMemory
from service.transport.status import Status
from tests.fakes import FakeClock, RecordingReply, make_request
from tests.unit.service.samples import FakeBatcher, bare_servable, make_servable

FACTS = BatchFacts(1, 2, 0.5, 0, "idle", 100.0, 0.001, 0.002)
REQUEST = PendingRequest([np.zeros((1, 2))], None, math.inf, 100.0, RecordingReply())
ROW = np.array([[0.25, 0.5, 0.25]], np.float32)


class FakeResponder:
    """Keeps what the caller gets; being settled twice is kept too."""

    request_id = "id-1"
    transport = "fake"

    def __init__(self) -> None:
        self.payloads: list[bytes] = []
        self.statuses: list[Status] = []

    def respond(self, payload: bytes) -> None:
        self.payloads.append(payload)

    def fail(self, status: Status) -> None:
        self.statuses.append(status)

    @property
    def code(self) -> str:
        """What the call ended with; fails unless it ended once."""
        assert len(self.payloads) + len(self.statuses) == 1
        return "OK" if self.payloads else self.statuses[0].code.name


class Ticket:
    def cancel(self) -> None:
        pass


def _noting(method: Callable[..., Any]) -> Callable[..., Ticket]:
    """Return a method with the same parameters that only notes its arguments."""
    signature = inspect.signature(method)

    def note(plane: FakePlane, *args: Any, **kwargs: Any) -> Ticket:
        if plane.errors:
            raise plane.errors.pop(0)
        call = signature.bind(plane, *args, **kwargs).arguments
        del call["self"]
        plane.submitted.append(call)
        return plane.ticket

    return note


class FakePlane:
    """A data plane that keeps its calls.

    Attributes:
        servables: By name.
        errors: What the next submissions raise.
        submitted: The arguments of each call that was taken, by name.
        draining: Whether every call is refused.
    """

    def __init__(self, metrics: Metrics) -> None:
        self.clock = FakeClock()
        self.lifecycle = self
        self.servables: dict[str, Servable] = {
            "pictures": make_servable(metrics=metrics),
            "bare": bare_servable(metrics=metrics),
        }
        self.errors: list[Exception] = []
        self.finding: list[Exception] = []
        self.submitted: list[dict[str, Any]] = []
        self.draining = False
        self.max_items = 1024
        self.ticket = Ticket()

    def knows(self, name: str) -> bool:
        return name in self.servables

    def when_withdrawn(self, let_go: Callable[[Servable], None]) -> None:
        self.let_go = let_go

    def withdraw(self, name: str) -> weakref.ref[Any]:
        """Lend a servable no more; return what tells whether somebody still keeps its batcher."""
        servable = self.servables.pop(name)
        self.submitted.clear()
        self.let_go(servable)
        return weakref.ref(servable.batcher)

    def find(self, name: str, _version: str = "") -> Servable:
        if self.finding:
            raise self.finding.pop(0)
        if name not in self.servables:
            raise ModelNotFound(f"no model '{name}'")
        return self.servables[name]

    def lends(self, servable: Servable, _version: str) -> bool:
        return not self.finding and self.servables.get(servable.name) is servable

    infer = _noting(DataPlane.infer)
    infer_items = _noting(DataPlane.infer_items)
    submit = _noting(DataPlane.submit)
    classify = _noting(DataPlane.classify)


class World:
    def __init__(self, overload_status: str = "RESOURCE_EXHAUSTED", recorder: Recorder | None = None) -> None:
        self.metrics = Metrics("0", "fake")
        self.plane = FakePlane(self.metrics)
        access = Access(None, None, local=True)
        recorder = recorder or Recorder(AccessLog(0.0, lambda: 0.0))
        self.calls = Calls(self.plane, self.metrics, SharedMemory(), overload_status, access, recorder)  # type: ignore[arg-type]
        self.responder = FakeResponder()

    def begin(self, method: str, message: Any, time_remaining: float | None = None) -> Any:
        payload = message if isinstance(message, bytes) else message.SerializeToString()
        return self.calls.begin(method, payload, time_remaining, self.responder)

    def infer(self, model: str = "bare", time_remaining: float | None = None, **fields: Any) -> Any:
        return self.begin(MODEL_INFER, infer_request(model, **fields), time_remaining)

    @property
    def reply(self) -> Any:
        return self.plane.submitted[-1]["reply"]

    def answered(self) -> inference.ModelInferResponse:
        assert self.responder.code == "OK"
        return inference.ModelInferResponse.FromString(self.responder.payloads[0])

    def classified(self) -> classification.ClassifyImagesResponse:
        assert self.responder.code == "OK"
        return classification.ClassifyImagesResponse.FromString(self.responder.payloads[0])

    def counts(self) -> dict[tuple[str, str, str], float]:
        """requests_total by model, method and code."""
        self.calls.settle()
        return {
            (sample.labels["model"], sample.labels["method"], sample.labels["code"]): sample.value
            for sample in next(iter(self.metrics.requests.collect())).samples
        }

    def rpcs(self) -> dict[str, float]:
        """RPCs started, and handled by code."""
        families = [family for family in self.metrics.registry.collect() if family.name.startswith("grpc_server")]
        samples = [sample for family in families for sample in family.samples]
        return {sample.labels.get("grpc_code", "started"): sample.value for sample in samples}


@pytest.fixture
def world() -> World:
    return World()


def infer_request(model: str = "bare", **fields: Any) -> inference.ModelInferRequest:
    message = inference.ModelInferRequest(model_name=model, **fields)
    if not message.inputs:
        message.inputs.add(name="x", datatype="FP32", shape=[1, 2])
        message.raw_input_contents.append(np.array([[1, 2]], np.float32).tobytes())
    return message


def encoded_request(picture: bytes) -> inference.ModelInferRequest:
    """Ask for a picture as BYTES."""
    request = inference.ModelInferRequest(model_name="pictures", id="mine")
    request.inputs.add(name="images", datatype="BYTES", shape=[1])
    request.raw_input_contents.append(len(picture).to_bytes(4, "little") + picture)
    return request


def images_request(**fields: Any) -> classification.ClassifyImagesRequest:
    return classification.ClassifyImagesRequest(**{"model_name": "pictures", "images": [b"a", b"b"], **fields})


# Taking a call in.


def test_a_call_reaches_the_data_plane_with_its_arrival_and_deadline(world: World) -> None:
    assert world.infer(time_remaining=2.5) is world.plane.ticket
    (call,) = world.plane.submitted
    assert call["inputs"]["x"].tolist() == [[1, 2]]
    assert (call["terms"].arrival, call["terms"].deadline) == (100.0, 102.5)
    assert world.calls.in_flight.count == 1


def test_without_a_deadline_there_is_none(world: World) -> None:
    world.infer()
    assert world.plane.submitted[0]["terms"].deadline == math.inf


@pytest.mark.parametrize(
    ("value", "deadline"),
    [
        ({"int64_param": 500_000}, 100.5),
        ({"uint64_param": 500_000}, 100.5),
        ({"int64_param": 9_000_000}, 102.0),
        ({"int64_param": 0}, 102.0),
        ({"int64_param": -1}, 102.0),
    ],
)
def test_tritons_timeout_only_shortens_the_deadline(world: World, value: dict[str, Any], deadline: float) -> None:
    world.infer(time_remaining=2.0, parameters={"timeout": inference.InferParameter(**value)})
    assert world.plane.submitted[0]["terms"].deadline == deadline


@pytest.mark.parametrize("value", [{"uint64_param": 3}, {"int64_param": 3}])
def test_a_priority_is_passed_on(world: World, value: dict[str, Any]) -> None:
    world.infer(parameters={"priority": inference.InferParameter(**value)})
    assert world.plane.submitted[0]["terms"].handicap == 2.0


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("timeout", "int64_param or uint64_param"),
        ("priority", "int64_param or uint64_param"),
        ("explain", "bool_param"),
    ],
)
def test_a_parameter_of_another_type_is_refused(world: World, name: str, expected: str) -> None:
    world.infer(parameters={name: inference.InferParameter(string_param="soon")})
    assert world.responder.code == "INVALID_ARGUMENT"
    assert world.responder.statuses[0].message == f"parameter '{name}': expected {expected}, got string_param"
    assert world.calls.in_flight.count == 0


def test_a_version_being_swapped_out_is_looked_up_anew(world: World) -> None:
    world.plane.errors = [Unloading("leaving")]
    assert world.infer() is world.plane.ticket
    assert len(world.plane.submitted) == 1


def test_a_version_that_only_ever_leaves_is_unavailable(world: World) -> None:
    world.plane.errors = [Unloading("leaving")] * 20
    assert world.infer() is None
    assert world.responder.code == "UNAVAILABLE"
    assert world.calls.in_flight.count == 0


def test_a_message_like_an_earlier_one_is_not_parsed_again_and_means_the_same(world: World) -> None:
    parameters = {
        "priority": inference.InferParameter(uint64_param=3),
        "timeout": inference.InferParameter(int64_param=500_000),
    }
    world.infer(parameters=parameters, id="first")
    message = infer_request(parameters=parameters, id="other")
    message.raw_input_contents[0] = np.array([[3, 4]], np.float32).tobytes()
    world.begin(MODEL_INFER, message)
    call = world.plane.submitted[1]
    assert [array.tolist() for array in call["arrays"]] == [[[3, 4]]]
    terms = call["terms"]
    assert (terms.handicap, terms.deadline, terms.arrival) == (2.0, 100.5, 100.0)
    world.reply.answer([np.array([[2, 4]], np.float32)], REQUEST, FACTS)
    response = inference.ModelInferResponse.FromString(world.responder.payloads[0])
    assert (response.id, [list(output.shape) for output in response.outputs]) == ("other", [[1, 2]])


class TestRepeatedRefusals:
    """After one for overload, calls like it are told the same before anything is made of them."""

    def overload(self, world: World, **fields: Any) -> tuple[FakeBatcher, Shedder]:
        """Have a call refused for overload after one that was taken."""
        world.infer(time_remaining=0.5, **fields)
        batcher: FakeBatcher = world.plane.servables["bare"].batcher  # type: ignore[assignment]
        batcher.last_refusal = Refusal(make_request(group=None, deadline=100.5), 101.0, 7, 0, 100.0)
        world.plane.errors = [batcher.last_refusal.error()]
        world.infer(time_remaining=0.5, **fields)
        assert [status.code.name for status in world.responder.statuses] == ["RESOURCE_EXHAUSTED"]
        return batcher, world.calls.shedder()

    def ask(
        self, shedder: Shedder, time_remaining: float | None = 0.25, metadata: Any = (), **fields: Any
    ) -> Status | None:
        return shedder.status(MODEL_INFER, infer_request(**fields).SerializeToString(), time_remaining, metadata)

    def test_those_like_it_are_told_the_same_and_counted(self, world: World) -> None:
        batcher, shedder = self.overload(world)
        message = infer_request()
        message.raw_input_contents[0] = np.array([[3, 4]], np.float32).tobytes()
        told = shedder.status(MODEL_INFER, message.SerializeToString(), 0.25, [("user-agent", "grpc-c/50")])
        assert told == world.responder.statuses[0]
        assert self.ask(shedder) == told
        assert batcher.asked == [100.25, 100.25]
        shedder.settle()
        shedder.settle()
        assert batcher.repeated_counts == [(2, 1, 1.0)]
        assert world.counts()["bare", "ModelInfer", "RESOURCE_EXHAUSTED"] == 3
        assert world.rpcs() == {"started": 4, "ResourceExhausted": 3}
        statistics = world.plane.servables["bare"].metrics.snapshot()
        assert (statistics.fail.count, statistics.failures) == (3, {"DEADLINE_UNMEETABLE": 3})
        assert len(world.plane.submitted) == 1
        assert world.calls.in_flight.count == 1

    def test_they_are_counted_with_the_time_that_they_took_their_rows_and_their_priority(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        left_out: list[int] = []
        monkeypatch.setattr(world.calls.recorder, "left_out", left_out.append)
        parameters = {"priority": inference.InferParameter(uint64_param=3)}
        batcher, shedder = self.overload(world, parameters=parameters)
        for _ in range(2):
            assert self.ask(shedder, parameters=parameters) is not None
            world.plane.clock.advance(0.25)
        shedder.settle()
        assert batcher.repeated_counts == [(2, 1, 2.0)]
        assert world.plane.servables["bare"].metrics.snapshot().fail.ns == pytest.approx(5e8), "of both together"
        assert left_out == [2]

    def test_those_of_another_refusal_are_counted_apart(self, world: World) -> None:
        batcher, shedder = self.overload(world)
        self.ask(shedder)
        assert world.calls.repeated is not None
        world.calls.repeated = dataclasses.replace(world.calls.repeated)
        self.ask(shedder)
        shedder.settle()
        assert batcher.repeated_counts == [(1, 1, 1.0), (1, 1, 1.0)]

    def test_each_has_its_own_id(self, world: World) -> None:
        _, shedder = self.overload(world, id="one")
        told = self.ask(shedder, id="two")
        assert told is not None
        assert b"two" in told.trailing_metadata[0][1]
        assert b"one" not in told.trailing_metadata[0][1]

    def test_a_long_id_is_cut_as_any_other(self, world: World) -> None:
        _, shedder = self.overload(world, id="a" * 200)
        told = self.ask(shedder, id="b" * 200)
        assert told is not None
        assert b"b" * 128 in told.trailing_metadata[0][1]
        assert b"b" * 129 not in told.trailing_metadata[0][1]

    def test_its_own_timeout_and_the_objective_bound_its_deadline(self, world: World) -> None:
        timeout = {"timeout": inference.InferParameter(int64_param=125_000)}
        batcher, shedder = self.overload(world, parameters=timeout)
        assert self.ask(shedder, None, parameters=timeout) is not None
        assert batcher.asked == [100.125]

    def test_where_it_does_not_hold_any_more_a_call_is_looked_at(self, world: World) -> None:
        batcher, shedder = self.overload(world)
        batcher.still_refuses = False
        assert self.ask(shedder) is None
        assert self.ask(shedder) is None
        assert len(batcher.asked) == 1, "asked once, not by every later call"

    def test_another_message_is_looked_at(self, world: World) -> None:
        batcher, shedder = self.overload(world)
        assert self.ask(shedder, id="of another length") is None
        message = infer_request()
        message.inputs[0].name = "y"
        payload = message.SerializeToString()
        assert shedder.status(MODEL_INFER, payload, 0.25, ()) is None
        assert shedder.status(MODEL_INFER, infer_request().SerializeToString() + b"\x00", 0.25, ()) is None
        assert shedder.status(CLASSIFY_IMAGES, infer_request().SerializeToString(), 0.25, ()) is None
        assert not batcher.asked

    def test_who_brings_an_id_of_the_call_is_looked_at(self, world: World) -> None:
        _, shedder = self.overload(world)
        assert self.ask(shedder, metadata=[("te", "trailers"), ("x-request-id", "mine")]) is None

    def test_without_a_refusal_every_call_is_looked_at(self, world: World, caplog: pytest.LogCaptureFixture) -> None:
        world.infer(time_remaining=0.5)
        assert self.ask(world.calls.shedder()) is None
        assert not caplog.records

    def test_a_refusal_that_holds_for_nobody_else_is_not_repeated(self, world: World) -> None:
        """As those of ``refusals = "late"``, and of an idle instance."""
        world.infer(time_remaining=0.5)
        world.plane.errors = [DeadlineUnmeetable("too late")]
        world.infer(time_remaining=0.5)
        assert [status.code.name for status in world.responder.statuses] == ["RESOURCE_EXHAUSTED"]
        assert self.ask(world.calls.shedder()) is None

    def test_an_id_that_is_not_ascii_is_looked_at(self, world: World, caplog: pytest.LogCaptureFixture) -> None:
        _, shedder = self.overload(world, id="ab")
        assert self.ask(shedder, id="é") is None
        assert not caplog.records

    def test_a_damaged_id_is_looked_at(self, world: World) -> None:
        batcher, shedder = self.overload(world, id="ab")
        payload = infer_request(id="ab").SerializeToString().replace(b"ab", b"\xff\xfe")
        assert shedder.status(MODEL_INFER, payload, 0.25, ()) is None
        assert not batcher.asked

    def test_while_draining_a_call_is_looked_at(self, world: World) -> None:
        """It is to hear that the server stops."""
        _, shedder = self.overload(world)
        world.plane.draining = True
        assert self.ask(shedder) is None

    def test_who_is_watched_is_looked_at(self) -> None:
        world = World(recorder=Recorder(AccessLog(0.5, lambda: 0.9)))
        _, shedder = self.overload(world)
        assert self.ask(shedder) is None

    def test_an_error_of_ours_leaves_a_call_to_be_looked_at(
        self, world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Whoever takes calls in must live on."""
        batcher, shedder = self.overload(world)

        def fail(*_: object) -> bool:
            raise RuntimeError("ours")

        monkeypatch.setattr(batcher, "repeats", fail)
        assert self.ask(shedder) is None
        assert [record.message for record in caplog.records] == ["a refusal cannot be repeated"]

    def test_where_the_answer_may_be_known_it_is_looked_for(self, world: World) -> None:
        world.plane.servables["bare"] = bare_servable(metrics=world.metrics, shared=object())
        _, shedder = self.overload(world)
        assert self.ask(shedder) is None

    def test_a_refusal_of_one_that_asks_for_more_is_not_for_this_one(self, world: World) -> None:
        world.infer(time_remaining=0.5)
        batcher: FakeBatcher = world.plane.servables["bare"].batcher  # type: ignore[assignment]
        batcher.last_refusal = Refusal(make_request(1.0, 2.0, group=None, deadline=100.5), 101.0, 7, 0, 100.0)
        world.plane.errors = [batcher.last_refusal.error()]
        world.infer(time_remaining=0.5)
        assert self.ask(world.calls.shedder()) is None


def test_pictures_like_earlier_ones_are_not_parsed_again_and_mean_the_same(world: World) -> None:
    burst = object()
    for picture, time_remaining in ((b"one", None), (b"another", 0.5)):
        payload = encoded_request(picture).SerializeToString()
        world.calls.begin(MODEL_INFER, payload, time_remaining, world.responder, burst=burst)  # type: ignore[arg-type]
    first, second = world.plane.submitted
    assert first["inputs"]["images"].tolist() == [b"one"]
    assert (second["items"], second["terms"].deadline) == ([b"another"], 100.5)
    assert first["terms"].burst is second["terms"].burst is burst
    world.reply.answer([ROW], REQUEST, FACTS)
    response = inference.ModelInferResponse.FromString(world.responder.payloads[0])
    assert (response.id, list(response.outputs[0].shape)) == ("mine", [1, 3])


def test_a_message_like_an_earlier_one_is_checked_anew_for_another_servable(world: World) -> None:
    world.infer()
    world.plane.servables["bare"] = bare_servable(version=2)
    world.infer()
    assert "inputs" in world.plane.submitted[1]
    assert world.plane.submitted[1]["servable"].version == 2
    world.infer()
    assert "arrays" in world.plane.submitted[2]
    assert world.plane.submitted[2]["servable"].version == 2


def test_nothing_keeps_a_servable_that_is_withdrawn(world: World) -> None:
    batcher, shedder = TestRepeatedRefusals().overload(world)
    assert TestRepeatedRefusals().ask(shedder) is not None
    shedder.settle()
    batcher.last_refusal = None
    del batcher
    world.responder.statuses.clear()
    kept = world.plane.withdraw("bare")
    gc.collect()
    assert kept() is None


def test_nothing_keeps_a_servable_of_pictures_that_is_withdrawn(world: World) -> None:
    world.begin(MODEL_INFER, encoded_request(b"one"))
    kept = world.plane.withdraw("pictures")
    gc.collect()
    assert kept() is None


def test_what_is_learned_of_a_servable_as_it_is_withdrawn_is_not_kept(world: World) -> None:
    """The call has found it, and is told of no withdrawal any more."""
    infer, withdrawn = world.plane.infer, []

    def withdraw_meanwhile(*args: Any) -> Ticket:
        ticket = infer(*args)
        withdrawn.append(world.plane.withdraw("bare"))
        return ticket

    world.plane.infer = withdraw_meanwhile  # type: ignore[method-assign]
    world.infer()
    gc.collect()
    assert withdrawn[0]() is None


def test_others_keep_what_was_learned_of_them(world: World) -> None:
    world.infer()
    world.begin(MODEL_INFER, encoded_request(b"one"))
    world.plane.withdraw("pictures")
    world.infer()
    assert "arrays" in world.plane.submitted[-1], "the message was not parsed again"


def test_a_damaged_id_in_a_message_like_an_earlier_one_is_the_callers_fault(world: World) -> None:
    world.infer(id="abcdef")
    assert world.begin(MODEL_INFER, infer_request(id="abcdef").SerializeToString().replace(b"abc", b"a\xffc")) is None
    assert world.responder.statuses[0].message == "the request message is damaged, or a sentence in it is not UTF-8"


REFUSALS = [
    (ModelNotReady("loading"), "UNAVAILABLE"),
    (Draining("stopping"), "UNAVAILABLE"),
    (QueueFull("full"), "RESOURCE_EXHAUSTED"),
    (DeadlineUnmeetable("late"), "RESOURCE_EXHAUSTED"),
    (InvalidInput("wrong"), "INVALID_ARGUMENT"),
]


@pytest.mark.parametrize("where", ["finding", "errors"])
@pytest.mark.parametrize(("error", "code"), REFUSALS)
def test_a_refusal_settles_the_call_at_once(world: World, where: str, error: ServingError, code: str) -> None:
    setattr(world.plane, where, [error])
    assert world.infer() is None
    assert world.responder.code == code
    assert world.responder.statuses[0].message == error.message
    assert world.calls.in_flight.count == 0
    assert world.counts() == {("bare", "ModelInfer", code): 1}


def test_a_call_without_a_credential_is_let_go_at_once(world: World, tmp_path: Path) -> None:
    """Its message might take what memory there is before Python collects garbage."""
    tokens = tmp_path / "tokens"
    tokens.write_text("sesame\n", encoding="utf-8")
    access = Access(TokenFile(tokens), None, local=True)
    calls = Calls(world.plane, world.metrics, SharedMemory(), "RESOURCE_EXHAUSTED", access, world.calls.recorder)  # type: ignore[arg-type]
    responder = FakeResponder()
    gone = weakref.ref(responder)
    gc.disable()
    try:
        assert calls.begin(MODEL_INFER, b"", None, responder) is None
        assert responder.code == "UNAUTHENTICATED"
        del responder
        assert gone() is None
    finally:
        gc.enable()


def test_the_overload_switch_is_obeyed() -> None:
    world = World("UNAVAILABLE")
    world.plane.errors = [QueueFull("full")]
    world.infer()
    assert world.responder.code == "UNAVAILABLE"
    assert world.counts() == {("bare", "ModelInfer", "UNAVAILABLE"): 1}


def test_an_unknown_model_is_counted_without_its_name(world: World) -> None:
    world.infer("made up by a caller")
    assert world.responder.code == "NOT_FOUND"
    assert world.counts() == {("", "ModelInfer", "NOT_FOUND"): 1}


@pytest.mark.parametrize("method", [MODEL_INFER, CLASSIFY_IMAGES, CLASSIFY_SENTENCES])
def test_a_damaged_message_is_the_callers_fault(world: World, method: str) -> None:
    assert world.begin(method, b"\xff\xff\xff") is None
    assert world.responder.code == "INVALID_ARGUMENT"
    assert world.responder.statuses[0].message == "the request message is damaged, or a sentence in it is not UTF-8"


@pytest.mark.parametrize("error", [ZeroDivisionError("secret"), MemoryError("secret"), KeyError("secret")])
def test_the_unexpected_is_internal_with_the_request_id_and_without_text(
    world: World, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    world.plane.errors = [error]
    assert world.infer() is None
    assert world.responder.code == "INTERNAL"
    (status,) = world.responder.statuses
    assert status.message == "internal error (request id id-1)"
    assert b"secret" not in status.trailing_metadata[0][1]
    assert "secret" in caplog.text
    assert {record.name for record in caplog.records} <= set(_BOUNDS), "callers can have it logged without end"
    assert world.calls.in_flight.count == 0


def test_a_bad_tensor_or_output_is_refused_before_it_is_submitted(world: World) -> None:
    message = infer_request()
    message.raw_input_contents[0] = b"123"
    world.begin(MODEL_INFER, message)
    assert world.responder.code == "INVALID_ARGUMENT"
    other = World()
    other.infer(outputs=[inference.ModelInferRequest.InferRequestedOutputTensor(name="z")])
    assert other.responder.statuses[0].message == "no output 'z', expected y"
    assert world.plane.submitted == other.plane.submitted == []


@pytest.mark.parametrize(
    ("model", "datatype", "shape", "message"),
    [
        ("bare", "FP32", [5, 2], "batch of 5, expected 1 to 4"),
        ("bare", "FP32", [4, 2**20], "input 'x': expected shape [-1, 2], got [4, 1048576]"),
        ("bare", "BYTES", [4, 2], "input 'x': expected datatype FP32, got BYTES"),
        (
            "pictures",
            "BYTES",
            [2**24],
            "input 'images': expected BYTES of shape [N], N from 1 to 4, got",
        ),
        ("pictures", "UINT8", [5, 2, 3, 1], "batch of 5, expected 1 to 4"),
        ("unknown", "FP32", [1, 2], "model 'bare': expected inputs x, got unknown"),
    ],
)
def test_what_is_too_large_is_refused_before_its_contents_are_looked_at(
    world: World, monkeypatch: pytest.MonkeyPatch, model: str, datatype: str, shape: list[int], message: str
) -> None:
    for name in ("_from_raw", "_from_typed"):
        monkeypatch.setattr(tensor_codec, name, lambda *_: pytest.fail("contents were decoded"))
    name = {"bare": "x", "pictures": "images"}.get(model, model)
    request = inference.ModelInferRequest(model_name="pictures" if model == "pictures" else "bare")
    request.inputs.add(name=name, datatype=datatype, shape=shape)
    request.raw_input_contents.append(b"not looked at")
    world.begin(MODEL_INFER, request)
    assert world.responder.code == "INVALID_ARGUMENT"
    assert world.responder.statuses[0].message.startswith(message)


@pytest.mark.parametrize(
    ("method", "field"), [(MODEL_INFER, 5), (MODEL_INFER, 6), (MODEL_INFER, 7), (CLASSIFY_IMAGES, 3)]
)
def test_a_message_of_fields_without_end_is_refused_before_it_is_parsed(
    world: World, monkeypatch: pytest.MonkeyPatch, method: str, field: int
) -> None:
    """An empty input takes two bytes in a message and eighty in memory."""
    for message in (inference.ModelInferRequest, classification.ClassifyImagesRequest):
        monkeypatch.setattr(message, "FromString", lambda _: pytest.fail("it was parsed"))
    world.calls.begin(method, bytes([field << 3 | 2, 0]) * 100_000, None, world.responder)
    assert world.responder.code == "INVALID_ARGUMENT"
    assert "fields" in world.responder.statuses[0].message


# Answers to ModelInfer.


def test_an_answer_is_encoded_and_counted(world: World) -> None:
    world.infer(id="mine")
    world.plane.clock.advance(0.5)
    world.reply.answer([np.array([[2, 4]], np.float32)], REQUEST, FACTS)
    response = world.answered()
    assert (response.model_name, response.model_version, response.id) == ("bare", "1", "mine")
    (output,) = response.outputs
    assert (output.name, output.datatype, list(output.shape)) == ("y", "FP32", [1, 2])
    assert np.frombuffer(response.raw_output_contents[0], np.float32).tolist() == [2, 4]
    assert not response.parameters
    assert world.counts() == {("bare", "ModelInfer", "OK"): 1}
    assert world.calls.in_flight.count == 0
    statistics = world.plane.servables["bare"].metrics.snapshot()
    assert (statistics.success.count, statistics.success.ns, statistics.fail.count) == (1, 500_000_000, 0)


def test_heads_of_other_shapes_and_graphs_are_not_mixed_up(world: World) -> None:
    for rows, digest in ((1, "sha256:a"), (2, "sha256:a"), (2, "sha256:b")):
        other = World()
        outputs = (TensorSpec(f"y-{digest[-1]}", "FP32", (-1, 2)),)
        other.plane.servables["bare"] = bare_servable(digest=digest, outputs=outputs)
        other.infer()
        other.reply.answer([np.zeros((rows, 2), np.float32)], REQUEST, FACTS)
        assert [(output.name, list(output.shape)) for output in other.answered().outputs] == [
            (f"y-{digest[-1]}", [rows, 2])
        ]


def test_heads_of_shapes_without_end_are_not_all_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replies, "_MAX_HEADS", 2)
    form, kept = replies.InferForm(bare_servable(), [tensor_codec.RequestedOutput(0)]), []
    for rows in range(1, 6):
        form.head(((rows, 2),))
        kept.append(len(form._heads))
    assert kept == [1, 2, 1, 2, 1]


def test_text_is_sent_as_text(world: World) -> None:
    world.plane.servables["bare"] = bare_servable(outputs=(TensorSpec("y", "BYTES", (-1, 1)),))
    world.infer()
    world.reply.answer([np.array([["seven"]], dtype=object)], REQUEST, FACTS)
    assert world.answered().raw_output_contents == [b"\x05\0\0\0seven"]


def test_what_goes_into_shared_memory_is_not_sent(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Any] = []
    monkeypatch.setattr(SharedMemory, "check", lambda *_: None)
    monkeypatch.setattr(SharedMemory, "write", lambda _, *part: written.append(part))
    output = inference.ModelInferRequest.InferRequestedOutputTensor(name="y")
    region = {"shared_memory_region": "r", "shared_memory_byte_size": 8, "shared_memory_offset": 4}
    for name, value in region.items():
        kind = "string_param" if isinstance(value, str) else "int64_param"
        setattr(output.parameters[name], kind, value)
    world.infer(outputs=[output])
    row = np.array([[2, 4]], np.float32)
    world.reply.answer([row], REQUEST, FACTS)
    assert written == [("r", 4, 8, row.tobytes())]
    response = world.answered()
    assert response.raw_output_contents == [b""]
    assert response.outputs[0].parameters == output.parameters


def test_only_the_outputs_asked_for_are_sent_in_that_order(world: World) -> None:
    tensors = tuple(TensorSpec(name, "FP32", (-1, 1)) for name in ("a", "b", "c"))
    world.plane.servables["bare"] = bare_servable(outputs=tensors)
    wanted = inference.ModelInferRequest.InferRequestedOutputTensor
    world.infer(outputs=[wanted(name="c"), wanted(name="a")])
    world.reply.answer([np.full((1, 1), value, np.float32) for value in range(3)], REQUEST, FACTS)
    response = world.answered()
    assert [output.name for output in response.outputs] == ["c", "a"]
    assert [np.frombuffer(raw, np.float32).tolist() for raw in response.raw_output_contents] == [[2], [0]]


def test_classes_are_sent_as_text(world: World) -> None:
    output = inference.ModelInferRequest.InferRequestedOutputTensor(name="probabilities")
    output.parameters["classification"].int64_param = 2
    message = inference.ModelInferRequest(model_name="pictures", outputs=[output])
    message.inputs.add(name="images", datatype="UINT8", shape=[1, 2, 3, 1])
    message.raw_input_contents.append(bytes(6))
    world.begin(MODEL_INFER, message)
    world.reply.answer([ROW], REQUEST, FACTS)
    response = world.answered()
    assert (response.outputs[0].datatype, list(response.outputs[0].shape)) == ("BYTES", [1, 2])
    assert response.raw_output_contents[0] == b"\x0e\0\0\x000.500000:1:one\x0f\0\0\x000.250000:0:zero"


def test_an_unbatched_answer_has_no_batch_axis(world: World) -> None:
    world.plane.servables["bare"] = bare_servable(batched=False, max_batch_size=1)
    message = infer_request()
    message.inputs[0].shape[:] = [2]
    world.begin(MODEL_INFER, message)
    world.reply.answer([np.array([[2, 4]], np.float32)], REQUEST, FACTS)
    assert list(world.answered().outputs[0].shape) == [2]


def test_a_request_explains_itself_when_asked(world: World) -> None:
    world.infer(parameters={"explain": inference.InferParameter(bool_param=True)})
    world.reply.answer([np.zeros((1, 2), np.float32)], REQUEST, FACTS)
    response = world.answered()
    assert response.parameters["bucket"].int64_param == 2
    assert response.parameters["model_digest"].string_param == "sha256:00"


@pytest.mark.parametrize(
    "outputs", [[], [np.array([[object()]], dtype=object)]], ids=["missing output", "nothing to encode"]
)
def test_an_answer_that_cannot_be_encoded_is_internal(world: World, outputs: list[np.ndarray]) -> None:
    world.infer()
    world.reply.answer(outputs, REQUEST, FACTS)
    assert world.responder.code == "INTERNAL"
    assert world.calls.in_flight.count == 0
    assert world.counts() == {("bare", "ModelInfer", "INTERNAL"): 1}
    assert world.plane.servables["bare"].metrics.snapshot().fail.count == 1


@pytest.mark.parametrize(("error", "code"), REFUSALS)
def test_a_refusal_later_settles_the_call(world: World, error: ServingError, code: str) -> None:
    world.infer()
    world.reply.refuse(error)
    assert world.responder.code == code
    assert world.calls.in_flight.count == 0
    assert world.plane.servables["bare"].metrics.snapshot().fail.count == 1


@pytest.mark.parametrize(
    ("time_remaining", "left_at", "settled_at", "code"),
    [
        (None, None, 5.0, "CANCELLED"),
        (1.0, None, 0.5, "CANCELLED"),
        (1.0, None, 1.0, "DEADLINE_EXCEEDED"),
        (1.0, 0.5, 3.0, "CANCELLED"),  # its batch ran on
        (1.0, 1.5, 3.0, "DEADLINE_EXCEEDED"),
    ],
)
def test_who_leaves_as_the_deadline_passes_counts_as_late(
    world: World, time_remaining: float | None, left_at: float | None, settled_at: float, code: str
) -> None:
    world.infer(time_remaining=time_remaining)
    arrival = world.plane.clock()
    world.plane.clock.advance(settled_at)
    world.reply.refuse(RequestCancelled("left", at=None if left_at is None else arrival + left_at))
    assert world.responder.code == code
    assert world.counts() == {("bare", "ModelInfer", code): 1}
    assert world.plane.servables["bare"].metrics.snapshot().failures == {code: 1}


Settle = Callable[[Any], None]
SETTLE: list[Settle] = [
    lambda reply: reply.answer([np.zeros((1, 2), np.float32)], REQUEST, FACTS),
    lambda reply: reply.answer([], REQUEST, FACTS),
    lambda reply: reply.refuse(QueueFull("full")),
]


@pytest.mark.parametrize("first", SETTLE)
@pytest.mark.parametrize("second", SETTLE)
def test_a_call_is_settled_once_whatever_comes(world: World, first: Settle, second: Settle) -> None:
    world.infer()
    first(world.reply)
    code = world.responder.code
    second(world.reply)
    assert world.responder.code == code
    assert world.calls.in_flight.count == 0
    assert sum(world.counts().values()) == 1


# Answers to ClassifyImages and ClassifySentences.


def test_items_reach_the_data_plane(world: World) -> None:
    assert world.begin(CLASSIFY_IMAGES, images_request(), 1.0) is world.plane.ticket
    (call,) = world.plane.submitted
    assert (call["items"], call["terms"].deadline) == ([b"a", b"b"], 101.0)


def test_outcomes_become_results_in_order(world: World) -> None:
    world.begin(CLASSIFY_IMAGES, images_request(request_id="mine", top_k=2))
    world.reply.answer([ROW[0], InvalidInput("damaged")], REQUEST, FACTS)
    response = world.classified()
    assert (response.model_name, response.model_version, response.request_id) == ("pictures", "1", "mine")
    good, bad = response.results
    assert [(label.index, label.label, label.probability) for label in good.classification.scored_labels] == [
        (1, "one", 0.5),
        (0, "zero", 0.25),
    ]
    assert (bad.error.code, bad.error.message) == (3, "damaged")
    assert not response.HasField("explanation")
    assert world.counts() == {("pictures", "ClassifyImages", "OK"): 1}


def test_top_k_is_five_unless_given_and_at_most_all(world: World) -> None:
    world.begin(CLASSIFY_IMAGES, images_request(top_k=0))
    world.reply.answer([ROW[0]], REQUEST, FACTS)
    assert len(world.classified().results[0].classification.scored_labels) == 3


def test_a_negative_top_k_is_refused(world: World) -> None:
    world.begin(CLASSIFY_IMAGES, images_request(top_k=-1))
    assert world.responder.statuses[0].message == "top_k: expected 0 or more, got -1"


@pytest.mark.parametrize("ran", [True, False])
def test_an_explanation_needs_something_that_ran(world: World, ran: bool) -> None:
    world.begin(CLASSIFY_IMAGES, images_request(explain=True))
    world.reply.answer([InvalidInput("damaged")], *((REQUEST, FACTS) if ran else (None, None)))
    response = world.classified()
    assert response.HasField("explanation") == ran
    assert not ran or response.explanation.bucket == 2


def test_a_model_of_another_task_is_refused(world: World) -> None:
    message = classification.ClassifySentencesRequest(model_name="pictures", sentences=["good"])
    world.begin(CLASSIFY_SENTENCES, message)
    assert world.responder.statuses[0].message == (
        "model 'pictures' has task image-classification, this method needs sentence-classification"
    )
    assert world.counts() == {("pictures", "ClassifySentences", "INVALID_ARGUMENT"): 1}


def test_who_asks_a_bare_graph_for_labels_learns_what_it_takes(world: World) -> None:
    world.plane.servables["bare"] = bare_servable(name="bare", task="tensor")
    world.begin(CLASSIFY_SENTENCES, classification.ClassifySentencesRequest(model_name="bare", sentences=["good"]))
    assert world.responder.statuses[0].message == (
        "model 'bare' has task tensor, this method needs sentence-classification; it takes tensors alone, by ModelInfer"
    )


def test_sentences_are_text(world: World) -> None:
    world.plane.servables["s"] = bare_servable(name="s", task="sentence-classification")
    world.begin(CLASSIFY_SENTENCES, classification.ClassifySentencesRequest(model_name="s", sentences=["gut", "ü"]))
    assert world.plane.submitted[0]["items"] == ["gut", "ü"]


def test_a_class_without_a_label_is_internal(world: World) -> None:
    world.plane.servables["pictures"] = make_servable(labels=("zero",))
    world.begin(CLASSIFY_IMAGES, images_request())
    world.reply.answer([ROW[0]], REQUEST, FACTS)
    assert world.responder.code == "INTERNAL"


def test_items_that_are_refused_settle_the_call(world: World) -> None:
    world.begin(CLASSIFY_IMAGES, images_request())
    world.reply.refuse(QueueFull("full"))
    assert world.responder.code == "RESOURCE_EXHAUSTED"
    assert world.calls.in_flight.count == 0


# Counting.


def test_calls_in_flight_are_a_metric(world: World) -> None:
    for _ in range(2):
        world.infer()
    assert world.metrics.registry.get_sample_value("convserve_inflight_requests") == 2
    world.reply.refuse(QueueFull("full"))
    assert world.metrics.registry.get_sample_value("convserve_inflight_requests") == 1


@pytest.mark.parametrize(
    ("transport", "rpcs"),
    [(door, {"started": 1, "NotFound": 1}) for door in ("native", "grpcio")] + [("stream", {}), ("http", {})],
)
def test_a_request_on_a_stream_or_a_web_page_is_no_rpc(world: World, transport: str, rpcs: dict[str, float]) -> None:
    world.responder.transport = transport
    world.infer(model="none")
    assert world.counts() == {("", "ModelInfer", "NOT_FOUND"): 1}
    assert world.rpcs() == rpcs


def test_a_call_is_settled_once_whenever_another_thread_comes_in_between(world: World) -> None:
    """While one thread settles it, another does so before each line in turn: as when what follows the submission fails
    while an instance answers."""

    def settled_before_line(number: int) -> bool:
        """Answer a call, and refuse it before that line; tell whether there was one."""
        world.responder = FakeResponder()
        world.infer()
        answering, lines = world.reply, 0

        def saw(frame: FrameType, event: str, _argument: object) -> Any:
            nonlocal lines
            if frame.f_code.co_filename != call.__file__:
                return None
            if event == "line":
                lines += 1
                if lines == number:
                    sys.settrace(None)
                    answering.refuse(QueueFull("full"))
            return saw

        before = sys.gettrace()
        sys.settrace(saw)
        try:
            answering.answer([ROW], REQUEST, FACTS)
        finally:
            sys.settrace(before)
        assert world.responder.code in ("OK", "RESOURCE_EXHAUSTED")
        assert world.calls.in_flight.count == 0
        return lines >= number

    number = 1
    while settled_before_line(number):
        number += 1
    assert number > 5


@pytest.mark.parametrize("counts", ["observe_success", "observe_failure", "count"])
def test_a_call_that_cannot_be_counted_is_answered(world: World, monkeypatch: pytest.MonkeyPatch, counts: str) -> None:
    def broken(*_: object) -> None:
        raise IndexError(counts)

    monkeypatch.setattr(Calls if counts == "count" else ModelMetrics, counts, broken)
    world.infer()
    if counts == "observe_failure":
        world.reply.refuse(QueueFull("full"))
        assert world.responder.code == "RESOURCE_EXHAUSTED"
    else:
        world.reply.answer([ROW], REQUEST, FACTS)
        assert world.responder.code == "OK"
    assert world.calls.in_flight.count == 0


# Watching.


def drawing() -> Recorder:
    return Recorder(AccessLog(1.0, lambda: 0.0))


def logged(caplog: pytest.LogCaptureFixture) -> dict[str, Any]:
    (line,) = [line for line in caplog.records if line.name == "service.access"]
    return line.fields  # type: ignore[attr-defined,no-any-return]


def test_a_call_that_is_not_drawn_keeps_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Recorder, "begin", lambda *_: pytest.fail("asked"))
    monkeypatch.setattr(Recorder, "ended", lambda *_: pytest.fail("told"))
    world.infer()
    world.reply.answer([ROW], REQUEST, FACTS)
    assert world.responder.code == "OK"


def test_a_drawn_call_is_logged_once_it_is_answered(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    world = World(recorder=drawing())
    world.infer(id="mine")
    world.reply.answer([ROW], REQUEST, FACTS)
    said = logged(caplog)
    assert (said["request_id"], said["status"], said["model"], said["version"]) == ("mine", "OK", "bare", "1")
    assert (said["transport"], said["rows"], said["infer_seconds"]) == ("fake", 1, 0.002)


def test_a_classification_is_logged_under_its_own_id(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    world = World(recorder=drawing())
    world.begin(CLASSIFY_IMAGES, images_request(request_id="x" * 1000))
    world.reply.answer([ROW[0], InvalidInput("damaged")], REQUEST, FACTS)
    said = logged(caplog)
    assert (said["request_id"], said["status"], said["batch_rows"]) == ("x" * 128, "OK", 1)


def test_a_failure_is_logged_under_the_id_that_its_caller_gets(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    world.infer("none", id="mine")
    said = logged(caplog)
    assert (said["status"], said["reason"], said["request_id"]) == ("NOT_FOUND", "MODEL_NOT_FOUND", "mine")
    assert "model" not in said, "a name that is not in the repository may be of any length"
    assert b"mine" in dict(world.responder.statuses[0].trailing_metadata)["grpc-status-details-bin"]


def test_what_a_door_does_not_let_in_is_counted_and_logged(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    world.calls.refuse(MODEL_INFER, world.responder, QueueFull("too much"))
    assert world.responder.code == "RESOURCE_EXHAUSTED"
    assert world.calls.in_flight.count == 0
    assert world.counts() == {("", "ModelInfer", "RESOURCE_EXHAUSTED"): 1}
    assert logged(caplog)["request_id"] == "id-1"
