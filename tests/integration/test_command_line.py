"""Starts that must fail: exit code 2 and one clear line. And a reader who leaves early."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integration.harness import DEADLINE_SECONDS, ROOT, TRANSPORTS, environment


def run(*command: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    options = {"stdout": subprocess.PIPE, "env": environment()} | options
    return subprocess.run(
        command, cwd=ROOT, stderr=subprocess.PIPE, text=True, timeout=DEADLINE_SECONDS, check=False, **options
    )


def serve(*flags: str) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, "-m", "service", "serve", "--grpc-port", "0", "--http-port", "0", *flags)


def complaints(ended: subprocess.CompletedProcess[str]) -> list[str]:
    """Return the lines that are no log entry below ERROR."""
    assert ended.returncode == 2, ended.stderr
    assert not ended.stdout
    lines = ended.stderr.splitlines()
    entries = [json.loads(line) if line.startswith("{") else {"level": "error", "message": line} for line in lines]
    return [entry["message"] for entry in entries if entry["level"] in ("error", "critical")]


def test_cuda_refuses_a_fallback(small_repository: Path, transport: str):
    ended = serve("--models", str(small_repository), "--device", "cuda", "--transport", transport)
    (line,) = complaints(ended)
    assert line.startswith("cannot serve: device 'cuda' was requested, but CUDA does not work here")
    assert "--device auto" in line
    assert json.loads(ended.stderr.splitlines()[-1])["message"] == line


@pytest.mark.parametrize(
    ("which", "transport"), [*(("--grpc-port", name) for name in TRANSPORTS), ("--http-port", "auto")]
)
def test_a_port_in_use(small_repository: Path, transport: str, which: str):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        (line,) = complaints(serve("--models", str(small_repository), "--transport", transport, which, port))
    assert line == f"convserve: cannot listen on 127.0.0.1:{port}: Address already in use. Choose another with {which}"


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
@pytest.mark.parametrize(
    "more",
    [
        pytest.param(("--transport", "auto"), id="http"),
        *(pytest.param(("--transport", name, "--http-host", "127.0.0.1"), id=name) for name in TRANSPORTS),
    ],
)
def test_a_host_that_is_not_here(small_repository: Path, host: str, more: tuple[str, ...]):
    """The HTTP door, which is made first, or the gRPC door."""
    (line,) = complaints(serve("--models", str(small_repository), "--trust-clients", "--host", host, *more))
    assert line.startswith(f"convserve: cannot listen on {host}:0: ")
    assert line.endswith(". Choose another with --host")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ((), "no model repository: give --models DIR"),
        (("--models", "nowhere"), "model repository nowhere: No such file or directory"),
        (("--models", "docs"), "holds no MODEL/VERSION/model.onnx"),
        (("--models", "models/lenet5-mnist"), f"did you mean --models {ROOT / 'models'}?"),
        (("--models", "models/lenet5-mnist/1"), f"did you mean --models {ROOT / 'models'}?"),
        (("--models", "models", "--versions", "newest"), "versions: expected latest:N, all, or numbers"),
    ],
)
def test_a_wrong_setting_is_one_line(flags: tuple[str, ...], words: str):
    ended = serve(*flags)
    (line,) = complaints(ended)
    assert words in line
    assert '"listening"' not in ended.stderr


def test_what_is_passed_over_is_named_where_nothing_is_left_to_serve(tmp_path: Path):
    (tmp_path / "a" / "v1").mkdir(parents=True)
    (tmp_path / "a" / "v1" / "model.onnx").touch()
    ended = serve("--models", str(tmp_path))
    (line,) = complaints(ended)
    assert "holds no MODEL/VERSION/model.onnx" in line
    (told,) = [json.loads(line) for line in ended.stderr.splitlines() if "ignored in the model" in line]
    assert told["place"] == "a/v1"


def test_a_reader_who_leaves_is_no_fault(small_repository: Path):
    """As in ``convserve inspect models | head -1``."""
    command = [sys.executable, "-m", "service", "inspect", str(small_repository), "--measure-seconds", "0"]
    reading, writing = os.pipe()
    os.close(reading)
    try:
        ended = run(*command, stdout=writing)
    finally:
        os.close(writing)
    assert (ended.returncode, ended.stderr) == (1, "")


def test_the_demo_takes_nothing_that_is_set_up_for_others(tmp_path: Path):
    (tmp_path / "bin").mkdir()
    stand_in = tmp_path / "bin" / "convserve"
    stand_in.write_text(f"#!/bin/sh\nenv > {tmp_path}/environment\n")
    stand_in.chmod(0o755)
    set_up = {"CONVSERVE_LOG_FORMAT": "text", "CONVSERVE_CLIENT_TLS": "1", "http_proxy": "http://127.0.0.1:9"}
    ended = run(ROOT / "examples" / "demo.sh", env=os.environ | set_up | {"VENV": str(tmp_path)})
    assert (ended.returncode, ended.stderr) == (1, "demo: the server exited before it listened\n")
    assert not set_up.keys() & {line.partition("=")[0] for line in (tmp_path / "environment").read_text().splitlines()}


@pytest.mark.parametrize("command", [["service", "inspect", "{}", "--measure-seconds", "0"], ["bench", "compare",
    "--show", "short", "--out", "bench/results/2026-11-29-compare"]], ids=["service", "bench"])  # fmt: skip
def test_a_full_disk_or_no_output_is_one_line_at_most(small_repository: Path, command: list[str]):
    """As in ``convserve inspect models > /mnt/full/report`` and ``… >&-``."""
    python = [sys.executable, "-m", *(str(small_repository) if word == "{}" else word for word in command)]
    ended = [run("/bin/sh", "-c", f'exec "$@" >{to}', "sh", *python) for to in ("/dev/full", "&-")]
    name = {"service": "convserve", "bench": "convserve-bench"}[command[0]]
    assert [(one.returncode, one.stderr) for one in ended] == [
        (1, f"{name}: the output cannot be written: No space left on device\n"),
        (0, ""),
    ]


def test_no_socket_takes_the_place_of_a_closed_standard_error():
    """As in ``convserve serve 2>&-``: the runtime's warnings would be written into it."""
    code = "import os, service.cli as cli\ntry: cli.main(['--help'])\nfinally: print(os.readlink('/proc/self/fd/2'))"
    ended = run("/bin/sh", "-c", 'exec "$@" 2>&-', "sh", sys.executable, "-c", code)
    assert ended.stdout.splitlines()[-1] == os.devnull
