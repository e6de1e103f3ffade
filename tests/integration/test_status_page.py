"""The status page's form on real servers: where it is, and what it asks of who uses it."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.harness import DEADLINE_SECONDS, MODELS, ROOT, ServerProcess, eventually

DIGIT = (ROOT / "examples" / "pictures" / "digit-3.png").read_bytes()
PICTURE = "/try?model=lenet5-mnist&kind=picture"


@pytest.fixture(scope="module")
def guarded(transport: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    tokens = tmp_path_factory.mktemp("tokens") / "infer"
    tokens.write_text("reader\n")
    flags = ["--infer-tokens-file", str(tokens), "--access-log-sample-rate", "1"]
    flags += ["--model-control-mode", "explicit", "--load-models", "lenet5-mnist,textcnn-mr"]
    with ServerProcess(MODELS, transport, *flags) as running:
        yield running


def post(server: ServerProcess, path: str, body: bytes, **headers: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=DEADLINE_SECONDS)
    try:
        connection.request("POST", path, body, headers)  # its own Content-Length only where none is given
        answer = connection.getresponse()
        told = answer.read()
        is_json = answer.headers["Content-Type"] == "application/json"
        return answer.status, json.loads(told) if is_json else told.decode()
    finally:
        connection.close()


def test_a_picture_and_a_sentence_pass_through_the_calls(guarded: ServerProcess) -> None:
    status, told = post(guarded, PICTURE, DIGIT, Authorization="Bearer reader", **{"X-Request-Id": "tried"})
    assert (status, told["labels"][0]["label"], told["version"]) == (200, "3", "1")
    assert told["provider"] == "CPUExecutionProvider"
    (line,) = eventually(lambda: [one for one in guarded.logged("call") if one["request_id"] == "tried"], "a line")
    assert (line["transport"], line["model"], line["status"]) == ("http", "lenet5-mnist", "OK")
    sentence = "/try?model=textcnn-mr&kind=sentence"
    status, told = post(guarded, sentence, b"A gripping story.", Authorization="Bearer reader")
    assert (status, told["labels"][0]["label"]) == (200, "positive")
    assert guarded.metric("convserve_requests_total", method="ClassifyImages", code="OK") >= 1


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer guess"}])
def test_it_wants_a_token_where_inference_does(guarded: ServerProcess, headers: dict[str, str]) -> None:
    status, told = post(guarded, PICTURE, DIGIT, **headers)
    assert (status, told["code"]) == (401, "UNAUTHENTICATED")
    assert 'id="token-part" >' in guarded.get("/")[1]


def test_what_is_wrong_is_told_as_over_grpc(guarded: ServerProcess) -> None:
    known = {"Authorization": "Bearer reader"}
    assert post(guarded, "/try?model=nobody&kind=picture", DIGIT, **known)[0] == 404
    status, told = post(guarded, "/try?model=textcnn-mr&kind=picture", DIGIT, **known)
    assert (status, told["code"]) == (400, "INVALID_ARGUMENT")
    assert post(guarded, PICTURE, b"no picture", **known)[0] == 400
    assert post(guarded, PICTURE, b"", **known, **{"Content-Length": str(8 * 1024 * 1024 + 1)})[0] == 413
    assert post(guarded, "/nothing", b"x" * 500_000)[0] == 404
    assert post(guarded, PICTURE, DIGIT, **known, Origin="http://evil.example")[0] == 403
    assert post(guarded, PICTURE, DIGIT, **known, Host="rebound.example")[0] == 403


def test_it_can_be_left_out(small_repository: Path, transport: str) -> None:
    with ServerProcess(small_repository, transport, "--no-try-form") as server:
        assert post(server, PICTURE, DIGIT)[0] == 404
        assert "<form" not in server.get("/")[1]
