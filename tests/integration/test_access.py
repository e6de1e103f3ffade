"""Bearer tokens over real calls, on both doors."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2

from service.pb.convserve.classification.v1 import classification_pb2 as classification
from service.pb.inference import grpc_service_pb2 as pb
from service.pb.inference import grpc_service_pb2_grpc
from tests.integration.harness import DEADLINE_SECONDS, ServerProcess, failure, infer_request

ONES = np.ones((1, 4), dtype=np.float32)
DENIED, UNKNOWN = grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED


def token_flags(folder: Path) -> list[str]:
    (folder / "infer").write_text("reader\n")
    (folder / "admin").write_text("root\n")
    return ["--infer-tokens-file", str(folder / "infer"), "--admin-tokens-file", str(folder / "admin")]


@pytest.fixture(scope="module")
def guarded(
    small_repository: Path, transport: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    flags = token_flags(tmp_path_factory.mktemp("tokens"))
    with ServerProcess(
        small_repository, transport, *flags, "--model-control-mode", "explicit", "--load-models", "*"
    ) as running:
        yield running


@pytest.fixture(scope="module")
def reachable(
    small_repository: Path, transport: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """Listens on every interface."""
    flags = token_flags(tmp_path_factory.mktemp("far-tokens"))
    with ServerProcess(small_repository, transport, "--host", "0.0.0.0", *flags) as running:
        yield running


@pytest.fixture
def region() -> Iterator[str]:
    """An object in shared memory; its name."""
    path = Path("/dev/shm") / f"convserve-test-{uuid.uuid4().hex}"
    path.write_bytes(bytes(16))
    yield path.name
    path.unlink()


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),) if token else ()


@pytest.mark.parametrize(("token", "code"), [("reader", None), ("root", None), ("", UNKNOWN), ("guess", UNKNOWN)])
def test_inference_wants_a_token(guarded: ServerProcess, token: str, code: grpc.StatusCode | None):
    inference = guarded.client.inference
    request = infer_request("add-sub", {"a": ONES, "b": ONES})

    def stream(metadata: Any) -> Any:
        return list(inference.ModelStreamInfer(iter([request]), metadata=metadata, timeout=DEADLINE_SECONDS))

    def classify(metadata: Any) -> Any:
        asked = classification.ClassifySentencesRequest(model_name="none", sentences=["x"])
        return guarded.client.classification.ClassifySentences(asked, metadata=metadata, timeout=DEADLINE_SECONDS)

    calls = {
        "unary": lambda metadata: inference.ModelInfer(request, metadata=metadata, timeout=DEADLINE_SECONDS),
        "stream": stream,
        "metadata": lambda metadata: inference.ModelMetadata(
            pb.ModelMetadataRequest(name="add-sub"), metadata=metadata, timeout=DEADLINE_SECONDS
        ),
    }
    for name, call in calls.items():
        if code is None:
            assert call(bearer(token)), name
        else:
            assert failure(call, bearer(token)).code is code, name
    told = failure(classify, bearer(token)).code
    assert told is (code or grpc.StatusCode.NOT_FOUND), "the token is looked at before the model"


@pytest.mark.parametrize(("token", "code"), [("root", None), ("reader", DENIED), ("", UNKNOWN)])
def test_loading_wants_another(guarded: ServerProcess, token: str, code: grpc.StatusCode | None):
    def load(metadata: Any) -> Any:
        request = pb.RepositoryModelLoadRequest(model_name="add-sub")
        return guarded.client.inference.RepositoryModelLoad(request, metadata=metadata, timeout=DEADLINE_SECONDS)

    if code is None:
        load(bearer(token))
    else:
        assert failure(load, bearer(token)).code is code


@pytest.mark.parametrize(("token", "code"), [("root", None), ("reader", DENIED), ("", UNKNOWN)])
def test_away_from_loopback_registering_memory_wants_a_token_too(
    reachable: ServerProcess, region: str, token: str, code: grpc.StatusCode | None
):
    def register(metadata: Any) -> Any:
        request = pb.SystemSharedMemoryRegisterRequest(name=region, key=f"/{region}", byte_size=16)
        return reachable.client.inference.SystemSharedMemoryRegister(
            request, metadata=metadata, timeout=DEADLINE_SECONDS
        )

    def unregister(metadata: Any) -> Any:
        request = pb.SystemSharedMemoryUnregisterRequest(name=region)
        return reachable.client.inference.SystemSharedMemoryUnregister(
            request, metadata=metadata, timeout=DEADLINE_SECONDS
        )

    for call in (register, unregister):
        if code is None:
            call(bearer(token))
        else:
            assert failure(call, bearer(token)).code is code


def test_who_calls_the_socket_between_the_transports_wants_a_token_too(guarded: ServerProcess, transport: str):
    """Any program on the machine can reach it."""
    descriptors = Path(f"/proc/{guarded.process.pid}/fd").iterdir()
    inodes = {os.readlink(file).removeprefix("socket:[").removesuffix("]") for file in descriptors}
    sockets = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()]
    names = {fields[7][1:] for fields in sockets if fields[6] in inodes and fields[7:] and fields[7].startswith("@")}
    assert len(names) == (transport == "native")
    for name in names:
        with grpc.insecure_channel(f"unix-abstract:{name}") as channel:
            stub: Any = grpc_service_pb2_grpc.GRPCInferenceServiceStub(channel)  # type: ignore[no-untyped-call]
            request = infer_request("add-sub", {"a": ONES, "b": ONES})
            assert failure(stub.ModelInfer, request, timeout=DEADLINE_SECONDS).code is UNKNOWN
            load = pb.RepositoryModelLoadRequest(model_name="add-sub")
            told = failure(stub.RepositoryModelLoad, load, metadata=bearer("reader"), timeout=DEADLINE_SECONDS)
            assert told.code is DENIED


def test_probes_want_none(guarded: ServerProcess):
    assert guarded.client.inference.ServerReady(pb.ServerReadyRequest()).ready
    assert guarded.client.health.Check(health_pb2.HealthCheckRequest()).status
    assert guarded.get("/readyz")[0] == 200
    assert guarded.metric("convserve_inflight_requests") == 0
