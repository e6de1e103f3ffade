"""Servers to be asked: one a transport with everything, and a small one that the faults are planted before."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration import graphs
from tests.integration.harness import MODELS, TRANSPORTS, ServerProcess

BUNDLED = tuple(sorted(folder.name for folder in MODELS.iterdir()))
GRAPHS = ("add-sub", "bfloat16", "datatypes", "datatypes-typed", "fixed", "grid", "strings")
SMALL = ("datatypes", "datatypes-typed")
# These outputs give their inputs back, by place; a fault must not hide that.
MIRRORS = {"datatypes": {}, "datatypes-typed": {}, "grid": {}, "fixed": {}, "bfloat16": {}, "strings": {}}


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled models and small graphs; ``add-sub`` in two versions."""
    root = tmp_path_factory.mktemp("conformance")
    for name in BUNDLED:
        shutil.copytree(MODELS / name, root / name)
    for name in GRAPHS:
        graphs.write(root, name, graphs.GRAPHS[name]())
    graphs.write(root, "add-sub", graphs.add_sub(offset=100.0), version=2)
    (root / "add-sub" / "serving.toml").write_text('versions = "all"\n')
    return root


def explicit(root: Path, transport: str, *flags: str, wait_ready: bool = True) -> ServerProcess:
    """Serve a repository whose models may be unloaded and loaded by call."""
    return ServerProcess(
        root, transport, "--model-control-mode", "explicit", "--load-models", "*", *flags, wait_ready=wait_ready
    )


@pytest.fixture(scope="session", params=TRANSPORTS)
def server(request: pytest.FixtureRequest, repository: Path) -> Iterator[ServerProcess]:
    with explicit(repository, request.param) as running:
        yield running


@pytest.fixture(scope="session")
def small_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """All datatypes, on the transport whose every method is answered by one server."""
    root = tmp_path_factory.mktemp("conformance-small")
    for name in SMALL:
        graphs.write(root, name, graphs.GRAPHS[name]())
    with explicit(root, "grpcio") as running:
        yield running


@pytest.fixture(scope="session")
def default_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """As users get it: models are loaded at the start, and by no call."""
    root = tmp_path_factory.mktemp("conformance-default")
    graphs.write(root, "grid", graphs.GRAPHS["grid"]())
    with ServerProcess(root, "grpcio") as running:
        yield running
