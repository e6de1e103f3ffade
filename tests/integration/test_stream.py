"""ModelStreamInfer: many requests in flight, answers by id, errors that do not end the stream."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest

from service.golden import read_golden
from service.pb.inference import grpc_service_pb2 as pb
from tests.integration.harness import (
    DEADLINE_SECONDS,
    MODELS,
    ServerProcess,
    arrays_of,
    eventually,
    infer_request,
)


def request(value: float, identity: str) -> pb.ModelInferRequest:
    array = np.full((1, 4), value, dtype=np.float32)
    message = infer_request("add-sub", {"a": array, "b": array})
    message.model_version = "1"
    message.id = identity
    return message


def test_each_answer_carries_its_own_id_and_rows(server: ServerProcess):
    count = 2000
    messages = [request(number, f"r{number}") for number in range(count)]
    answers = list(server.client.inference.ModelStreamInfer(iter(messages), timeout=DEADLINE_SECONDS))
    assert [answer.error_message for answer in answers] == [""] * count
    by_id = {answer.infer_response.id: answer.infer_response for answer in answers}
    assert len(by_id) == count
    for number in range(count):
        assert arrays_of(by_id[f"r{number}"])["sum"][0, 0] == 2 * number
    assert answers[0].infer_response.parameters["triton_final_response"].bool_param


def test_an_error_is_an_answer_and_the_stream_goes_on(server: ServerProcess):
    wrong_shape = request(1, "wrong-shape")
    wrong_shape.inputs[0].shape[1] = 5
    unknown = infer_request("no-such-model", {"a": np.zeros((1, 4), np.float32)})
    unknown.id = "unknown"
    messages = [request(1, "one"), wrong_shape, unknown, request(2, "two")]
    answers = list(server.client.inference.ModelStreamInfer(iter(messages), timeout=DEADLINE_SECONDS))
    errors = {answer.infer_response.id: answer.error_message for answer in answers}
    assert errors.keys() == {"one", "wrong-shape", "unknown", "two"}
    assert errors["one"] == errors["two"] == ""
    assert errors["wrong-shape"].startswith("INVALID_ARGUMENT: input 'a'")
    assert errors["unknown"] == "NOT_FOUND: no model 'no-such-model'"


def test_answers_come_while_the_stream_is_open(server: ServerProcess):
    """A caller may wait for an answer before sending the next request."""
    outbox: queue.Queue[pb.ModelInferRequest | None] = queue.Queue()

    def requests() -> Iterator[pb.ModelInferRequest]:
        while (message := outbox.get(timeout=DEADLINE_SECONDS)) is not None:
            yield message

    call = server.client.inference.ModelStreamInfer(requests(), timeout=DEADLINE_SECONDS)
    for number in range(5):
        outbox.put(request(number, str(number)))
        assert next(call).infer_response.id == str(number)
    outbox.put(None)
    assert list(call) == []


def test_pictures_and_sentences_stream_too(server: ServerProcess):
    golden = read_golden(MODELS / "textcnn-mr" / "1" / "golden.npz")
    messages = []
    for number, sentence in enumerate(golden.raw):
        messages.append(infer_request("textcnn-mr", {"ids": [sentence]}))
        messages[-1].id = str(number)
    for answer in server.client.inference.ModelStreamInfer(iter(messages), timeout=DEADLINE_SECONDS):
        expected = golden.outputs[0][int(answer.infer_response.id)]
        np.testing.assert_allclose(arrays_of(answer.infer_response)["probabilities"][0], expected, atol=1e-5)


def test_an_empty_stream_ends(server: ServerProcess):
    assert list(server.client.inference.ModelStreamInfer(iter(()), timeout=DEADLINE_SECONDS)) == []


def test_a_caller_who_leaves_takes_the_requests_along(server: ServerProcess, loop_iterations: int):
    """What waits leaves the queue, what runs is dropped, nothing stays in flight."""
    message = infer_request("loop", {"iterations": np.array([[3 * loop_iterations]])})
    endless: queue.Queue[Any] = queue.Queue()
    for _ in range(50):
        endless.put(message)
    call = server.client.inference.ModelStreamInfer(iter(endless.get, None), timeout=DEADLINE_SECONDS)
    eventually(lambda: server.metric("convserve_inflight_requests") >= 50, "all are in flight")
    call.cancel()
    with pytest.raises(grpc.RpcError):
        list(call)
    endless.put(None)
    eventually(lambda: server.metric("convserve_inflight_requests") == 0, "nothing is in flight")
