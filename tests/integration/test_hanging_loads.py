"""A loading that does not end, for real: a graph that loops for years when it is tried."""

from __future__ import annotations

import signal
from pathlib import Path

import grpc
import numpy as np

from service.pb.inference import grpc_service_pb2 as pb
from tests.integration import graphs
from tests.integration.harness import ADD_SUB, DEADLINE_SECONDS, ServerProcess, eventually, failure, infer_request

FLAGS = ("--lame-duck-seconds", "0", "--lone-threads", "1", "--drain-seconds", "5")


def load(server: ServerProcess, name: str) -> grpc.Future:
    request = pb.RepositoryModelLoadRequest(model_name=name)
    return server.client.inference.RepositoryModelLoad.future(request, timeout=DEADLINE_SECONDS)  # type: ignore[no-any-return]


def states(server: ServerProcess) -> dict[str, str]:
    answer = server.client.inference.RepositoryIndex(pb.RepositoryIndexRequest(), timeout=DEADLINE_SECONDS)
    return {f"{entry.name}/{entry.version}": entry.state for entry in answer.models}


def test_a_call_is_told_and_the_next_one_loads(tmp_path: Path, transport: str):
    for name in ("add-sub", "endless", "other"):
        graphs.write(tmp_path, name, graphs.endless() if name == "endless" else graphs.add_sub())
    flags = ("--model-control-mode", "explicit", "--load-models", "add-sub", "--load-timeout-seconds", "3")
    with ServerProcess(tmp_path, transport, *FLAGS, *flags) as server:
        told = failure(load(server, "endless").result)
        assert (told.code, told.message) == (
            grpc.StatusCode.FAILED_PRECONDITION,
            "model 'endless' version 1: loading did not end in time",
        )
        load(server, "other").result()
        assert states(server) == {"add-sub/1": "READY", "endless/1": "UNAVAILABLE", "other/1": "READY"}
        assert server.metric("convserve_model_change_failed", model="endless") == 1
        assert server.client.infer(ADD_SUB).model_name == "add-sub"
        server.signal(signal.SIGTERM)
        assert server.wait_exit() == 0


def test_the_repository_is_followed_past_it_and_the_old_version_goes_on(tmp_path: Path, transport: str):
    graphs.write(tmp_path, "add-sub", graphs.add_sub())
    flags = ("--model-control-mode", "poll", "--repository-poll-seconds", "0.1", "--load-timeout-seconds", "3")
    with ServerProcess(tmp_path, transport, *FLAGS, *flags) as server:
        graphs.write(tmp_path, "add-sub", graphs.endless(), version=2)
        eventually(lambda: states(server).get("add-sub/2") == "UNAVAILABLE", "it is given up")
        graphs.write(tmp_path, "other", graphs.add_sub())
        eventually(lambda: states(server).get("other/1") == "READY", "another is followed")
        assert server.client.infer(ADD_SUB).model_version == "1"
        assert server.get("/readyz") == (200, "ready\n")


def test_calls_that_wait_for_it_leave_the_index_to_others(tmp_path: Path, transport: str):
    for name in ("add-sub", "endless"):
        graphs.write(tmp_path, name, graphs.GRAPHS.get(name, graphs.endless)())
    flags = ("--model-control-mode", "explicit", "--load-models", "add-sub")
    with ServerProcess(tmp_path, transport, *FLAGS, *flags) as server:
        waiting = [load(server, "endless") for _ in range(40)]
        eventually(lambda: server.metric("convserve_model_state", model="endless", state="LOADING"), "it is loaded")
        assert [states(server) for _ in range(5)] == [{"add-sub/1": "READY", "endless/1": "LOADING"}] * 5
        server.signal(signal.SIGTERM)
        assert server.wait_exit() == 0
        codes = {failure(call.result).code for call in waiting}
        assert codes <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}


def test_a_batch_that_hangs_is_given_up_although_others_are_still_loaded(tmp_path: Path, transport: str):
    graphs.write(tmp_path, "loop", graphs.loop())
    graphs.write(tmp_path, "then-endless", graphs.endless())
    with ServerProcess(tmp_path, transport, *FLAGS, "--run-timeout-seconds", "1", wait_ready=False) as server:
        server.client.wait_ready("loop")
        for_hours = infer_request("loop", {"iterations": np.array([[2**40]])})
        told = failure(server.client.infer, for_hours)
        assert (told.code, told.message.split(" (")[0]) == (
            grpc.StatusCode.INTERNAL,
            "the batch did not end in time",
        )
        assert states(server)["then-endless/1"] == "LOADING"
        server.signal(signal.SIGTERM)
        assert server.wait_exit() == 0
