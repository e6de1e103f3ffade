"""What must not leave the server: tokens, paths, the environment, the text of exceptions."""

from __future__ import annotations

import shutil
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from service.pb.convserve.classification.v1 import classification_pb2 as classification
from service.pb.inference import grpc_service_pb2 as pb
from tests.integration import graphs, http2
from tests.integration.harness import DEADLINE_SECONDS, MODELS, ROOT, ServerProcess, infer_request

READER, ROOT_TOKEN, GUESS = "reader-7c41f0", "root-91d2aa", "guess-5be803"
SECRET = "hunter2-of-the-environment"
ONES = np.ones((1, 4), dtype=np.float32)


def every_call(server: ServerProcess) -> dict[str, Callable[..., Any]]:
    """Every unary method, each asked about all there is, and once in a way that fails."""
    inference, classify = server.client.inference, server.client.classification
    names = ("", "add-sub", "broken", "lenet5-mnist", "../add-sub", "/etc/passwd")
    about = {
        "ModelReady": pb.ModelReadyRequest,
        "ModelMetadata": pb.ModelMetadataRequest,
        "ModelConfig": pb.ModelConfigRequest,
        "ModelStatistics": pb.ModelStatisticsRequest,
    }
    calls = {
        f"{method} {name}": lambda method=method, ask=ask, name=name, **options: getattr(inference, method)(
            ask(name=name), **options
        )
        for method, ask in about.items()
        for name in names
    }
    for name in names:
        calls |= {
            f"ModelInfer {name}": lambda name=name, **options: inference.ModelInfer(
                infer_request(name, {"a": ONES, "b": ONES}), **options
            ),
            f"DescribeModel {name}": lambda name=name, **options: classify.DescribeModel(
                classification.DescribeModelRequest(model_name=name), **options
            ),
            f"RepositoryModelLoad {name}": lambda name=name, **options: inference.RepositoryModelLoad(
                pb.RepositoryModelLoadRequest(model_name=name), **options
            ),
        }
    calls["ServerMetadata"] = lambda **options: inference.ServerMetadata(pb.ServerMetadataRequest(), **options)
    calls["LogSettings"] = lambda **options: inference.LogSettings(pb.LogSettingsRequest(), **options)
    calls["RepositoryIndex"] = lambda **options: inference.RepositoryIndex(pb.RepositoryIndexRequest(), **options)
    calls["ClassifyImages"] = lambda **options: classify.ClassifyImages(
        classification.ClassifyImagesRequest(model_name="lenet5-mnist", images=[b"no picture"]), **options
    )
    calls["SystemSharedMemoryRegister"] = lambda **options: inference.SystemSharedMemoryRegister(
        pb.SystemSharedMemoryRegisterRequest(name="r", key="/no-such-object", byte_size=4), **options
    )
    return calls


def said_by(call: Callable[..., Any], metadata: Any = ()) -> str:
    """Return all that comes back, failure or not."""
    try:
        return str(call(metadata=metadata, timeout=DEADLINE_SECONDS))
    except grpc.RpcError as error:
        status: Any = error
        return f"{status.code()} {status.details()} {status.trailing_metadata()}"


@pytest.fixture
def with_a_broken_model(tmp_path: Path) -> Path:
    root = tmp_path / "repository-of-this-test"
    graphs.write(root, "add-sub", graphs.add_sub())
    (graphs.write(root, "broken", graphs.add_sub()) / "model.onnx").write_bytes(b"not a graph")
    shutil.copytree(MODELS / "lenet5-mnist", root / "lenet5-mnist")
    return root


