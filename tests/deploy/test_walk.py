"""docs/operations.md, "Without Docker": its commands as they stand but for ports and pace, then the dashboard."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import yaml

from tests.deploy.chromium import browser
from tests.deploy.conftest import DEPLOY, ROOT, free_ports, program, running
from tests.integration.harness import DEADLINE_SECONDS, MODELS, ServerProcess, eventually, http_get

PAGE = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
WALK = PAGE.partition("### Without Docker\n")[2].partition("\n## ")[0]
COMMANDS = [
    shlex.split(command, comments=True)
    for block in re.findall(r"^ *```\n(.*?)^ *```$", WALK, re.DOTALL | re.MULTILINE)
    for command in block.replace("\\\n", "").splitlines()
]
# Nothing is refused and nobody leaves.
QUIET = {"Refusals by reason", "Cancelled requests"}
WITHOUT_DATA = """
[...document.querySelectorAll("section:not([data-state='data'])")].map(
  (section) => section.dataset.state === "empty" ? section.querySelector("h3").textContent : section.textContent
)
"""


def command(program_name: str) -> list[str]:
    """Return the one command of the walk that runs this program, without its name."""
    (found,) = [rest for first, *rest in COMMANDS if Path(first).name == program_name]
    return found


def ours(module: str, arguments: list[str]) -> list[str]:
    return [sys.executable, "-m", module, *arguments]


@contextmanager
def prometheus(http_port: int, folder: Path) -> Iterator[int]:
    """Run Prometheus by the walk's command; yields its port."""
    binary = program("prometheus")
    shutil.copytree(DEPLOY / "prometheus", folder / "prometheus")
    config = folder / "prometheus" / "loopback.yml"
    text = config.read_text().replace("127.0.0.1:8002", f"127.0.0.1:{http_port}")
    config.write_text(re.sub(r"(_interval): \d+s", r"\1: 1s", text))
    (port,) = free_ports(1)
    places = {
        "deploy/prometheus/loopback.yml": str(config),
        "/tmp/convserve-prometheus": str(folder / "data"),
        "127.0.0.1:9090": f"127.0.0.1:{port}",
        "deploy/grafana": str(DEPLOY / "grafana"),
    }
    flags = [flag.partition("=") for flag in command("prometheus")]
    own = [binary, *(f"{name}={places[value]}" for name, _, value in flags)]
    with (folder / "prometheus.log").open("wb") as log, running(own, log) as process:

        def ready() -> bool:
            assert process.poll() is None, (folder / "prometheus.log").read_text()
            try:
                return http_get(port, "/-/ready")[0] == 200
            except OSError:
                return False

        eventually(ready, "Prometheus is ready")
        yield port


def test_the_configuration_differs_from_that_of_compose_in_where_the_server_is_only():
    here, compose = (
        yaml.safe_load((DEPLOY / "prometheus" / name).read_text()) for name in ("loopback.yml", "prometheus.yml")
    )
    del here["scrape_configs"][0]["static_configs"], compose["scrape_configs"][0]["dns_sd_configs"]
    assert here == compose


@pytest.mark.deploy
def test_from_a_clone_to_a_dashboard_with_traffic(tmp_path: Path):
    chromium = program("chromium")
    (_, arguments) = command("make")
    with ExitStack() as stack:
        server = stack.enter_context(ServerProcess(MODELS, "native", *arguments.removeprefix("ARGS=").split()))
        address = f"127.0.0.1:{server.grpc_port}"
        asked = subprocess.run(
            ours("service", [*command("convserve"), "--server", address]),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=DEADLINE_SECONDS,
            check=True,
        )
        assert asked.stdout.count("positive") == 2
        port = stack.enter_context(prometheus(server.http_port, tmp_path))
        load = [address if part == "127.0.0.1:8001" else part for part in command("convserve-bench")]
        log = stack.enter_context((tmp_path / "load.log").open("wb"))
        stack.enter_context(running(ours("bench", load), log))
        page = stack.enter_context(browser(chromium, tmp_path / "profile"))
        page.open(f"http://127.0.0.1:{port}/user/")
        page.until("document.querySelectorAll('section').length > 0")

        def without_data() -> set[str]:
            page.evaluate("refresh()")
            return set(page.evaluate(WITHOUT_DATA))

        eventually(lambda: without_data() <= QUIET, "every panel shows something")
        assert page.evaluate("document.querySelector('#alerts').textContent") == ""
        assert page.evaluate("document.querySelectorAll('svg path[d]').length") > 20
        keys = page.evaluate("[...document.querySelectorAll('.legend span')].map((key) => key.textContent)")
        assert [key for key in keys if not re.match(r"\S.*: [\d.]", key)] == []

        page.evaluate("document.querySelector('#model').value = 'lenet5-mnist'; refresh()")
        calls = "document.querySelector('#panel-4 .body').textContent"
        eventually(lambda: page.evaluate(f"refresh().then(() => {calls})") in ("0/s", ""), "that model is not called")
        assert page.complaints == []
