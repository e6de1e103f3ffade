"""A caller who waits for each answer is served by the thread that takes its calls in; whoever else calls, as ever."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from service.pb.convserve.classification.v1 import classification_pb2
from service.pb.inference import grpc_service_pb2 as pb
from tests.integration import samples
from tests.integration.harness import MODELS, ServerProcess, arrays_of, eventually, infer_request

GOLDEN = np.load(MODELS / "lenet5-mnist" / "1" / "golden.npz")
FLAGS = ("--model-control-mode", "explicit", "--load-models", "lenet5-mnist", "--instances", "1", "--device", "cpu")
INLINE = 1  # one more than there are


@pytest.fixture(scope="module")
def server():
    with ServerProcess(MODELS, "native", *FLAGS) as running:
        yield running


def ask(server: ServerProcess, row: int) -> pb.ModelInferResponse:
    request = infer_request("lenet5-mnist", {"images": GOLDEN["input_0"][row : row + 1]})
    request.parameters["explain"].bool_param = True
    response = server.client.infer(request)
    assert arrays_of(response)["probabilities"][0].argmax() == GOLDEN["output_0"][row].argmax()
    return response


def ran_inline(server: ServerProcess) -> bool:
    return ask(server, 0).parameters["instance"].string_param == str(INLINE)


def test_tensors(server: ServerProcess):
    eventually(lambda: ran_inline(server), "the thread that took the call in ran it")


def test_pictures(server: ServerProcess):
    asked = classification_pb2.ClassifyImagesRequest(
        model_name="lenet5-mnist", images=[samples.encode(samples.digit_one())], top_k=1, explain=True
    )

    def ran_inline() -> bool:
        response = server.client.classification.ClassifyImages(asked)
        assert response.results[0].classification.scored_labels[0].label == "1"
        return response.explanation.instance == str(INLINE)

    eventually(ran_inline, "the thread that took the call in decoded and ran it")


def test_several_callers_after_one(server: ServerProcess):
    eventually(lambda: ran_inline(server), "one caller")
    with ThreadPoolExecutor(16) as callers:
        instances = {
            response.parameters["instance"].string_param
            for response in callers.map(lambda row: ask(server, row % len(GOLDEN["input_0"])), range(400))
        }
    assert "0" in instances, "the instance's thread has its share"
    eventually(lambda: ran_inline(server), "one caller again")


def test_a_bare_graph(tmp_path: Path):
    """Nothing was proven of it, but its shape has run before."""
    folder = tmp_path / "bare" / "1"
    folder.mkdir(parents=True)
    shutil.copy(MODELS / "lenet5-mnist" / "1" / "model.onnx", folder)
    with ServerProcess(tmp_path, "native", "--instances", "1", "--device", "cpu") as server:
        request = infer_request("bare", {"images": GOLDEN["input_0"][:1]})
        request.parameters["explain"].bool_param = True
        seen = [server.client.infer(request).parameters["instance"].string_param]
        eventually(lambda: server.client.infer(request).parameters["instance"].string_param == str(INLINE), "inline")
    assert seen == ["0"]
