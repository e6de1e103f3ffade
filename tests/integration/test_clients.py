"""``service.client`` as a program uses it: both clients, against real servers."""

from __future__ import annotations

import asyncio
import json
import signal
import threading
from collections.abc import Iterator
from concurrent import futures
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme

from service.cli import main
from service.client import AsyncClient, CallFailed, Client, Credentials
from service.pb.convserve.classification.v1 import classification_pb2 as pb
from service.pb.convserve.classification.v1 import classification_pb2_grpc as pb_grpc
from tests.integration.harness import DEADLINE_SECONDS, ROOT, ServerProcess, eventually

DIGIT = (ROOT / "examples" / "pictures" / "digit-7.png").read_bytes()
PRAISE = "A gripping story with an excellent performance at its heart."


@pytest.fixture
def address(server: ServerProcess) -> str:
    return f"127.0.0.1:{server.grpc_port}"


def best(result: pb.ClassificationResult) -> str:
    return result.classification.scored_labels[0].label


def test_threads_share_a_client(address: str):
    with Client(address, timeout_seconds=DEADLINE_SECONDS) as client, ThreadPoolExecutor(8) as pool:
        assert client.is_ready()
        assert client.is_ready("lenet5-mnist/1")
        asked = [pool.submit(client.classify_images, "lenet5-mnist", [DIGIT], top_k=1) for _ in range(32)]
        assert {best(call.result().results[0]) for call in asked} == {"7"}
        told = client.classify_sentences("textcnn-mr", [PRAISE], explain=True, request_id="mine")
        assert (best(told.results[0]), told.request_id, told.explanation.batch_size) == ("positive", "mine", 1)
        assert client.describe("lenet5-mnist").verified


def test_asyncio(address: str):
    async def run() -> None:
        async with AsyncClient(address, timeout_seconds=DEADLINE_SECONDS) as client:
            assert await client.is_ready("textcnn-mr")
            asked = (client.classify_images("lenet5-mnist", [DIGIT], top_k=1) for _ in range(32))
            assert {best(answer.results[0]) for answer in await asyncio.gather(*asked)} == {"7"}
            told = await client.classify_sentences("textcnn-mr", [PRAISE])
            assert best(told.results[0]) == "positive"
            assert (await client.describe("lenet5-mnist")).verified
            with pytest.raises(CallFailed) as caught:
                await client.describe("absent")
            assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND")

    asyncio.run(run())


def test_a_failure_says_what_the_log_can_be_asked_for(address: str):
    with Client(address, timeout_seconds=DEADLINE_SECONDS) as client:
        with pytest.raises(CallFailed, match="NOT_FOUND: ") as caught:
            client.classify_images("absent", [DIGIT], metadata=[("x-request-id", "id-of-mine")])
        failed = caught.value
        assert (failed.reason, failed.request_id, failed.retry_after_seconds) == ("MODEL_NOT_FOUND", "id-of-mine", None)
        with pytest.raises(CallFailed) as caught:
            client.is_ready("absent")
        assert caught.value.code is grpc.StatusCode.NOT_FOUND
    with pytest.raises(ValueError, match="closed"):
        client.describe("lenet5-mnist")


def test_calls_are_balanced_by_health(small_repository: Path, transport: str):
    """As deploy/kubernetes/base/service.yaml advises."""
    policy = {"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": ""}}
    options = [("grpc.service_config", json.dumps(policy)), ("grpc.default_authority", "convserve")]
    serve = partial(ServerProcess, small_repository, transport, "--lame-duck-seconds", "600")
    with serve() as leaving, serve() as staying:
        address = f"ipv4:127.0.0.1:{leaving.grpc_port},127.0.0.1:{staying.grpc_port}"
        with Client(address, timeout_seconds=DEADLINE_SECONDS, channel_options=options) as client:

            def shares() -> list[float]:
                """Return how many of 20 calls each server took."""
                before = [described(leaving), described(staying)]
                for _ in range(20):
                    client.describe("add-sub")
                return [described(leaving) - before[0], described(staying) - before[1]]

            eventually(lambda: min(shares()) >= 8, "both are called")
            leaving.signal(signal.SIGTERM)
            eventually(lambda: shares() == [0, 20], "who is about to stop is called no more, though it would answer")


def described(server: ServerProcess) -> float:
    return server.metric("convserve_requests_total", method="DescribeModel")