def test_no_reply_tells_a_path_or_the_environment(
    with_a_broken_model: Path, transport: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SECRET_OF_THE_TEST", SECRET)
    flags = ("--model-control-mode", "explicit", "--load-models", "*")
    with ServerProcess(with_a_broken_model, transport, *flags, wait_ready=False) as server:
        server.client.wait_ready("add-sub")
        server.client.wait_ready("lenet5-mnist")
        server.wait_log("model version is UNAVAILABLE")
        replies = {name: said_by(call) for name, call in every_call(server).items()}
        replies |= {path: server.get(path)[1] for path in ("/", "/metrics", "/readyz", "/livez", "/../etc/passwd")}
        told = (with_a_broken_model.name, str(ROOT), SECRET, "Traceback", "site-packages", "root:x:")
        found = {name: said for name, said in replies.items() if any(word in said for word in told)}
        assert not found
        assert "UNAVAILABLE" in replies["ModelInfer broken"]  # it did fail, and says so
        assert any(str(with_a_broken_model) in line for line in server.lines)  # the operator is told


def test_no_token_is_logged_counted_or_repeated(with_a_broken_model: Path, transport: str, tmp_path: Path):
    (tmp_path / "infer").write_text(f"{READER}\n")
    (tmp_path / "admin").write_text(f"{ROOT_TOKEN}\n")
    flags = ["--infer-tokens-file", str(tmp_path / "infer"), "--admin-tokens-file", str(tmp_path / "admin")]
    flags += ["--log-level", "debug", "--access-log-sample-rate", "1"]
    with ServerProcess(with_a_broken_model, transport, *flags, wait_ready=False) as server:
        server.client.wait_ready("add-sub")
        replies = [
            said_by(call, (("authorization", f"Bearer {token}"),))
            for call in every_call(server).values()
            for token in (READER, ROOT_TOKEN, GUESS)
        ]
        assert any("the token is not known" in said for said in replies)
        assert any("this token may not administer" in said for said in replies)
        replies += [server.get(path)[1] for path in ("/", "/metrics")]
    assert len(server.lines) > 100  # it has ended, so this is all that it has said
    for token in (READER, ROOT_TOKEN, GUESS):
        assert not [said for said in replies if token in said]
        assert not [line for line in server.lines if token in line]


def test_no_caller_writes_a_line_of_the_log(small_repository: Path, transport: str):
    """What a GOAWAY says besides is for the log of whoever gets it (RFC 9113, section 6.8)."""
    told = struct.pack(">II", 0, http2.ENHANCE_YOUR_CALM) + b'\n{"message": "forged"}\n'
    with ServerProcess(small_repository, transport) as server:
        with http2.Connection(server.grpc_port) as connection:
            assert connection.read() is not None
            connection.send(http2.frame(http2.GOAWAY, 0, 0, told))
            while connection.read() is not None:  # until the server has closed it
                pass
        token = ("authorization", b"Bearer \xff")
        with http2.Connection(server.grpc_port) as connection:
            connection.send(http2.call_headers(1, "/grpc.health.v1.Health/Check", (token[0].encode(), token[1])))
            connection.send(http2.message(1, b""))
            ends = (http2.HEADERS, http2.RST_STREAM, http2.GOAWAY)
            assert any(frame.kind in ends for frame in iter(connection.read, None))
        server.client.wait_ready()
    assert not [line for line in server.lines if "forged" in line or "Bearer" in line]


def test_no_caller_has_grpc_itself_write_to_the_log(small_repository: Path, transport: str):
    """A line a header that it cannot read, and nothing bounds them: two a call here, 4,000 in a second or two."""
    wrong = ((b"grpc-timeout", b"soon"), (b"grpc-encoding", b"zip9"))
    with ServerProcess(small_repository, transport) as server:
        with http2.Connection(server.grpc_port) as connection:
            connection.send(http2.call_headers(1, "/grpc.health.v1.Health/Check", *wrong) + http2.message(1, b""))
            ends = (http2.HEADERS, http2.RST_STREAM, http2.GOAWAY)
            assert any(frame.kind in ends for frame in iter(connection.read, None))
        server.client.wait_ready()
    assert not [line for line in server.lines if not line.startswith("{")]


def test_the_http_endpoint_is_bound_apart(small_repository: Path, transport: str):
    with ServerProcess(small_repository, transport, "--http-host", "127.0.0.2") as server:
        socket.create_connection(("127.0.0.2", server.http_port), timeout=10).close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.http_port), timeout=10)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", server.grpc_port), timeout=10)
