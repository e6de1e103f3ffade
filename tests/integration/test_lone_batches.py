"""A batch that has the cores to itself runs on all of them, with the answers that the instances give."""

from __future__ import annotations

import json
import os
import shutil
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


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """One model, which is known to be twice as quick with all cores, whatever this machine's minute says."""
    shutil.copytree(MODELS / MODEL, tmp_path / MODEL, ignore=shutil.ignore_patterns("cost.json"))
    with ServerProcess(tmp_path, "grpcio", "--lone-threads", "1"):
        pass
    table = tmp_path / MODEL / "1" / "cost.json"
    costs = json.loads(table.read_text())
    (entry,) = costs["entries"]
    layout = entry["layouts"][0]
    cells = [cell | {"seconds": [s / 2 for s in cell["seconds"]]} for cell in layout["costs"]]
    entry["lone"] = [layout | {"instances": 1}, {"instances": 1, "threads": CORES, "costs": cells}]
    table.write_text(json.dumps(costs))
    return tmp_path


def test_it_gives_the_same_answers_and_says_so(repository: Path, transport: str):
    with ServerProcess(repository, transport, "--lone-threads", "1") as server:
        usual = ask(server)
        assert not ran_alone(usual)
    with ServerProcess(repository, transport) as server:
        opened = server.wait_log("batches that run alone use more threads")
        assert (opened["model"], opened["threads"]) == (MODEL, CORES)
        lone = ask(server)
        assert ran_alone(lone)
        np.testing.assert_allclose(arrays_of(lone)["probabilities"], arrays_of(usual)["probabilities"], atol=1e-5)


def test_callers_at_once_get_their_own_rows_wherever_they_run(repository: Path, transport: str):
    with ServerProcess(repository, transport) as server:
        server.wait_log("batches that run alone use more threads")
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