class Stub(pb_grpc.ClassificationServiceServicer):
    """Refuses some sentences first, and never describes a model."""

    def __init__(self) -> None:
        self.refusals, self.left, self.ended = 0, [], threading.Event()
        self.described, self.left_alone = threading.Event(), threading.Event()

    def ClassifySentences(self, request: Any, context: Any) -> pb.ClassifySentencesResponse:
        from service.errors import QueueFull
        from service.transport.status import status_of

        self.left.append(context.time_remaining())
        if len(self.left) <= self.refusals:
            status = status_of(QueueFull("full", retry_after_seconds=0.2), "an-id")
            context.set_trailing_metadata(status.trailing_metadata)
            context.abort(status.code, status.message)
        response = pb.ClassifySentencesResponse(model_name="m", model_version="1")
        response.results.add().classification.scored_labels.add(index=3, probability=0.5)
        return response

    def DescribeModel(self, request: Any, context: Any) -> pb.DescribeModelResponse:
        context.add_callback(self.left_alone.set)
        self.described.set()
        self.ended.wait(DEADLINE_SECONDS)
        return pb.DescribeModelResponse(actual_execution_provider="none")


@pytest.fixture
def stub() -> Iterator[tuple[str, Stub]]:
    made, server = Stub(), grpc.server(futures.ThreadPoolExecutor(4))
    pb_grpc.add_ClassificationServiceServicer_to_server(made, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}", made
    made.ended.set()
    server.stop(None).wait(DEADLINE_SECONDS)


def asked(address: str, kind: str, attempts: int, timeout_seconds: float) -> pb.ClassifySentencesResponse:
    if kind == "blocking":
        with Client(address, attempts=attempts) as client:
            return client.classify_sentences("m", ["x"], timeout_seconds=timeout_seconds)

    async def run() -> pb.ClassifySentencesResponse:
        async with AsyncClient(address, attempts=attempts) as client:
            return await client.classify_sentences("m", ["x"], timeout_seconds=timeout_seconds)

    return asyncio.run(run())


@pytest.mark.parametrize("kind", ["blocking", "asyncio"])
def test_a_refused_call_is_made_again_within_its_deadline(stub: tuple[str, Stub], kind: str):
    address, server = stub
    server.refusals = 2
    assert asked(address, kind, 3, 9.0).model_name == "m"  # gRPC rounds longer ones to whole seconds
    assert len(server.left) == 3
    assert server.left[2] < 8.9  # the deadline is that of all attempts, and each waited 0.2 s or more
    for attempts in (1, 2):
        server.left.clear()
        with pytest.raises(CallFailed) as caught:
            asked(address, kind, attempts, DEADLINE_SECONDS)
        assert (caught.value.code, len(server.left)) == (grpc.StatusCode.RESOURCE_EXHAUSTED, attempts)
    server.left.clear()
    with pytest.raises(CallFailed):
        asked(address, kind, 9, 0.19)  # less than the server says, so never twice
    assert len(server.left) <= 1


@pytest.mark.parametrize("kind", ["blocking", "asyncio"])
def test_a_server_that_restarts_is_waited_for(small_repository: Path, transport: str, kind: str):
    async def describe(address: str) -> str:
        async with AsyncClient(address, attempts=9, timeout_seconds=DEADLINE_SECONDS) as client:
            return (await client.describe("add-sub")).model_name

    def described_by(address: str) -> str:
        if kind == "asyncio":
            return asyncio.run(describe(address))
        with Client(address, attempts=9, timeout_seconds=DEADLINE_SECONDS) as client:
            return client.describe("add-sub").model_name

    with ServerProcess(small_repository, transport) as server:
        address, port = f"127.0.0.1:{server.grpc_port}", str(server.grpc_port)
    with Client(address) as client, pytest.raises(CallFailed, match="UNAVAILABLE: failed to connect"):
        client.describe("add-sub")  # once, as it comes
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(described_by, address)
        with ServerProcess(small_repository, transport, "--grpc-port", port):
            assert call.result(DEADLINE_SECONDS) == "add-sub"


def test_options_of_the_caller_go_before_those_of_the_client(stub: tuple[str, Stub]):
    address, _ = stub
    options = [("grpc.max_receive_message_length", 1)]
    with Client(address, channel_options=options) as client, pytest.raises(CallFailed, match="larger than max"):
        client.classify_sentences("m", ["x"])

    async def run() -> None:
        async with AsyncClient(address, channel_options=options) as client:
            with pytest.raises(CallFailed, match="larger than max"):
                await client.classify_sentences("m", ["x"])

    asyncio.run(run())


