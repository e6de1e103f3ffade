"""The image's own health check, run here: it needs no client's certificate where gRPC speaks TLS."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

from tests.deploy.conftest import ROOT
from tests.integration import graphs
from tests.integration.harness import ServerProcess, eventually
from tests.integration.test_tls import Files, SecureServer


def exit_code(server: ServerProcess) -> int:
    """Run the Dockerfile's command as in a container that was given other ports."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", "")
    (found,) = re.findall(r"^HEALTHCHECK .* CMD (\[.*\])$", text, re.MULTILINE)
    python, *arguments = json.loads(found)
    assert python == "python"
    ports = {"CONVSERVE_GRPC_PORT": str(server.grpc_port), "CONVSERVE_HTTP_PORT": str(server.http_port)}
    return subprocess.run([sys.executable, *arguments], env=ports, timeout=60, check=False).returncode


def test_healthy_is_who_is_ready_with_tls_too(tmp_path: Path):
    repository = tmp_path / "models"
    graphs.write(repository, "add-sub", graphs.GRAPHS["add-sub"]())
    flags = ("--lame-duck-seconds", "600", *Files(tmp_path).flags(mutual=True))
    with SecureServer(repository, *flags) as server:
        eventually(lambda: server.get("/readyz")[0] == 200, "it is ready")
        assert exit_code(server) == 0
        server.signal(signal.SIGTERM)
        eventually(lambda: server.get("/readyz")[0] == 503, "it drains")
        assert exit_code(server) == 1
