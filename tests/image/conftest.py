"""The image under test: started hardened, as in production, by podman on the host's network.

Deselected unless the environment names an image:
    TEST_CONVSERVE_IMAGE_TAG      its tag
    TEST_CONVSERVE_IMAGE_PREFIX   the command, with variables and options before the verb, e.g. `podman --root DIR`
"""

from __future__ import annotations

import os
import shlex
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.deploy.conftest import free_ports

READY_WITHIN_SECONDS = 60
HARDENED = (
    "--network=host",
    "--memory=512m",
    "--pids-limit=256",
    "--cpus=1",
    "--read-only",
    "--tmpfs=/tmp",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if {"TEST_CONVSERVE_IMAGE_PREFIX", "TEST_CONVSERVE_IMAGE_TAG"} <= os.environ.keys():
        return
    without_image = [item for item in items if item.get_closest_marker("image")]
    if without_image:
        config.hook.pytest_deselected(items=without_image)
        items[:] = [item for item in items if item not in without_image]


@dataclass(frozen=True)
class Engine:
    """podman, and the image under test."""

    prefix: tuple[str, ...]
    tag: str

    def __call__(self, *arguments: str) -> str:
        """Run one command; return what it printed, with standard error in the failure's text."""
        done = subprocess.run([*self.prefix, *arguments], capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout.strip()

    def python(self, program: str, *options: str) -> str:
        """Run a Python program in a fresh container of the image, hardened as well."""
        return self("run", "--rm", "--pull=never", *HARDENED, *options, "--entrypoint=python", self.tag, "-c", program)


@dataclass(frozen=True)
class Container:
    """A running server."""

    engine: Engine
    name: str
    address: str

    def logs(self) -> str:
        """Return what it has written; it writes to standard error."""
        command = [*self.engine.prefix, "logs", self.name]
        return subprocess.run(command, stdout=-1, stderr=subprocess.STDOUT, text=True, timeout=60, check=True).stdout


@pytest.fixture(scope="session")
def engine() -> Engine:
    prefix = shlex.split(os.environ["TEST_CONVSERVE_IMAGE_PREFIX"])
    return Engine(("env", *prefix), os.environ["TEST_CONVSERVE_IMAGE_TAG"])


@pytest.fixture
def container(engine: Engine) -> Iterator[Container]:
    with started(engine) as running:
        yield running


@contextmanager
def started(engine: Engine) -> Iterator[Container]:
    """Run a server until it is ready, and remove it afterwards."""
    grpc_port, http_port = free_ports(2)
    name = f"convserve-test-{uuid.uuid4().hex[:12]}"
    ports = ["--env", f"CONVSERVE_GRPC_PORT={grpc_port}", "--env", f"CONVSERVE_HTTP_PORT={http_port}"]
    engine("run", "--detach", "--pull=never", "--name", name, *HARDENED, *ports, engine.tag)
    running = Container(engine, name, f"127.0.0.1:{grpc_port}")
    try:
        _wait_until_ready(running)
        yield running
    finally:
        engine("rm", "--force", "--time", "0", name)


def _wait_until_ready(container: Container) -> None:
    """Wait for SERVING: the channel connects when it can, health Watch tells of each change; nothing polls."""
    with grpc.insecure_channel(container.address) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(
            health_pb2.HealthCheckRequest(), timeout=READY_WITHIN_SECONDS, wait_for_ready=True
        )
        try:
            next(reply for reply in watch if reply.status == reply.SERVING)
        except (grpc.RpcError, StopIteration) as error:
            pytest.fail(f"not ready within {READY_WITHIN_SECONDS} s: {error!r}\n{container.logs()}")
        watch.cancel()
