"""The status page's form: classifies one picture or sentence over HTTP, by the same path as a gRPC call.

It is counted, logged, batched and refused like any other call, and needs a token if inference does. It is for
people, not for traffic: one input per call, two calls at a time, only from this page.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Mapping
from typing import Any

from service.batching.keeping import CACHED
from service.dataplane import Ticket
from service.pb.convserve.classification.v1 import classification_pb2 as classification
from service.transport.access import Metadata
from service.transport.call import Responder, new_request_id
from service.transport.calls import CLASSIFY_IMAGES, CLASSIFY_SENTENCES
from service.transport.http_message import Request, Response
from service.transport.status import Status

MAX_PICTURE_BYTES = 8 * 1024 * 1024
MAX_SENTENCE_BYTES = 16 * 1024
_AT_A_TIME = 2
_PATIENCE_SECONDS = 10.0
_LOOPBACK = re.compile(r"(localhost|127(\.\d+){3}|\[::1\])(:\d+)?")
_HTTP = {
    "INVALID_ARGUMENT": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "RESOURCE_EXHAUSTED": 429,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
_PASSED_ON = ("authorization", "x-request-id", "traceparent", "tracestate")

Begin = Callable[[str, bytes, float | None, Responder, Metadata], Ticket | None]


class TryForm:
    """Answers ``POST /try?model=NAME&kind=picture|sentence`` with JSON. Thread-safe."""

    def __init__(self, begin: Begin, *, loopback_only: bool) -> None:
        """Wire up.

        Args:
            begin: Accepts a call, as ``Calls.begin`` does.
            loopback_only: Whether the endpoint listens on loopback only. Another host name then means DNS rebinding.
        """
        self._begin = begin
        self._loopback_only = loopback_only
        self._places = threading.BoundedSemaphore(_AT_A_TIME)

    def answer(self, request: Request) -> Response:
        """Classify the body. Errors have the codes and messages of the gRPC call."""
        model, kind = request.query.get("model", ""), request.query.get("kind", "")
        most = {"picture": MAX_PICTURE_BYTES, "sentence": MAX_SENTENCE_BYTES}.get(kind)
        if (why := foreign(request.headers, loopback_only=self._loopback_only)) is not None:
            return _failure(403, "PERMISSION_DENIED", why)
        if most is None:
            return _failure(400, "INVALID_ARGUMENT", "kind: expected picture or sentence")
        length = request.body_bytes
        if length is None:
            return _failure(411, "INVALID_ARGUMENT", "the length of the body is not declared")
        if length > most:
            return _failure(413, "INVALID_ARGUMENT", f"{length} bytes, expected at most {most}")
        if not self._places.acquire(blocking=False):
            return _failure(429, "RESOURCE_EXHAUSTED", "the form is busy, try again in a moment")
        try:
            return self._classify(model, kind, request.read(length), request.headers)
        finally:
            self._places.release()

    def _classify(self, model: str, kind: str, body: bytes, headers: Mapping[str, str]) -> Response:
        message: classification.ClassifyImagesRequest | classification.ClassifySentencesRequest
        response_type: Any
        if kind == "picture":
            method, response_type = CLASSIFY_IMAGES, classification.ClassifyImagesResponse
            message = classification.ClassifyImagesRequest(model_name=model, images=[body], explain=True)
        else:
            method, response_type = CLASSIFY_SENTENCES, classification.ClassifySentencesResponse
            try:
                sentence = body.decode()
            except UnicodeDecodeError:
                return _failure(400, "INVALID_ARGUMENT", "the sentence is not UTF-8")
            message = classification.ClassifySentencesRequest(model_name=model, sentences=[sentence], explain=True)
        metadata = [(name, headers[name]) for name in _PASSED_ON if name in headers]
        waiting = _Waiting(headers.get("x-request-id", ""))
        ticket = self._begin(method, message.SerializeToString(), _PATIENCE_SECONDS, waiting, metadata)
        if not waiting.settled.wait(_PATIENCE_SECONDS):
            if ticket is not None:
                ticket.cancel()
            return _failure(504, "DEADLINE_EXCEEDED", "the model did not answer in time")
        if isinstance(waiting.outcome, Status):
            code = waiting.outcome.name
            return _failure(_HTTP.get(code, 500), code, waiting.outcome.message)
        return _told(response_type.FromString(waiting.outcome))


class _Waiting:
    """A responder for a waiting thread."""

    transport = "http"

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id or new_request_id()
        self.settled = threading.Event()
        self.outcome: bytes | Status = b""

    def respond(self, payload: bytes) -> None:
        self.outcome = payload
        self.settled.set()

    def fail(self, status: Status) -> None:
        self.outcome = status
        self.settled.set()


def foreign(headers: Mapping[str, str], *, loopback_only: bool) -> str | None:
    """Return why a request is refused as not from this server's page; None if it may be, or is not from a browser.

    Browsers send the origin of a request in ``Origin`` and ``Sec-Fetch-Site``, which no script can change (Fetch
    Standard, "Origin header"; Fetch Metadata Request Headers).
    """
    host = headers.get("host", "")
    if headers.get("sec-fetch-site", "same-origin") != "same-origin":
        return "this form is for its own page only"
    if headers.get("origin", f"http://{host}") not in (f"http://{host}", f"https://{host}"):
        return "this form is for its own page only"
    if loopback_only and not _LOOPBACK.fullmatch(host):
        return "this server accepts calls to localhost only"
    return None


def _told(response: classification.ClassifyImagesResponse | classification.ClassifySentencesResponse) -> Response:
    result = response.results[0]
    if result.HasField("error"):
        return _failure(400, "INVALID_ARGUMENT", result.error.message)
    why = response.explanation
    facts = {
        "model": response.model_name,
        "version": response.model_version,
        "labels": [
            {"label": scored.label, "probability": round(scored.probability, 6)}
            for scored in result.classification.scored_labels
        ],
        "decode_seconds": why.decode_seconds,
        "queue_seconds": why.queue_seconds,
        "infer_seconds": why.infer_seconds,
        "batch_size": why.batch_size,
        "provider": why.execution_provider,
        "cached": why.release_reason == CACHED,
    }
    return _json(200, facts)


def _failure(status: int, code: str, message: str) -> Response:
    return _json(status, {"code": code, "error": message})


def _json(status: int, value: Mapping[str, object]) -> Response:
    return Response(status, "application/json", json.dumps(value, ensure_ascii=False).encode())
