"""Our own clients over TLS and with tokens: that they get in, and what they say where they do not.

``convserve classify`` and ``convserve-bench conformance`` go through gRPC; ``load`` and ``slo`` ask the server first
through gRPC, and send their load over an HTTP/2 of their own.
"""

from __future__ import annotations

import datetime
import io
import json
import os
import shutil
import socket
import socketserver
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from unittest.mock import patch

import grpc
import numpy as np
import pytest
import trustme

from bench.cli import main as bench
from bench.load.codes import NO_CONNECTION
from bench.load.http2 import framed
from bench.load.plan import Plan
from bench.load.sender import Sender
from service.cli import main as convserve
from service.client import Credentials, remedy
from tests.integration.harness import DEADLINE_SECONDS, MODELS, ROOT, ServerProcess, environment, infer_request

DIGIT = str(ROOT / "examples" / "pictures" / "digit-7.png")
# Whether the machine lets the generator be punctual is none of these tests' business.
CALM = ["--max-lag-seconds=60", "--warm-up-seconds=0"]
# What each command is given beside the server's address and the credentials.
COMMANDS: dict[str, tuple[Callable[[list[str]], int], list[str]]] = {
    "classify": (convserve, ["classify", "--model=lenet5-mnist", DIGIT, "--server"]),
    "load": (bench, ["load", "--model=lenet5-mnist", "--concurrency=2", "--seconds=0.2", *CALM]),
    "slo": (bench, ["slo", "--model=lenet5-mnist", "--objective-seconds=1"]),
    "conformance": (bench, ["conformance", "--model=lenet5-mnist", "--section=ids"]),
}
TOKEN = "reader-5f1c20"


