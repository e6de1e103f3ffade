"""One server a transport for all tests that leave it as they found it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest

from tests.integration import graphs
from tests.integration.harness import MODELS, TRANSPORTS, EmbeddedServer, ServerProcess, embedded

Embed = Callable[..., AbstractContextManager[EmbeddedServer]]


@pytest.fixture(scope="session", params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled models, and every small graph; ``add-sub`` in two versions, both served."""
    root = tmp_path_factory.mktemp("repository")
    for model in MODELS.iterdir():
        shutil.copytree(model, root / model.name)
    for name, build in graphs.GRAPHS.items():
        graphs.write(root, name, build())
    graphs.write(root, "add-sub", graphs.add_sub(offset=100.0), version=2)
    (root / "add-sub" / "serving.toml").write_text('versions = "all"\n')
    return root


@pytest.fixture(scope="session")
def server(repository: Path, transport: str) -> Iterator[ServerProcess]:
    with ServerProcess(repository, transport, "--max-message-bytes", str(4 * 1024 * 1024)) as running:
        yield running


@pytest.fixture(scope="session")
def small_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Graphs only: a server of it starts at once."""
    root = tmp_path_factory.mktemp("small-repository")
    for name in ("add-sub", "loop"):
        graphs.write(root, name, graphs.GRAPHS[name]())
    return root


@pytest.fixture
def embed(small_repository: Path, transport: str, monkeypatch: pytest.MonkeyPatch) -> Embed:
    """Start a server in this process with settings of the test's own."""
    return lambda **settings: embedded(small_repository, transport, monkeypatch, **settings)


@pytest.fixture(scope="session")
def loop_iterations() -> int:
    """So many iterations of the graph ``loop`` take about a second here, alone; more on a busy machine."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(graphs.loop().SerializeToString(), options)

    def seconds(count: int) -> float:
        started = time.perf_counter()
        session.run(None, {"iterations": np.array([[count]])})
        return time.perf_counter() - started

    count = 100
    while (quickest := min(seconds(count) for _ in range(5))) < 0.02:
        count *= 2
    return int(count / quickest)
