"""TLS and mutual TLS on the grpcio door, with certificates that change while it serves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import trustme

from service.errors import SettingsError
from service.pb.inference import grpc_service_pb2 as pb
from service.pb.inference import grpc_service_pb2_grpc
from service.server import Server
from service.settings import Settings
from tests.integration.harness import DEADLINE_SECONDS, ServerProcess, arrays_of, eventually, infer_request

ONES = np.ones((1, 4), dtype=np.float32)


class Files:
    """An authority's certificates as files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.certificate, self.key, self.client_ca = (folder / name for name in ("server.pem", "key.pem", "ca.pem"))
        self.renew()

    def renew(self) -> None:
        """Found a new authority and issue everything anew."""
        self.authority = trustme.CA()
        server = self.authority.issue_cert("localhost", "127.0.0.1")
        server.private_key_pem.write_to_path(self.key)
        self.certificate.write_bytes(b"".join(blob.bytes() for blob in server.cert_chain_pems))
        self.authority.cert_pem.write_to_path(self.client_ca)

    def flags(self, *, mutual: bool) -> list[str]:
        flags = ["--tls-certificate", str(self.certificate), "--tls-key", str(self.key)]
        return [*flags, "--tls-client-ca", str(self.client_ca)] if mutual else flags


class SecureServer(ServerProcess):
    """A server whose readiness is read from its log, since its port wants TLS."""

    def __init__(self, models: Path, *flags: str) -> None:
        super().__init__(models, "grpcio", *flags, wait_ready=False)
        self.wait_log("model version is READY")


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


@pytest.fixture
def secure(small_repository: Path, files: Files) -> Iterator[ServerProcess]:
    with SecureServer(small_repository, *files.flags(mutual=False)) as running:
        yield running


def test_the_form_is_not_where_calls_are_encrypted(secure: ServerProcess):
    """Over the HTTP endpoint a caller needs no certificate, and what he sends can be read on the way."""
    status, page = secure.get("/")
    assert (status, "add-sub" in page, "<form" in page) == (200, True, False)


def channel(port: int, authority: trustme.CA, client: trustme.LeafCert | None = None) -> grpc.Channel:
    chain = b"".join(blob.bytes() for blob in client.cert_chain_pems) if client else None
    key = client.private_key_pem.bytes() if client else None
    credentials = grpc.ssl_channel_credentials(authority.cert_pem.bytes(), key, chain)
    return grpc.secure_channel(f"127.0.0.1:{port}", credentials, [("grpc.use_local_subchannel_pool", 1)])


def infer(over: grpc.Channel, timeout: float = DEADLINE_SECONDS) -> float:
    stub: Any = grpc_service_pb2_grpc.GRPCInferenceServiceStub(over)
    answer = stub.ModelInfer(infer_request("add-sub", {"a": ONES, "b": ONES}), timeout=timeout)
    return float(arrays_of(answer)["sum"][0, 0])


def is_refused(over: grpc.Channel) -> bool:
    try:
        infer(over, timeout=5)
    except grpc.RpcError as error:
        return error.code() is grpc.StatusCode.UNAVAILABLE  # type: ignore[attr-defined]
    return False


def test_calls_are_answered_over_tls_and_only_over_tls(secure: ServerProcess, files: Files):
    with channel(secure.grpc_port, files.authority) as over:
        assert infer(over) == 2
    with grpc.insecure_channel(f"127.0.0.1:{secure.grpc_port}") as over:
        assert is_refused(over)
    with channel(secure.grpc_port, trustme.CA()) as over:
        assert is_refused(over)


def test_streams_run_over_tls(secure: ServerProcess, files: Files):
    with channel(secure.grpc_port, files.authority) as over:
        stub: Any = grpc_service_pb2_grpc.GRPCInferenceServiceStub(over)
        messages = [infer_request("add-sub", {"a": ONES, "b": ONES}) for _ in range(20)]
        answers = list(stub.ModelStreamInfer(iter(messages), timeout=DEADLINE_SECONDS))
        assert [answer.error_message for answer in answers] == [""] * 20


def test_new_certificates_are_taken_without_a_restart(secure: ServerProcess, files: Files):
    old = files.authority
    with channel(secure.grpc_port, old) as connected:
        assert infer(connected) == 2
        files.renew()
        with channel(secure.grpc_port, files.authority) as over:
            assert infer(over) == 2
        assert secure.logged("TLS certificates reloaded")
        assert infer(connected) == 2, "who was connected stays so"
    with channel(secure.grpc_port, old) as over:
        assert is_refused(over)


def test_certificates_that_vanish_leave_the_present_ones(secure: ServerProcess, files: Files):
    files.key.unlink()
    with channel(secure.grpc_port, files.authority) as over:
        assert infer(over) == 2
    eventually(lambda: secure.logged("TLS files cannot be read"), "it was logged")


def test_mutual_tls_wants_a_certificate_of_the_right_authority(small_repository: Path, files: Files):
    with SecureServer(small_repository, *files.flags(mutual=True)) as server:
        known = files.authority.issue_cert("a-client")
        with channel(server.grpc_port, files.authority, known) as over:
            assert infer(over) == 2
        with channel(server.grpc_port, files.authority) as over:
            assert is_refused(over)
        with channel(server.grpc_port, files.authority, trustme.CA().issue_cert("a-stranger")) as over:
            assert is_refused(over)


def test_metadata_tells_the_same_over_tls(secure: ServerProcess, files: Files):
    with channel(secure.grpc_port, files.authority) as over:
        stub: Any = grpc_service_pb2_grpc.GRPCInferenceServiceStub(over)
        assert stub.ServerMetadata(pb.ServerMetadataRequest(), timeout=DEADLINE_SECONDS).name == "convserve"


@pytest.mark.parametrize(
    ("names", "transport", "why"),
    [
        (("key",), "auto", "--tls-certificate and --tls-key belong together"),
        (("client_ca",), "auto", "--tls-client-ca needs both"),
        (("certificate", "key"), "native", "the native transport does not support TLS"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    small_repository: Path, files: Files, names: tuple[str, ...], transport: Any, why: str
):
    given = {f"tls_{name}": str(getattr(files, name)) for name in names}
    with pytest.raises(SettingsError, match=why):
        Server(Settings(models=str(small_repository), transport=transport, **given))


@pytest.mark.parametrize("content", [None, b"nonsense"])
def test_files_that_cannot_be_used_are_named(small_repository: Path, files: Files, content: bytes | None):
    files.key.unlink() if content is None else files.key.write_bytes(content)
    given = {"tls_certificate": str(files.certificate), "tls_key": str(files.key)}
    with pytest.raises(SettingsError, match="TLS: "):
        Server(Settings(models=str(small_repository), transport="auto", **given))