@pytest.mark.parametrize("credentials", [None, Credentials(token="reader")])
def test_a_task_that_is_cancelled_takes_its_call_along(stub: tuple[str, Stub], credentials: Credentials | None):
    address, server = stub

    async def run() -> None:
        async with AsyncClient(address, credentials) as client:
            task = asyncio.create_task(client.describe("m"))
            assert await asyncio.to_thread(server.described.wait, DEADLINE_SECONDS)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(server.left_alone.wait, DEADLINE_SECONDS)

    asyncio.run(run())


def test_calls_of_a_client_that_is_closed_end_alike(stub: tuple[str, Stub]):
    """gRPC's own for asyncio would cancel the tasks that wait, as if somebody had asked for that."""
    address, server = stub
    client = Client(address)
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(client.describe, "m")
        assert server.described.wait(DEADLINE_SECONDS)
        client.close()
        with pytest.raises(CallFailed, match="CANCELLED: "):
            call.result(DEADLINE_SECONDS)
    with pytest.raises(ValueError, match="closed"):
        client.describe("m")
    server.described.clear()

    async def run() -> None:
        client = AsyncClient(address)
        task = asyncio.create_task(client.describe("m"))
        assert await asyncio.to_thread(server.described.wait, DEADLINE_SECONDS)
        await client.close()
        with pytest.raises(CallFailed, match="CANCELLED: the client was closed"):
            await task
        with pytest.raises(ValueError, match="closed"):
            await client.describe("m")

    asyncio.run(run())


def test_a_call_that_waits_to_be_made_again_ends_with_its_client(stub: tuple[str, Stub]):
    address, server = stub
    server.refusals = 9
    client = Client(address, attempts=9)
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(client.classify_sentences, "m", ["x"])
        eventually(lambda: len(server.left) == 2, "it is made again")
        client.close()
        with pytest.raises(CallFailed, match="CANCELLED: "):
            call.result(DEADLINE_SECONDS)
    server.left.clear()

    async def run() -> None:
        client = AsyncClient(address, attempts=9)
        task = asyncio.create_task(client.classify_sentences("m", ["x"]))
        await asyncio.to_thread(eventually, lambda: len(server.left) == 2, "it is made again")
        await client.close()
        with pytest.raises(CallFailed, match="CANCELLED: the client was closed"):
            await task

    asyncio.run(run())


def test_classify_ends_where_the_server_falls_silent(stub: tuple[str, Stub], capsys: pytest.CaptureFixture[str]):
    address, _ = stub
    assert main(["classify", "--model=m", "--text=x", f"--server={address}", "--timeout-seconds=0.5"]) == 1
    printed = capsys.readouterr()
    assert printed.err.startswith("convserve: DEADLINE_EXCEEDED: ")
    assert printed.out.splitlines() == ["m version 1", "x", "    0.5000  3"]


def test_a_model_without_labels_has_numbers(stub: tuple[str, Stub], capsys: pytest.CaptureFixture[str]):
    address, server = stub
    server.ended.set()
    assert main(["classify", "--model=m", "--text=x", f"--server={address}"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == ["x", "    0.5000  3"]


def test_credentials_are_the_same_for_both(small_repository: Path, tmp_path: Path):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    authority.issue_cert("models.example").private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    authority.issue_cert("a-caller").private_key_and_cert_chain_pem.write_to_path(tmp_path / "caller.pem")
    (tmp_path / "tokens").write_text("reader\n")
    flags = [f"--tls-certificate={tmp_path}/server.pem", f"--tls-key={tmp_path}/server.pem"]
    flags += [f"--tls-client-ca={tmp_path}/ca.pem", f"--infer-tokens-file={tmp_path}/tokens"]
    caller = tmp_path / "caller.pem"
    known = Credentials(
        ca=str(tmp_path / "ca.pem"), certificate=caller, key=str(caller), server_name="models.example", token="reader"
    )

    async def described(address: str) -> pb.DescribeModelResponse:
        async with AsyncClient(address, known) as client:
            return await client.describe("add-sub", timeout_seconds=DEADLINE_SECONDS)

    with ServerProcess(small_repository, "grpcio", *flags, wait_ready=False) as server:
        server.wait_log("model version is READY")
        address = f"127.0.0.1:{server.grpc_port}"
        with Client(address, known) as client:
            assert client.describe("add-sub", timeout_seconds=DEADLINE_SECONDS).model_name == "add-sub"
        assert asyncio.run(described(address)).model_name == "add-sub"
