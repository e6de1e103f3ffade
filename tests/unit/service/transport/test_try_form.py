"""The form: what it lets pass, what it hands on, how it tells the answer."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from service.errors import (
    BackendFailed,
    DeadlineExceeded,
    InvalidInput,
    ModelNotFound,
    ModelNotReady,
    PermissionDenied,
    QueueFull,
    ServingError,
    Unauthenticated,
)
from service.pb.convserve.classification.v1 import classification_pb2 as pb
from service.transport import try_form
from service.transport.calls import CLASSIFY_IMAGES, CLASSIFY_SENTENCES
from service.transport.http_message import Request
from service.transport.status import status_of
from service.transport.try_form import MAX_PICTURE_BYTES, MAX_SENTENCE_BYTES, TryForm, foreign

HOST = {"host": "localhost:8002"}


class Ticket:
    def __init__(self) -> None:
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Calls:
    """Stands where ``Calls.begin`` is; answers at once, unless told not to."""

    def __init__(self, outcome: Any = None) -> None:
        self.outcome = outcome
        self.begun: list[tuple[Any, ...]] = []
        self.ticket = Ticket()

    def begin(self, method: str, payload: bytes, remaining: float | None, responder: Any, metadata: Any) -> Ticket:
        self.begun.append((method, payload, remaining, dict(metadata), responder))
        if isinstance(self.outcome, bytes):
            responder.respond(self.outcome)
        elif self.outcome is not None:
            responder.fail(status_of(self.outcome, responder.request_id))
        return self.ticket


def send(form: TryForm, body: bytes = b"", headers: dict[str, str] | None = None, **query: str) -> tuple[int, Any]:
    given = {**HOST, "content-length": str(len(body)), **(headers or {})}
    response = form.answer(Request(given, query, lambda length: body[:length]))
    assert response.kind == "application/json"
    return response.status, json.loads(response.body)


def picture_answer() -> bytes:
    answer = pb.ClassifyImagesResponse(model_name="m", model_version="2")
    answer.results.add().classification.scored_labels.add(index=1, label="<one>", probability=0.75)
    answer.explanation.batch_size = 3
    answer.explanation.decode_seconds = 0.25
    answer.explanation.queue_seconds = 0.5
    answer.explanation.infer_seconds = 0.75
    answer.explanation.execution_provider = "CPUExecutionProvider"
    return answer.SerializeToString()


def test_a_picture_becomes_a_call_of_one_picture() -> None:
    calls = Calls(picture_answer())
    status, told = send(TryForm(calls.begin, loopback_only=True), b"\x89PNG", model="m", kind="picture")
    method, payload, remaining, metadata, responder = calls.begun[0]
    assert (method, remaining, metadata, responder.transport) == (CLASSIFY_IMAGES, 10.0, {}, "http")
    assert pb.ClassifyImagesRequest.FromString(payload) == pb.ClassifyImagesRequest(
        model_name="m", images=[b"\x89PNG"], explain=True
    )
    assert status == 200
    assert told == {
        "model": "m",
        "version": "2",
        "labels": [{"label": "<one>", "probability": 0.75}],
        "decode_seconds": 0.25,
        "queue_seconds": 0.5,
        "infer_seconds": 0.75,
        "batch_size": 3,
        "provider": "CPUExecutionProvider",
        "cached": False,
    }


def test_an_answer_from_the_cache_says_so() -> None:
    answer = pb.ClassifyImagesResponse.FromString(picture_answer())
    tried = []
    for reason in ("idle", "cached"):
        answer.explanation.release_reason = reason
        form = TryForm(Calls(answer.SerializeToString()).begin, loopback_only=True)
        tried.append(send(form, b"x", model="m", kind="picture")[1]["cached"])
    assert tried == [False, True]


def test_a_sentence_becomes_a_call_of_one_sentence() -> None:
    calls = Calls(ModelNotFound("no model 'm'"))
    status, told = send(TryForm(calls.begin, loopback_only=True), "schön".encode(), model="m", kind="sentence")
    assert pb.ClassifySentencesRequest.FromString(calls.begun[0][1]) == pb.ClassifySentencesRequest(
        model_name="m", sentences=["schön"], explain=True
    )
    assert calls.begun[0][0] == CLASSIFY_SENTENCES
    assert (status, told) == (404, {"code": "NOT_FOUND", "error": "no model 'm'"})


def test_credential_id_and_trace_travel_along_and_nothing_else() -> None:
    calls = Calls(Unauthenticated("no"))
    passed_on = {"authorization": "Bearer t", "x-request-id": "mine", "traceparent": "00-1", "tracestate": "a=b"}
    send(TryForm(calls.begin, loopback_only=True), b"x", {**passed_on, "cookie": "c"}, model="m", kind="sentence")
    assert calls.begun[0][3] == passed_on
    assert calls.begun[0][4].request_id == "mine"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InvalidInput("no"), 400),
        (Unauthenticated("no"), 401),
        (PermissionDenied("no"), 403),
        (ModelNotFound("no"), 404),
        (QueueFull("no"), 429),
        (BackendFailed("no"), 500),
        (ModelNotReady("no"), 503),
        (DeadlineExceeded("no"), 504),
    ],
    ids=lambda given: getattr(given, "status", None),
)
def test_a_call_that_fails_has_the_status_of_http_that_comes_nearest(error: ServingError, status: int) -> None:
    form = TryForm(Calls(error).begin, loopback_only=True)
    got, told = send(form, b"x", model="m", kind="sentence")
    assert (got, told["code"]) == (status, error.status)


def test_a_bad_picture_is_the_caller_s_fault() -> None:
    answer = pb.ClassifyImagesResponse(model_name="m")
    answer.results.add().error.message = "not a picture"
    form = TryForm(Calls(answer.SerializeToString()).begin, loopback_only=True)
    assert send(form, b"x", model="m", kind="picture") == (400, {"code": "INVALID_ARGUMENT", "error": "not a picture"})


@pytest.mark.parametrize(
    ("headers", "query", "status", "code"),
    [
        ({}, {"kind": "tensor"}, 400, "INVALID_ARGUMENT"),
        ({}, {}, 400, "INVALID_ARGUMENT"),
        ({"content-length": "x"}, {"kind": "picture"}, 411, "INVALID_ARGUMENT"),
        ({"content-length": str(MAX_PICTURE_BYTES + 1)}, {"kind": "picture"}, 413, "INVALID_ARGUMENT"),
        ({"content-length": str(MAX_SENTENCE_BYTES + 1)}, {"kind": "sentence"}, 413, "INVALID_ARGUMENT"),
        ({"origin": "http://evil.example"}, {"kind": "picture"}, 403, "PERMISSION_DENIED"),
    ],
)
def test_refused_before_the_body_is_read(
    headers: dict[str, str], query: dict[str, str], status: int, code: str
) -> None:
    def never(_: int) -> bytes:
        raise AssertionError

    calls = Calls()
    request = Request({**HOST, "content-length": "1", **headers}, {"model": "m", **query}, never)
    response = TryForm(calls.begin, loopback_only=True).answer(request)
    assert (response.status, json.loads(response.body)["code"]) == (status, code)
    assert calls.begun == []


def test_what_is_as_large_as_is_allowed_is_classified() -> None:
    form = TryForm(Calls(picture_answer()).begin, loopback_only=True)
    for kind, most in (("picture", MAX_PICTURE_BYTES), ("sentence", MAX_SENTENCE_BYTES)):
        assert send(form, bytes(most), model="m", kind=kind)[0] == 200


def test_a_sentence_that_is_no_text_is_refused() -> None:
    form = TryForm(Calls().begin, loopback_only=True)
    assert send(form, b"\xff", model="m", kind="sentence")[0] == 400


def test_two_at_a_time_and_a_place_is_given_back_whatever_happens() -> None:
    entered, leave = threading.Barrier(3), threading.Event()

    def hold(_: int) -> bytes:
        entered.wait(10)
        leave.wait(10)
        raise ConnectionError

    form = TryForm(Calls(picture_answer()).begin, loopback_only=True)
    request = Request({**HOST, "content-length": "1"}, {"model": "m", "kind": "picture"}, hold)

    def one() -> None:
        with pytest.raises(ConnectionError):
            form.answer(request)

    threads = [threading.Thread(target=one) for _ in range(2)]
    for thread in threads:
        thread.start()
    entered.wait(10)
    assert send(form, b"x", model="m", kind="picture")[0] == 429
    leave.set()
    for thread in threads:
        thread.join(10)
    assert send(form, b"x", model="m", kind="picture")[0] == 200


def test_a_model_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(try_form, "_PATIENCE_SECONDS", 0.0)
    calls = Calls()
    status, _ = send(TryForm(calls.begin, loopback_only=True), b"x", model="m", kind="picture")
    assert (status, calls.ticket.cancelled) == (504, True)


@pytest.mark.parametrize(
    ("headers", "passes"),
    [
        (HOST, True),  # curl
        ({**HOST, "origin": "http://localhost:8002", "sec-fetch-site": "same-origin"}, True),
        ({**HOST, "origin": "https://localhost:8002"}, True),  # behind a proxy that speaks TLS
        ({**HOST, "origin": "http://localhost:9000"}, False),
        ({**HOST, "origin": "null"}, False),
        ({**HOST, "sec-fetch-site": "same-site"}, False),
        ({**HOST, "sec-fetch-site": "cross-site", "origin": "http://localhost:8002"}, False),
        ({"host": "127.0.0.1:8002"}, True),
        ({"host": "[::1]:8002"}, True),
        ({"host": "rebound.example:8002", "origin": "http://rebound.example:8002"}, False),
        ({"host": "localhost.evil.example"}, False),
        ({"host": "127.evil.example"}, False),
        ({}, False),
    ],
)
def test_who_may_send(headers: dict[str, str], passes: bool) -> None:
    assert (foreign(headers, loopback_only=True) is None) == passes


def test_on_a_network_any_name_of_the_host_will_do() -> None:
    assert foreign({"host": "gpu7:8002", "origin": "http://gpu7:8002"}, loopback_only=False) is None
    assert foreign({"host": "gpu7:8002", "origin": "http://evil:8002"}, loopback_only=False) is not None