class Files:
    """An authority, and a server's files that it issued, which may change while the server runs."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.authority = folder, trustme.CA()
        self.authority.cert_pem.write_to_path(folder / "ca.pem")
        trustme.CA().cert_pem.write_to_path(folder / "stranger.pem")
        self.token = self.written("token", f"{TOKEN}\n")
        self.issue("localhost", "127.0.0.1")

    def written(self, name: str, content: str) -> str:
        (self.folder / name).write_text(content)
        return str(self.folder / name)

    def issue(self, *names: str, days: int = 30) -> None:
        end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)
        start = end - datetime.timedelta(days=60)
        made = self.authority.issue_cert(*names, not_before=start, not_after=end)
        made.private_key_pem.write_to_path(self.folder / "key.pem")
        self.written("server.pem", b"".join(blob.bytes() for blob in made.cert_chain_pems).decode())

    def caller(self, authority: trustme.CA) -> list[str]:
        """Return the flags with which a caller shows a certificate of an authority."""
        authority.issue_cert("a-caller").private_key_and_cert_chain_pem.write_to_path(self.folder / "caller.pem")
        return [f"--tls-certificate={self.folder}/caller.pem", f"--tls-key={self.folder}/caller.pem"]

    def serve(self, *, mutual: bool) -> list[str]:
        flags = [f"--tls-certificate={self.folder}/server.pem", f"--tls-key={self.folder}/key.pem"]
        return [*flags, *([f"--tls-client-ca={self.folder}/ca.pem"] if mutual else [])]

    @property
    def ca(self) -> str:
        return f"--tls-ca={self.folder}/ca.pem"


@pytest.fixture(scope="module")
def lenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("lenet")
    shutil.copytree(MODELS / "lenet5-mnist", root / "lenet5-mnist")
    return root


def secure_server(models: Path, files: Files, *, mutual: bool) -> ServerProcess:
    server = ServerProcess(
        models, "auto", *files.serve(mutual=mutual), f"--infer-tokens-file={files.token}", wait_ready=False
    )
    server.wait_log("model version is READY")
    return server


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def shared(lenet: Path, files: Files) -> Iterator[ServerProcess]:
    with secure_server(lenet, files, mutual=False) as running:
        yield running


@pytest.fixture
def secure(shared: ServerProcess, files: Files) -> ServerProcess:
    """With its own certificate again, whatever another test gave it."""
    files.issue("localhost", "127.0.0.1")
    return shared


@pytest.fixture(scope="module")
def mutual(lenet: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ServerProcess, Files]]:
    files = Files(tmp_path_factory.mktemp("mutual"))
    with secure_server(lenet, files, mutual=True) as running:
        yield running, files


@pytest.fixture(scope="module")
def plain(lenet: Path, files: Files, transport: str) -> Iterator[ServerProcess]:
    with ServerProcess(lenet, transport, f"--infer-tokens-file={files.token}") as running:
        yield running


def ran(name: str, port: int, *flags: str, **variables: str) -> tuple[int, str, str]:
    """Run a command; return its exit code, and what it wrote to either stream."""
    main, arguments = COMMANDS[name]
    with (
        patch.dict(os.environ, variables),
        redirect_stdout(io.StringIO()) as out,
        redirect_stderr(io.StringIO()) as err,
    ):
        code = main([*arguments, f"127.0.0.1:{port}", *flags])
    return code, out.getvalue(), err.getvalue()


def complaint(name: str, port: int, *flags: str, **variables: str) -> str:
    """Return the one line that a command ends with."""
    code, out, err = ran(name, port, *flags, **variables)
    assert code == (1 if name == "classify" and port > 1 else 2), out
    program, _, line = err.partition(": ")
    assert program == ("convserve" if name == "classify" else "convserve-bench")
    assert line.count("\n") == 1, err
    assert TOKEN not in out + err
    return line.rstrip()


@pytest.mark.parametrize("name", ["classify", "load", "conformance"])
def test_calls_are_answered_over_tls_with_a_token(secure: ServerProcess, files: Files, name: str):
    code, _, err = ran(name, secure.grpc_port, files.ca, f"--token-file={files.token}")
    assert (code, err) == (0, "")


@pytest.mark.parametrize("name", ["classify", "load"])
def test_the_environment_will_do(secure: ServerProcess, files: Files, name: str):
    variables = {"CONVSERVE_CLIENT_TLS_CA": f"{files.folder}/ca.pem", "CONVSERVE_CLIENT_TOKEN": TOKEN}
    code, _, err = ran(name, secure.grpc_port, **variables, CONVSERVE_CLIENT_TLS="true")
    assert (code, err) == (0, "")
    code, _, err = ran(
        name, secure.grpc_port, "--tls", CONVSERVE_CLIENT_TOKEN=TOKEN, SSL_CERT_FILE=f"{files.folder}/ca.pem"
    )
    assert (code, err) == (0, ""), "what the machine trusts"


@pytest.mark.parametrize("name", ["classify", "load"])
def test_mutual_tls(mutual: tuple[ServerProcess, Files], name: str):
    server, files = mutual
    flags = (files.ca, f"--token-file={files.token}")
    code, _, err = ran(name, server.grpc_port, *flags, *files.caller(files.authority))
    assert (code, err) == (0, "")
    address = f"127.0.0.1:{server.grpc_port}: "
    assert complaint(name, server.grpc_port, *flags) == (
        f"{address}the server requires client certificates: give --tls-certificate FILE and --tls-key FILE"
    )
    assert complaint(name, server.grpc_port, *flags, *files.caller(trustme.CA())) == (
        f"{address}the server does not accept {files.folder}/caller.pem: "
        "give a valid one from an authority that it trusts"
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_a_token_is_asked_for(secure: ServerProcess, plain: ServerProcess, files: Files, name: str):
    guess = files.written("guess", "guess\n")
    for port, flags in ((secure.grpc_port, [files.ca]), (plain.grpc_port, [])):
        line = complaint(name, port, *flags)
        assert line.startswith("UNAUTHENTICATED: this method needs a token"), line
        assert line.endswith("; give one, --token-file FILE or CONVSERVE_CLIENT_TOKEN")
        line = complaint(name, port, *flags, f"--token-file={guess}")
        assert line.startswith("UNAUTHENTICATED: the token is not known; the token may have expired")


def test_a_token_goes_in_the_clear_where_no_tls_is_spoken(plain: ServerProcess, files: Files):
    for name in ("classify", "load"):
        assert ran(name, plain.grpc_port, f"--token-file={files.token}")[0] == 0


def wrong_ca(files: Files) -> list[str]:
    return [f"--tls-ca={files.folder}/stranger.pem"]


def another_name(files: Files) -> list[str]:
    files.issue("models.example", "10.0.0.1")
    return [files.ca]


def expired(files: Files) -> list[str]:
    files.issue("127.0.0.1", days=-1)
    return [files.ca]


def not_yet(files: Files) -> list[str]:
    files.issue("127.0.0.1", days=90)
    return [files.ca]


@pytest.mark.parametrize("name", ["classify", "load", "conformance"])
@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        (wrong_ca, "the server's certificate is from no authority in {}/stranger.pem: give its authority"),
        (lambda files: ["--tls"], "the server's certificate is from no authority in this machine's trust store: give"),
        (
            another_name,
            "the server's certificate is for models.example, 10.0.0.1, not for 127.0.0.1: use that name, or give",
        ),
        (expired, "the server's certificate, or one of its authorities', has expired: renew it on the server"),
        (not_yet, "the server's certificate is not valid yet: check the clocks"),
        (lambda files: [], "the server speaks TLS: give --tls-ca FILE, or --tls"),
    ],
)
def test_what_is_wrong_is_one_line(
    secure: ServerProcess, files: Files, name: str, wrong: Callable[[Files], list[str]], expected: str
):
    line = complaint(name, secure.grpc_port, *wrong(files))
    assert line.startswith(f"127.0.0.1:{secure.grpc_port}: {expected.format(files.folder)}")


@pytest.mark.parametrize("name", ["classify", "load"])
def test_a_server_may_be_called_by_another_name(secure: ServerProcess, files: Files, name: str):
    files.issue("models.example")
    flags = [files.ca, f"--token-file={files.token}"]
    assert ran(name, secure.grpc_port, *flags, "--tls-server-name=models.example")[0] == 0
    assert "is for models.example, not for other.example" in complaint(
        name, secure.grpc_port, *flags, "--tls-server-name=other.example"
    )


@pytest.mark.parametrize("name", ["classify", "load"])
def test_a_server_in_the_clear_is_told_from_one_over_tls(plain: ServerProcess, files: Files, name: str):
    line = complaint(name, plain.grpc_port, files.ca)
    assert line == f"127.0.0.1:{plain.grpc_port}: the server does not speak TLS: leave out --tls and all --tls-… flags"


@pytest.mark.parametrize("name", ["classify", "load"])
def test_a_proxy_that_grpc_takes_by_itself_is_named(plain: ServerProcess, files: Files, name: str):
    proxy = {"http_proxy": "http://127.0.0.1:1"}
    line = complaint(name, plain.grpc_port, f"--token-file={files.token}", **proxy)
    assert line.startswith(f"127.0.0.1:{plain.grpc_port}: gRPC cannot connect through the proxy in http_proxy")
    assert line.endswith("set no_proxy=127.0.0.1")
    assert ran(name, plain.grpc_port, f"--token-file={files.token}", **proxy, no_proxy="127.0.0.1")[0] == 0


def test_no_fault_is_found_with_a_server_that_can_be_reached(
    plain: ServerProcess, secure: ServerProcess, files: Files, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # nor with the proxy, since somebody answered
    for server, credentials in ((plain, Credentials()), (secure, Credentials(ca=files.folder / "ca.pem"))):
        address = f"127.0.0.1:{server.grpc_port}"
        said = remedy.explained(grpc.StatusCode.UNAVAILABLE, "draining", address, credentials)
        assert said == "UNAVAILABLE: draining"


@pytest.mark.parametrize("flags", [[], ["--tls"]])
def test_what_is_no_server_of_grpc(plain: ServerProcess, flags: list[str]):
    assert "the server at this address does not speak gRPC" in complaint("classify", plain.http_port, *flags)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        free = taken.getsockname()[1]
    assert "no gRPC server answers at this address (Connection refused)" in complaint("classify", free, *flags)


@pytest.mark.parametrize("flags", [[], ["--tls"]])
def test_who_listens_and_says_nothing(flags: list[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(remedy, "_TIMEOUT_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        line = complaint("classify", silent.getsockname()[1], "--timeout-seconds=0.1", *flags)
    assert line.endswith(
        "the server at this address does not respond: check whether it hangs, or give another HOST:PORT"
    )


LACK = ("speaks TLS", "requires client certificates", "does not accept ")


@pytest.mark.parametrize(
    ("version", "verify", "protocol", "expected"),
    [
        (ssl.TLSVersion.TLSv1_2, ssl.CERT_REQUIRED, "h2", LACK),  # refuses in the handshake
        (ssl.TLSVersion.TLSv1_3, ssl.CERT_NONE, "h2", LACK),  # after it; here its reset outruns the alert
        (ssl.TLSVersion.TLSv1_3, ssl.CERT_NONE, "http/1.1", ("speaks TLS", "speaks TLS but not HTTP/2")),
    ],
)
def test_who_speaks_tls_and_goes_no_further(
    files: Files, version: ssl.TLSVersion, verify: ssl.VerifyMode, protocol: str, expected: tuple[str, ...]
):
    files.issue("127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version, context.verify_mode = version, verify
    context.load_cert_chain(files.folder / "server.pem", files.folder / "key.pem")
    context.load_verify_locations(files.folder / "ca.pem")
    context.set_alpn_protocols([protocol])

    def meet(made: socket.socket, *_: object) -> None:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with suppress(OSError), context.wrap_socket(made, server_side=True):
            pass

    with socketserver.TCPServer(("127.0.0.1", 0), meet) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        try:
            for flags, said in zip(([], [files.ca], [files.ca, *files.caller(trustme.CA())]), expected, strict=False):
                assert said in complaint("classify", server.server_address[1], *flags)
        finally:
            server.shutdown()


def test_files_that_cannot_be_used_are_named(files: Files):
    empty, nonsense = files.written("empty", "\n"), files.written("nonsense.pem", "nonsense")
    for flags, expected in (
        ([f"--token-file={empty}"], f"token file {empty}: holds no token on its first line"),
        (["--token-file=/no/such"], "token file /no/such: No such file or directory"),
        (["--tls-ca=/no/such"], "/no/such: No such file or directory"),
        ([f"--tls-ca={nonsense}"], f"{nonsense}: expected certificates of authorities in PEM format"),
        ([f"--tls-certificate={nonsense}"], "the client's certificate needs its key"),
        (
            [f"--tls-certificate={nonsense}", f"--tls-key={nonsense}"],
            f"{nonsense} and {nonsense}: expected a certificate",
        ),
    ):
        for name in ("classify", "load", "conformance"):
            assert complaint(name, 1, *flags).startswith(expected)


def test_a_connection_lost_in_the_middle_is_made_anew_over_tls(files: Files, small_repository: Path):
    """The generator connects without waiting; what it sends meanwhile has no connection, what comes later has one."""
    files.issue("127.0.0.1")
    with ServerProcess(small_repository, "grpcio", *files.serve(mutual=False), wait_ready=False) as server:
        server.wait_log("model version is READY")
        one = np.ones((1, 4), dtype=np.float32)
        message = framed(infer_request("add-sub", {"a": one, "b": one}).SerializeToString())
        sender = Sender("127.0.0.1", server.grpc_port, [message], None, Credentials(ca=files.folder / "ca.pem"))
        assert sender._link is not None
        socket.socket.shutdown(sender._link.socket, socket.SHUT_RDWR)  # that of TLS would go on in the clear
        sender.prepare(Plan(np.zeros(40, dtype=np.int64), np.arange(40) / 40, 0, 1.0, None, DEADLINE_SECONDS))
        codes = sender.run(time.monotonic()).records.code
        sender.close()
    assert set(codes) <= {0, NO_CONNECTION}
    assert codes[-1] == 0


def test_large_messages_go_through_tls(secure: ServerProcess, files: Files, tmp_path: Path):
    """More than a record of TLS and more than the windows hold, both ways."""
    flags = [files.ca, f"--token-file={files.token}", *CALM]
    load = ["load", f"127.0.0.1:{secure.grpc_port}", "--model=lenet5-mnist", "--rows=32", "--distinct=2", "--check"]
    result = tmp_path / "result.json"
    code = bench([*load, "--concurrency=4", "--seconds=1", f"--json={result}", *flags])
    said = json.loads(result.read_text())
    assert (code, said["summary"]["wrong"], said["summary"]["failed"]) == (0, 0, 0)
    assert said["summary"]["codes"]["OK"] > 0
    assert TOKEN not in result.read_text()


@pytest.mark.parametrize(
    ("program", "expected"),
    [("service", "the server speaks TLS: give"), ("bench", "the server's certificate is from no authority in")],
)
def test_grpc_adds_no_lines_of_its_own(secure: ServerProcess, files: Files, program: str, expected: str):
    """It logs handshakes that fail, unless told not to before it is imported."""
    _, arguments = COMMANDS["classify" if program == "service" else "load"]
    flags = [f"127.0.0.1:{secure.grpc_port}", *([] if program == "service" else wrong_ca(files))]
    ended = subprocess.run(
        [sys.executable, "-m", program, *arguments, *flags],
        cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE_SECONDS, env=environment(), check=False,
    )  # fmt: skip
    assert ended.stderr.count("\n") == 1, ended.stderr
    assert expected in ended.stderr
