"""A batch that has the cores to itself runs on all of them, with the answers that the instances give."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from service.pb.inference import grpc_service_pb2 as pb
from tests.integration.harness import MODELS, ServerProcess, arrays_of, infer_request

MODEL = "resnet20-cifar10"
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
PICTURES = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)

pytestmark = pytest.mark.skipif(CORES < 2, reason="one core alone is no more than an instance has")


def ask(server: ServerProcess, pictures: np.ndarray = PICTURES) -> pb.ModelInferResponse:
    request = infer_request(MODEL, {"images": pictures})
    request.parameters["explain"].bool_param = True
    return server.client.infer(request)


def ran_alone(response: pb.ModelInferResponse) -> bool:
    return response.parameters["lone"].bool_param


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One model, which is known to be twice as quick with all cores, whatever this machine's minute says."""
    root = tmp_path_factory.mktemp("repository")
    shutil.copytree(MODELS / MODEL, root / MODEL, ignore=shutil.ignore_patterns("cost.json"))
    with ServerProcess(root, "grpcio", "--lone-threads", "1"):
        pass
    table = root / MODEL / "1" / "cost.json"
    costs = json.loads(table.read_text())
    (entry,) = costs["entries"]
    layout = entry["layouts"][0]
    cells = [cell | {"seconds": [s / 2 for s in cell["seconds"]]} for cell in layout["costs"]]
    entry["lone"] = [layout | {"instances": 1}, {"instances": 1, "threads": CORES, "costs": cells}]
    table.write_text(json.dumps(costs))
    return root


@pytest.fixture(scope="module")
def server(repository: Path, transport: str) -> Iterator[ServerProcess]:
    with ServerProcess(repository, transport) as running:
        opened = running.wait_log("batches that run alone use more threads")
        assert (opened["model"], opened["threads"]) == (MODEL, CORES)
        yield running


def test_it_gives_the_same_answers_and_says_so(repository: Path, server: ServerProcess, transport: str):
    with ServerProcess(repository, transport, "--lone-threads", "1") as other:
        usual = ask(other)
        assert not ran_alone(usual)
    lone = ask(server)
    assert ran_alone(lone)
    np.testing.assert_allclose(arrays_of(lone)["probabilities"], arrays_of(usual)["probabilities"], atol=1e-5)


def test_callers_at_once_get_their_own_rows_wherever_they_run(server: ServerProcess):
    expected = arrays_of(ask(server))["probabilities"]
    infer = server.client.inference.ModelInfer
    calls = []
    for number in range(200):
        request = infer_request(MODEL, {"images": PICTURES[number % 5 :][:1]})
        request.parameters["explain"].bool_param = True
        calls.append(infer.future(request))
        if number % 7 == 0:
            calls[-1].result()  # so that some come alone
    alone = 0
    for number, call in enumerate(calls):
        answer = call.result()
        alone += ran_alone(answer)
        np.testing.assert_allclose(arrays_of(answer)["probabilities"], expected[number % 5 :][:1], atol=1e-5)
    assert 0 < alone < len(calls)
