"""deploy/envoy/envoy.yaml in a real Envoy before real servers: nothing is lost when one dies or is rolled."""

from __future__ import annotations

import json
import re
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc

from service.pb.inference import grpc_service_pb2 as pb
from service.pb.inference import grpc_service_pb2_grpc as rpc
from tests.deploy.conftest import DEPLOY, check, free_ports, program, running
from tests.integration.endless import begin, send, send_endlessly
from tests.integration.harness import (
    ADD_SUB,
    DEADLINE_SECONDS,
    TRANSPORTS,
    Client,
    ServerProcess,
    arrays_of,
    eventually,
    failure,
    http_get,
    infer_request,
)

pytestmark = pytest.mark.deploy

CONFIG = DEPLOY / "envoy" / "envoy.yaml"
MAX_REQUEST_BYTES = 16 * 2**20
CALLERS = 12
# An idle instance waits for company, so that a server that dies always has calls in flight.
FLAGS = ("--device", "cpu", "--instances", "1", "--max-queue-delay-seconds", "0.02", "--lame-duck-seconds", "2.5")


class Envoy:
    """A running Envoy."""

    def __init__(self, port: int, admin_port: int, pid: int) -> None:
        self.port = port
        self.pid = pid
        self._admin_port = admin_port

    def stat(self, name: str) -> int:
        body = http_get(self._admin_port, f"/stats?format=json&filter=^cluster.convserve.{name}$")[1]
        return int(sum(entry["value"] for entry in json.loads(body)["stats"]))

    def wait_healthy(self, count: int) -> None:
        eventually(lambda: self.stat("membership_healthy") == count, f"Envoy sees {count} healthy servers")


