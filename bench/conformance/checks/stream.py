"""stream: ModelStreamInfer, with many requests in flight on one stream."""

from __future__ import annotations

import queue
from typing import Any

from bench.conformance.model import Model, outputs_of
from bench.conformance.outcome import CheckFailed, expect, expect_equal
from bench.conformance.registry import model_check, server_check
from service.pb.inference import grpc_service_pb2 as pb

_SOURCE = "Triton, grpc_service.proto, ModelStreamInfer"
_MANY = 200


def _answered(answer: pb.ModelStreamInferResponse) -> pb.ModelInferResponse:
    expect(not answer.error_message, "an answer", answer.error_message)
    return answer.infer_response


@model_check("stream", f"{_MANY} requests in flight are answered, each under its id", _SOURCE)
def many_in_flight(suite: Any, model: Model) -> None:
    arrays = [model.arrays(seed=200 + kind) for kind in range(8)]
    expected = [outputs_of(suite.target.infer(model.request(array))) for array in arrays]
    requests = [model.request(arrays[number % 8], request_id=f"s-{number}") for number in range(_MANY)]
    responses = [_answered(answer) for answer in suite.target.answers(suite.target.stream(requests))]
    ids = [response.id for response in responses]
    expect_equal(sorted(ids), sorted(request.id for request in requests), "ids")
    for response in responses:
        came = outputs_of(response)
        number = int(response.id[2:])
        model.check_same(expected[number % 8], came, f"answer {response.id}")
        model.check_mirrors(arrays[number % 8], came)


@model_check("stream", "a wrong request is answered in the stream and does not end it", _SOURCE)
def errors_do_not_end_it(suite: Any, model: Model) -> None:
    wrong_model = model.valid_request(request_id="wrong-model")
    wrong_model.model_name = "no-such-model"
    wrong_input = model.valid_request(request_id="wrong-input")
    wrong_input.inputs[0].name = "no-such-input"
    requests = [
        model.valid_request(request_id="first"),
        wrong_model,
        wrong_input,
        model.valid_request(request_id="last"),
    ]
    answers = list(suite.target.answers(suite.target.stream(requests)))
    expect_equal(len(answers), len(requests), "answers")
    failed = [answer for answer in answers if answer.error_message]
    expect_equal(len(failed), 2, "answers with an error_message")
    for answer in failed:
        expect(not answer.infer_response.outputs, "no outputs beside an error", answer)
        expect(answer.infer_response.id in ("", "wrong-model", "wrong-input"), "the id, or none", answer)
    expect_equal({a.infer_response.id for a in answers if not a.error_message}, {"first", "last"}, "ids of answers")


@model_check("stream", "an answer comes while the stream is still open for requests", _SOURCE)
def answers_at_once(suite: Any, model: Model) -> None:
    waiting: queue.SimpleQueue[pb.ModelInferRequest | None] = queue.SimpleQueue()
    stream = suite.target.stream(iter(waiting.get, None))
    answers = suite.target.answers(stream)
    try:
        for number in range(3):
            waiting.put(model.valid_request(request_id=str(number)))
            answer = next(answers, None)
            if answer is None:
                raise CheckFailed(f"expected an answer to request {number}, got the end of the stream")
            expect_equal(_answered(answer).id, str(number), "id")
    finally:
        waiting.put(None)
    expect_equal(list(answers), [], "answers after the last request")


@server_check("stream", "a stream without requests ends with OK", _SOURCE)
def empty(suite: Any) -> None:
    expect_equal(list(suite.target.answers(suite.target.stream([]))), [], "answers")
