"""Index, load and unload by call, versions that come and go on disk, and nothing lost meanwhile."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2

from service.backend.onnx import OnnxBackend
from service.pb.inference import grpc_service_pb2 as pb
from tests.integration import graphs
from tests.integration.conftest import Embed
from tests.integration.harness import (
    ADD_SUB,
    DEADLINE_SECONDS,
    ServerProcess,
    arrays_of,
    eventually,
    failure,
    infer_request,
)
from tests.integration.threads import of_each_thread

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SOAK_SECONDS = float(os.environ.get("TEST_CONVSERVE_SOAK_SECONDS", "0"))
ONES = np.ones((1, 4), dtype=np.float32)


def publish(root: Path, name: str, version: int, model: Any) -> None:
    """Publish as the exporter does: write aside, rename."""
    aside = root / ".aside"
    graphs.write(aside, name, model, version=version)
    (root / name).mkdir(exist_ok=True)
    (aside / name / str(version)).rename(root / name / str(version))
    shutil.rmtree(aside)


@pytest.fixture
def explicit(tmp_path: Path, transport: str) -> Iterator[ServerProcess]:
    for name in ("a", "b"):
        publish(tmp_path, name, 1, graphs.add_sub())
    with ServerProcess(tmp_path, transport, "--model-control-mode", "explicit") as running:
        yield running


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory, transport: str) -> Iterator[ServerProcess]:
    root = tmp_path_factory.mktemp("kept")
    publish(root, "a", 1, graphs.add_sub())
    with ServerProcess(root, transport, "--model-control-mode", "explicit") as running:
        yield running


@pytest.fixture
def unloaded(kept: ServerProcess) -> ServerProcess:
    """A server whose files are left as they are, with nothing loaded."""
    unload(kept, "a")
    return kept


def load(server: ServerProcess, name: str, **fields: Any) -> Any:
    request = pb.RepositoryModelLoadRequest(model_name=name, **fields)
    return server.client.inference.RepositoryModelLoad(request, timeout=DEADLINE_SECONDS)


def unload(server: ServerProcess, name: str) -> Any:
    request = pb.RepositoryModelUnloadRequest(model_name=name)
    request.parameters["unload_dependents"].bool_param = True
    return server.client.inference.RepositoryModelUnload(request, timeout=DEADLINE_SECONDS)


def index(server: ServerProcess, **fields: Any) -> dict[str, tuple[str, str]]:
    answer = server.client.inference.RepositoryIndex(pb.RepositoryIndexRequest(**fields), timeout=DEADLINE_SECONDS)
    return {f"{entry.name}/{entry.version}": (entry.state, entry.reason) for entry in answer.models}


def health(server: ServerProcess, name: str) -> int:
    return server.client.health.Check(health_pb2.HealthCheckRequest(service=name), timeout=DEADLINE_SECONDS).status


def test_models_come_and_go_by_call(explicit: ServerProcess):
    assert {state for state, _ in index(explicit).values()} == {"UNAVAILABLE"}
    early = failure(explicit.client.infer, infer_request("a", {"a": ONES, "b": ONES}))
    assert (early.code, early.message) == (
        grpc.StatusCode.UNAVAILABLE,
        "model 'a' version 1 is UNAVAILABLE: it is not loaded",
    )
    load(explicit, "a")
    assert index(explicit)["a/1"] == ("READY", "")
    assert index(explicit, ready=True).keys() == {"a/1"}
    assert health(explicit, "a") == SERVING
    assert arrays_of(explicit.client.infer(infer_request("a", {"a": ONES, "b": ONES})))["sum"][0, 0] == 2
    unload(explicit, "a")
    assert index(explicit)["a/1"][0] == "UNAVAILABLE"
    assert health(explicit, "a") == NOT_SERVING
    gone = failure(explicit.client.infer, infer_request("a", {"a": ONES, "b": ONES}))
    assert (gone.code, gone.message) == (
        grpc.StatusCode.UNAVAILABLE,
        "model 'a' version 1 is UNAVAILABLE: it was unloaded",
    )
    ready = explicit.client.inference.ServerReady(pb.ServerReadyRequest(), timeout=DEADLINE_SECONDS)
    assert ready.ready, "unloading on purpose leaves the server ready"
    load(explicit, "a")
    assert arrays_of(explicit.client.infer(infer_request("a", {"a": ONES, "b": ONES})))["sum"][0, 0] == 2


def test_the_series_of_what_was_unloaded_do_not_come_back(unloaded: ServerProcess):
    load(unloaded, "a")
    for _ in range(3):
        unloaded.client.infer(infer_request("a", {"a": ONES, "b": ONES}))
    unload(unloaded, "a")
    failure(unloaded.client.infer, infer_request("a", {"a": ONES, "b": ONES}))
    for _ in range(2):  # what was pending at the first scrape would show at the second
        _, text = unloaded.get("/metrics")
    assert not [line for line in text.splitlines() if 'model="a"' in line and 'version="1"' in line]


def test_a_batch_that_hangs_while_its_model_is_unloaded_is_given_up(tmp_path: Path, transport: str):
    publish(tmp_path, "loop", 1, graphs.GRAPHS["loop"]())
    flags = ("--model-control-mode", "explicit", "--load-models", "loop", "--drain-seconds", "1")
    with ServerProcess(tmp_path, transport, *flags) as server:
        for_hours = infer_request("loop", {"iterations": np.array([[2**40]])})
        hanging = server.client.inference.ModelInfer.future(for_hours)
        eventually(lambda: server.metric("convserve_inflight_requests") == 1, "it runs")
        unload(server, "loop")
        told = failure(hanging.result)
        assert (told.code, told.message.partition(" (")[0]) == (
            grpc.StatusCode.INTERNAL,
            "the batch did not end in time",
        )
        eventually(lambda: server.metric("convserve_inflight_requests") == 0, "nothing is in flight")
        server.signal(signal.SIGTERM)
        assert server.wait_exit() == 0


def test_a_load_that_fails_says_why_without_a_path(explicit: ServerProcess, tmp_path: Path):
    load(explicit, "a")
    (tmp_path / "b" / "1" / "model.onnx").write_bytes(b"not a graph")
    told = failure(load, explicit, "b")
    assert told.code is grpc.StatusCode.FAILED_PRECONDITION
    assert told.message.startswith("model 'b' version 1: its model file is damaged")
    assert index(explicit)["b/1"][0] == "UNAVAILABLE"
    assert arrays_of(explicit.client.infer(infer_request("a", {"a": ONES, "b": ONES})))["sum"][0, 0] == 2


def test_what_is_passed_over_is_named_once(tmp_path: Path, transport: str):
    publish(tmp_path, "a", 1, graphs.add_sub())
    (tmp_path / "a" / "config.pbtxt").touch()
    flags = ("--model-control-mode", "poll", "--repository-poll-seconds", "0.1")
    with ServerProcess(tmp_path, transport, *flags) as running:
        (tmp_path / "b" / "1").mkdir(parents=True)
        eventually(lambda: len(running.logged("ignored in the model")) >= 2, "both are named")
        for name in ("c", "d"):  # it looks again at least once between them
            publish(tmp_path, name, 1, graphs.add_sub())
            running.client.wait_ready(name)
        places = [
            entry["place"] for entry in running.logged("ignored in the model") if entry["place"] not in ("c", "d")
        ]
        assert places == ["a/config.pbtxt", "b/1"]


@pytest.mark.parametrize("name", ["", "nothing", "../a", "a/1", "/etc", ".", ".."])
def test_names_that_are_no_model_are_not_found(unloaded: ServerProcess, name: str):
    assert failure(load, unloaded, name).code is grpc.StatusCode.NOT_FOUND
    assert failure(unload, unloaded, name).code is grpc.StatusCode.NOT_FOUND


def test_models_do_not_come_over_the_wire(unloaded: ServerProcess):
    for key in ("config", "file:1/model.onnx"):
        told = failure(load, unloaded, "a", parameters={key: pb.ModelRepositoryParameter(bytes_param=b"x")})
        assert told.code is grpc.StatusCode.UNIMPLEMENTED
    assert failure(load, unloaded, "a", repository_name="other").code is grpc.StatusCode.NOT_FOUND


def test_the_field_in_which_kserve_names_the_model_is_told(explicit: ServerProcess):
    """KServe's contract has ``model_name`` where Triton's has ``repository_name``."""
    stub = explicit.client.inference
    for call, request in (
        (stub.RepositoryModelLoad, pb.RepositoryModelLoadRequest(repository_name="a")),
        (stub.RepositoryModelUnload, pb.RepositoryModelUnloadRequest(repository_name="a")),
    ):
        told = failure(call, request)
        assert told.code is grpc.StatusCode.INVALID_ARGUMENT
        assert "expected model_name (field 2), got only repository_name (field 1) 'a'" in told.message


def test_without_the_mode_nobody_loads(server: ServerProcess):
    for change in (load, unload):
        told = failure(change, server, "add-sub")
        assert told.code is grpc.StatusCode.FAILED_PRECONDITION
        assert "--model-control-mode explicit" in told.message
    assert index(server)["add-sub/1"] == ("READY", "")


class Callers:
    """Threads that call without a pause and keep every answer and every failure."""

    def __init__(self, server: ServerProcess, threads: int = 4) -> None:
        self.sums: list[tuple[str, float]] = []
        self.failures: list[str] = []
        self._over = threading.Event()
        self._server = server
        self._threads = [threading.Thread(target=self._call) for _ in range(threads)]

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(DEADLINE_SECONDS)

    def _call(self) -> None:
        while not self._over.is_set():
            try:
                answer = self._server.client.infer(infer_request("a", {"a": ONES, "b": ONES}))
            except grpc.RpcError as error:
                self.failures.append(f"{error.code()}: {error.details()}")  # type: ignore[attr-defined]
            else:
                self.sums.append((answer.model_version, float(arrays_of(answer)["sum"][0, 0])))


def wait_version(server: ServerProcess, version: int) -> None:
    def serves() -> bool:
        answer = server.client.infer(infer_request("a", {"a": ONES, "b": ONES}))
        return bool(answer.model_version == str(version))

    eventually(serves, f"version {version} serves")


def test_replacing_versions_under_load_loses_and_mixes_nothing(tmp_path: Path, transport: str):
    """Each version adds its own number, so an answer of a half-loaded or another model would show.

    ``TEST_CONVSERVE_SOAK_SECONDS=60`` replaces a version every two seconds for a minute.
    """
    newest = 7 if not SOAK_SECONDS else 1 + int(SOAK_SECONDS / 2)
    began = time.monotonic()
    publish(tmp_path, "a", 1, graphs.add_sub(offset=100))
    flags = ("--model-control-mode", "poll", "--repository-poll-seconds", "0.1")
    with ServerProcess(tmp_path, transport, *flags) as server, Callers(server) as callers:
        for version in range(2, newest + 1):
            threading.Event().wait(2.0 if SOAK_SECONDS else 0)
            publish(tmp_path, "a", version, graphs.add_sub(offset=100.0 * version))
            wait_version(server, version)
            shutil.rmtree(tmp_path / "a" / str(version - 1))
        eventually(lambda: index(server).keys() == {f"a/{newest}"}, "the old versions are forgotten")
    print(
        f"{len(callers.sums)} calls, {len(callers.sums) / (time.monotonic() - began):.0f}/s, {newest - 1} replacements"
    )
    assert callers.failures == []
    assert {version for version, _ in callers.sums} >= {"1", str(newest)}
    assert all(total == 100 * int(version) + 2 for version, total in callers.sums)


def test_reloading_by_call_under_load_loses_nothing(explicit: ServerProcess, tmp_path: Path):
    load(explicit, "a")
    with Callers(explicit) as callers:
        for number in range(5):
            publish(tmp_path, "b", number + 2, graphs.add_sub())
            load(explicit, "b")
            # The same version, changed on disk, is swapped under its number.
            changed = graphs.add_sub(offset=float(number)).SerializeToString()
            (tmp_path / "a" / "1" / "model.onnx").write_bytes(changed)
            load(explicit, "a")
    assert callers.failures == []
    assert callers.sums
    assert {version for version, _ in callers.sums} == {"1"}


def test_a_new_version_that_fails_leaves_the_old_one_serving(tmp_path: Path, transport: str):
    publish(tmp_path, "a", 1, graphs.add_sub())
    flags = ("--model-control-mode", "poll", "--repository-poll-seconds", "0.1")
    with ServerProcess(tmp_path, transport, *flags) as server:
        broken = tmp_path / "a" / "2"
        broken.mkdir()
        (broken / "model.onnx").write_bytes(b"not a graph")
        eventually(lambda: "damaged" in index(server).get("a/2", ("", ""))[1], "the new version failed")
        assert index(server)["a/1"] == ("READY", "")
        wait_version(server, 1)
        assert health(server, "a") == SERVING
        assert server.get("/readyz")[0] == 200
        assert server.metric("convserve_model_state", model="a", version="2", state="UNAVAILABLE") == 1
        assert server.logged("model version is UNAVAILABLE")


def test_a_repository_that_vanishes_changes_nothing(tmp_path: Path, transport: str):
    root = tmp_path / "models"
    root.mkdir()
    publish(root, "a", 1, graphs.add_sub())
    flags = ("--model-control-mode", "poll", "--repository-poll-seconds", "0.1")
    with ServerProcess(root, transport, *flags) as server:
        root.rename(tmp_path / "elsewhere")
        eventually(lambda: server.logged("the model repository cannot be read"), "the loss was noticed")
        wait_version(server, 1)
        assert index(server)["a/1"] == ("READY", "")


def test_a_model_that_cannot_be_read_goes_on_and_the_others_are_followed(tmp_path: Path, transport: str):
    for name in ("a", "b", "c"):
        publish(tmp_path, name, 1, graphs.add_sub())
    (tmp_path / "c").rename(tmp_path / ".c")
    (tmp_path / "c").symlink_to("nowhere")
    flags = ("--model-control-mode", "poll", "--repository-poll-seconds", "0.1")
    with ServerProcess(tmp_path, transport, *flags, wait_ready=False) as server:
        eventually(lambda: index(server).get("b/1") == ("READY", ""), "those that can be read are loaded")
        assert index(server)["c/0"] == ("UNAVAILABLE", "its folder cannot be read")
        assert server.get("/readyz")[0] == 503
        (tmp_path / "c").unlink()
        (tmp_path / ".c").rename(tmp_path / "c")
        eventually(lambda: server.get("/readyz")[0] == 200, "it can be read")
        (tmp_path / "a").rename(tmp_path / ".a")
        (tmp_path / "a").symlink_to("a")
        publish(tmp_path, "b", 2, graphs.add_sub())
        eventually(lambda: index(server).get("b/2") == ("READY", ""), "the others are followed")
        wait_version(server, 1)
        assert index(server)["a/1"] == ("READY", "")
        assert server.get("/readyz")[0] == 200
        assert server.metric("convserve_model_change_failed", model="a") == 1
        (tmp_path / "a").unlink()
        (tmp_path / ".a").rename(tmp_path / "a")
        eventually(lambda: server.metric("convserve_model_change_failed", model="a") == 0, "it can be read again")


def test_watchers_hear_of_unloading_and_loading(unloaded: ServerProcess):
    load(unloaded, "a")
    watch = unloaded.client.health.Watch(health_pb2.HealthCheckRequest(service="a"), timeout=DEADLINE_SECONDS)
    heard: Callable[[], int] = lambda: next(watch).status  # noqa: E731
    assert heard() == SERVING
    unload(unloaded, "a")
    assert heard() == NOT_SERVING
    load(unloaded, "a")
    assert heard() == SERVING
    watch.cancel()


def test_log_settings_change_what_is_logged(unloaded: ServerProcess):
    def settings(**wanted: Any) -> dict[str, Any]:
        request = pb.LogSettingsRequest()
        for name, value in wanted.items():
            if isinstance(value, bool):
                request.settings[name].bool_param = value
            elif isinstance(value, int):
                request.settings[name].uint32_param = value
            else:
                request.settings[name].string_param = value
        answer = unloaded.client.inference.LogSettings(request, timeout=DEADLINE_SECONDS)
        return {
            name: getattr(value, str(value.WhichOneof("parameter_choice"))) for name, value in answer.settings.items()
        }

    assert settings() == {"log_info": True, "log_warning": True, "log_error": True, "log_verbose_level": 0}
    assert settings(log_info=False)["log_info"] is False
    before = len(unloaded.logged("model version is READY"))
    load(unloaded, "a")
    assert len(unloaded.logged("model version is READY")) == before
    assert settings(log_info=True, log_verbose_level=1)["log_verbose_level"] == 1
    assert settings(log_verbose_level=0) == settings()
    for wrong in ({"log_file": "/tmp/x"}, {"log_info": 1}, {"nonsense": True}):
        assert failure(settings, **wrong).code is grpc.StatusCode.INVALID_ARGUMENT
    assert settings()["log_info"] is True, "all or nothing"


def test_nothing_keeps_the_weights_of_what_was_unloaded(embed: Embed):
    """After a call that was parsed and calls like it, which were not."""

    def backends() -> list[Any]:
        gc.collect()
        return [kept for kept in gc.get_objects() if type(kept) is OnnxBackend]

    others = backends()  # kept, so that none goes meanwhile
    with embed(model_control_mode="explicit", load_models="add-sub", lone_threads=1) as running:
        for _ in range(3):
            running.client.infer(ADD_SUB)
        assert len(backends()) == len(others) + 1
        running.client.inference.RepositoryModelUnload(
            pb.RepositoryModelUnloadRequest(model_name="add-sub"), timeout=DEADLINE_SECONDS
        )
        eventually(lambda: len(backends()) == len(others), "the session is gone")


def test_trace_settings_are_not_here_and_the_answer_says_where_they_are(unloaded: ServerProcess):
    told = failure(unloaded.client.inference.TraceSetting, pb.TraceSettingRequest(), timeout=DEADLINE_SECONDS)
    assert told.code is grpc.StatusCode.UNIMPLEMENTED
    assert "--otlp-endpoint" in told.message
    assert told.info is not None
    assert told.info.reason == "UNIMPLEMENTED"


@pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="the system has no such policy")
def test_instances_of_a_model_that_a_call_loaded_wait_for_their_turn_as_others_do(unloaded: ServerProcess):
    def policies() -> dict[int, int]:
        return of_each_thread(unloaded.process.pid, os.sched_getscheduler)

    before = policies()
    if os.SCHED_BATCH not in before.values():
        pytest.skip("the system forbids it")
    load(unloaded, "a")
    later = {thread: policy for thread, policy in policies().items() if thread not in before}
    assert later
    assert set(later.values()) == {os.SCHED_BATCH}
