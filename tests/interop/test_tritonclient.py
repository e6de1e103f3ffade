"""NVIDIA's Python client, unmodified, against the bundled models on both transports.

NVIDIA's load generator, perf_analyzer, is run by hand, since it takes minutes and is no Python package
everywhere (``pip install perf-analyzer`` where the C library is 2.38 or newer). Start the server, then:

    python -m service serve --models models --transport native
    perf_analyzer -m lenet5-mnist -u 127.0.0.1:8001 -i grpc --concurrency-range 16 --measurement-interval 4000 \\
        --warmup-request-count 500 --input-data input.json

``input.json`` holds a tensor's values, or for encoded pictures (BYTES) their base64:

    {"data": [{"images": {"content": [0, 0, ...], "shape": [28, 28, 1]}}]}
    {"data": [{"ids": {"content": [17, 4, 256, 9], "shape": [4]}}]}

    {"data": [{"images": {"b64": "iVBORw0KGgo..."}}]}

For encoded pictures and sentences it needs an input that the metadata calls BYTES: start the server with
``--advertised-input encoded`` (or put ``advertised_input = "encoded"`` into the model's serving.toml).
``-s 999 -r 3`` takes exactly three windows on a machine too noisy for its stability rule.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import trustme

from tests.integration.harness import DEADLINE_SECONDS, MODELS, TRANSPORTS, ServerProcess, eventually

CALLS = Path(__file__).with_name("triton_calls.py")
NAMES = (
    "raw_tensors",
    "pictures_and_sentences",
    "callbacks",
    "asynchronous",
    "classification",
    "description",
    "errors",
    "one_client_for_many_calls",
    "image_client_rules",
    "streaming",
    "asynchronous_stream",
    "system_shared_memory",
    "logging_settings",
)


@pytest.fixture(scope="module", params=TRANSPORTS)
def server(request: pytest.FixtureRequest) -> Iterator[ServerProcess]:
    with ServerProcess(MODELS, request.param) as running:
        yield running


@pytest.fixture(scope="module")
def outcomes(server: ServerProcess) -> dict[str, str]:
    """What came of each call, in one process: to import the client takes longer than most of them."""
    return outcomes_of(server, NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_stock_client(outcomes: dict[str, str], name: str):
    assert outcomes[name] == ""


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_the_stock_client_loads_models(transport: str):
    with ServerProcess(MODELS, transport, "--model-control-mode", "explicit") as explicit:
        assert outcomes_of(explicit, ["model_control"]) == {"model_control": ""}


def test_the_stock_client_speaks_tls_and_shows_a_token(tmp_path: Path):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    (tmp_path / "tokens").write_text("reader\n")
    flags = [f"--tls-certificate={tmp_path}/server.pem", f"--tls-key={tmp_path}/server.pem"]
    with ServerProcess(MODELS, "auto", *flags, f"--infer-tokens-file={tmp_path}/tokens", wait_ready=False) as secure:
        eventually(lambda: secure.get("/readyz")[0] == 200, "it is ready")
        assert outcomes_of(secure, ["secured"], str(tmp_path / "ca.pem"), "reader") == {"secured": ""}


def outcomes_of(server: ServerProcess, names: Sequence[str], *more: str) -> dict[str, str]:
    """Return a traceback by name, empty for a call that came right."""
    command = [sys.executable, str(CALLS), ",".join(names), str(server.grpc_port), str(MODELS), *more]
    guard = 2 * DEADLINE_SECONDS * len(names)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as calls:
        try:
            told, complaint = calls.communicate(timeout=guard)
        except subprocess.TimeoutExpired:
            calls.kill()
            told, complaint = calls.communicate()
            complaint += "\nended by the test, as it hung"
    came = dict(json.loads(line) for line in told.splitlines())
    return {name: came.get(name, f"not finished: {calls.returncode} {complaint}") for name in names}