@contextmanager
def envoy(servers: list[int], folder: Path) -> Iterator[Envoy]:
    """Run Envoy with the configuration as it stands but for addresses."""
    binary = program("envoy")
    config = yaml.safe_load(CONFIG.read_text())
    port, admin_port = free_ports(2)
    config["admin"]["address"]["socket_address"]["port_value"] = admin_port
    listener, cluster = config["static_resources"]["listeners"][0], config["static_resources"]["clusters"][0]
    listener["address"]["socket_address"] = {"address": "127.0.0.1", "port_value": port}
    cluster["type"] = "STATIC"
    cluster["load_assignment"]["endpoints"][0]["lb_endpoints"] = [
        {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": server}}}}
        for server in servers
    ]
    path = folder / "envoy.yaml"
    path.write_text(yaml.safe_dump(config))
    with (folder / "envoy.log").open("wb") as log:
        command = (binary, "-c", path, "--concurrency", "1", "--log-level", "warning", "--use-dynamic-base-id")
        with running(command, log) as process:
            proxy = Envoy(port, admin_port, process.pid)

            def ready() -> bool:
                assert process.poll() is None, (folder / "envoy.log").read_text()
                try:
                    return http_get(admin_port, "/ready")[0] == 200
                except OSError:
                    return False

            eventually(ready, "Envoy is ready")
            proxy.wait_healthy(len(servers))
            yield proxy


@dataclass(frozen=True)
class Pair:
    """An Envoy before one server."""

    server: ServerProcess
    proxy: Envoy


@pytest.fixture(scope="module")
def pair(small_repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """For tests that stop and change neither. Their calls have ended when they do; counts and memory they compare."""
    folder = tmp_path_factory.mktemp("envoy")
    with ServerProcess(small_repository, "native", *FLAGS) as server, envoy([server.grpc_port], folder) as proxy:
        yield Pair(server, proxy)


@pytest.fixture
def client(pair: Pair) -> Iterator[Client]:
    """A connection of the test's own."""
    own = Client(pair.proxy.port)
    yield own
    own.close()


@contextmanager
def load(port: int) -> Iterator[Callable[[], int]]:
    """Call from several threads and check every answer; at the end none may have failed. Yields a count of answers."""
    outcomes: Counter[str] = Counter()
    stop = threading.Event()

    def call() -> None:
        client = Client(port)
        number = 0
        while not stop.is_set():
            number += 1
            value = np.full((1, 4), number, dtype=np.float32)
            try:
                answer = arrays_of(client.infer(infer_request("add-sub", {"a": value, "b": value})))
                outcomes["right" if (answer["sum"] == 2 * number).all() else "wrong"] += 1
            except grpc.RpcError as error:
                status: Any = error
                outcomes[f"{status.code().name}: {status.details()}"] += 1
        client.close()

    threads = [threading.Thread(target=call) for _ in range(CALLERS)]
    for thread in threads:
        thread.start()
    try:
        eventually(lambda: outcomes["right"] > 20 * CALLERS, "the load runs")
        yield lambda: outcomes["right"]
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert set(outcomes) == {"right"}, outcomes


def test_the_configuration_is_valid():
    check(program("envoy"), "--mode", "validate", "-c", CONFIG)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_no_call_is_lost_when_a_server_is_killed_and_others_are_rolled(
    small_repository: Path, transport: str, tmp_path: Path
):
    ports = free_ports(3)

    def start(port: int) -> ServerProcess:
        return ServerProcess(small_repository, transport, *FLAGS, "--grpc-port", str(port))

    with ExitStack() as stack:
        servers = [stack.enter_context(start(port)) for port in ports]
        proxy = stack.enter_context(envoy(ports, tmp_path))
        with load(proxy.port) as answered:
            killed, *others = servers
            eventually(lambda: killed.metric("convserve_inflight_requests") > 0, "it has calls in flight")
            killed.signal(signal.SIGKILL)
            proxy.wait_healthy(2)
            assert killed.wait_exit() == -signal.SIGKILL
            stack.enter_context(start(ports[0]))
            proxy.wait_healthy(3)
            for port, server in zip(ports[1:], others, strict=True):
                server.signal(signal.SIGTERM)
                proxy.wait_healthy(2)
                assert server.wait_exit() == 0
                fresh = stack.enter_context(start(port))
                proxy.wait_healthy(3)
                eventually(lambda fresh=fresh: fresh.metric("convserve_requests_total", code="OK") > 0, "it is called")
            goal = answered() + 20 * CALLERS
            eventually(lambda: answered() > goal, "all goes on as before")
        assert proxy.stat("upstream_rq_retry_success") > 0  # so some calls did meet the dying server


def test_no_call_is_lost_while_all_servers_miss_a_health_check(small_repository: Path, tmp_path: Path):
    """As when the machine stalls for a second."""
    with ServerProcess(small_repository, "native", *FLAGS) as server, envoy([server.grpc_port], tmp_path) as proxy:
        client = Client(proxy.port)
        server.signal(signal.SIGSTOP)
        eventually(lambda: proxy.stat("health_check.failure") > 0, "a check has no answer")
        call = client.inference.ModelInfer.future(ADD_SUB, timeout=DEADLINE_SECONDS)
        eventually(lambda: call.done() or proxy.stat("upstream_rq_active") > 0, "the call waits at the server")
        server.signal(signal.SIGCONT)
        assert call.result().model_name == "add-sub"
        client.close()


@pytest.mark.parametrize("method", ["ModelInfer", "ModelStreamInfer"])
def test_a_message_of_two_gibibytes_meets_a_limit(pair: Pair, client: Client, method: str):
    before = pair.server.metric("process_resident_memory_bytes")
    stopped = send_endlessly(pair.proxy.port, f"/inference.GRPCInferenceService/{method}", most=512 * 2**20)
    assert stopped.by in ("trailers", "reset")
    assert stopped.sent < 128 * 2**20
    assert pair.server.metric("process_resident_memory_bytes") - before < 64 * 2**20
    assert client.infer(ADD_SUB).model_name == "add-sub"  # and the next caller is served


def test_requests_that_are_arriving_do_not_fill_the_memory_that_compose_gives(small_repository: Path, tmp_path: Path):
    """Each is of a size that is allowed, and stops before its end."""
    found = re.search(r"mem_limit: (\d+)m$", (DEPLOY / "compose.replicas.yaml").read_text(), re.MULTILINE)
    assert found is not None
    limit = int(found[1]) * 2**20
    each = 12 * 2**20
    with ServerProcess(small_repository, "native", *FLAGS) as server, envoy([server.grpc_port], tmp_path) as proxy:
        with ExitStack() as stack:
            for _ in range(limit // each + 6):
                connection = stack.enter_context(begin(proxy.port, "/inference.GRPCInferenceService/ModelInfer"))
                send(connection, each)
        (most,) = re.findall(r"^VmHWM:\s+(\d+) kB$", Path(f"/proc/{proxy.pid}/status").read_text(), re.MULTILINE)
        assert int(most) * 1024 < limit
        client = Client(proxy.port)

        def served() -> bool:
            try:
                return bool(client.infer(ADD_SUB).model_name == "add-sub")
            except grpc.RpcError:
                return False

        eventually(served, "others are served again")
        client.close()


def test_a_compressed_request_is_refused_before_it_is_unpacked(pair: Pair, client: Client):
    """A few KiB that become a hundred MiB and more: what the server's native door unpacks before it counts."""
    before = pair.server.metric("process_resident_memory_bytes")
    large = pb.ModelInferRequest(model_name="add-sub", raw_input_contents=[bytes(256 * 2**20)])
    for request in (large, ADD_SUB):
        refused = failure(client.infer, request, compression=grpc.Compression.Gzip)
        assert refused.code is grpc.StatusCode.UNIMPLEMENTED
    assert client.infer(ADD_SUB, compression=grpc.Compression.NoCompression).model_name == "add-sub"
    assert pair.server.metric("process_resident_memory_bytes") - before < 64 * 2**20


def test_a_caller_that_balances_over_several_envoys_is_answered(pair: Pair):
    """gRPC's clients then name the whole list as authority, which the server's native door refuses as malformed."""
    authority = ("grpc.default_authority", "10.0.0.1:8001,10.0.0.2:8001")
    with grpc.insecure_channel(f"127.0.0.1:{pair.proxy.port}", options=[authority]) as channel:
        inference = rpc.GRPCInferenceServiceStub(channel)
        assert inference.ModelInfer(ADD_SUB, timeout=DEADLINE_SECONDS).model_name == "add-sub"
        (answer,) = inference.ModelStreamInfer(iter([ADD_SUB]), timeout=DEADLINE_SECONDS)
        assert answer.infer_response.model_name == "add-sub"
        health = health_pb2_grpc.HealthStub(channel)
        seen = health.Watch(health_pb2.HealthCheckRequest(), timeout=DEADLINE_SECONDS)
        assert next(seen).status == health_pb2.HealthCheckResponse.SERVING
        seen.cancel()


@pytest.mark.parametrize(
    "method",
    [
        "/convserve.classification.v1.ClassificationService/a<b",
        "/inference.GRPCInferenceService/ModelInfer?a<b",
        "/grpc.health.v1.Health/a<b",
    ],
)
def test_a_name_that_the_servers_would_reset_does_not_reach_them(pair: Pair, method: str):
    """After a thousand resets the native door closes the connection, which is that of all callers; tries count too."""
    before = pair.proxy.stat("upstream_cx_close_notify")
    with grpc.insecure_channel(f"127.0.0.1:{pair.proxy.port}") as channel:
        call = channel.unary_unary(method)
        codes = {failure(call, b"", timeout=DEADLINE_SECONDS).code for _ in range(300)}
    assert codes == {grpc.StatusCode.PERMISSION_DENIED}
    assert pair.proxy.stat("upstream_cx_close_notify") == before


def test_the_largest_request_passes_and_a_larger_one_is_refused_as_the_server_would(client: Client):
    request = pb.ModelInferRequest(model_name="add-sub", raw_input_contents=[bytes(MAX_REQUEST_BYTES - 4096)])
    assert failure(client.infer, request).code is grpc.StatusCode.INVALID_ARGUMENT  # the server's own word
    request.raw_input_contents[0] += bytes(8192)
    assert failure(client.infer, request).code is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_an_error_names_the_request_id_of_the_caller(client: Client):
    """Envoy would put one of its own in place of it."""
    unknown = infer_request("unknown", {"a": np.zeros((1, 4), np.float32)})
    refused = failure(client.infer, unknown, metadata=[("x-request-id", "the-callers-own")])
    assert refused.info is not None
    assert refused.info.metadata["request_id"] == "the-callers-own"


def test_streams_pass_and_what_would_change_one_server_only_is_refused(client: Client):
    client.wait_ready("add-sub")  # health Watch, a stream
    assert client.inference.ModelReady(pb.ModelReadyRequest(name="add-sub")).ready
    replies = client.inference.ModelStreamInfer(iter([ADD_SUB]))
    assert next(replies).infer_response.model_name == "add-sub"
    load_model = pb.RepositoryModelLoadRequest(model_name="add-sub")
    assert failure(client.inference.RepositoryModelLoad, load_model).code is grpc.StatusCode.PERMISSION_DENIED
