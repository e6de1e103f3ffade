"""No documented deployment lets strangers reach the native door, which holds a message of any size."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from service.parts import choose_transport
from service.settings import add_flags, resolve
from tests.deploy.conftest import DEPLOY, ROOT


def image_environment() -> dict[str, str]:
    """Return what the Dockerfile sets for the server."""
    return dict(re.findall(r"(CONVSERVE_\w+)=(\S+)", re.sub(r"(?m)^#.*", "", (ROOT / "Dockerfile").read_text())))


def containers(node: Any) -> Iterator[dict[str, Any]]:
    """Find every container of ours in a manifest, wherever it stands."""
    if isinstance(node, dict):
        if "env" in node and any(entry["name"].startswith("CONVSERVE_") for entry in node["env"]):
            yield node
        for value in node.values():
            yield from containers(value)
    elif isinstance(node, list):
        for value in node:
            yield from containers(value)


def deployments() -> dict[str, dict[str, str]]:
    """Return the server's environment in each deployment without a proxy, by the file that sets it."""
    found = {"Dockerfile": {}}
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    found["compose.yaml"] = compose["services"]["convserve"]["environment"]
    for path in sorted([*DEPLOY.glob("kubernetes/**/*.yaml"), *DEPLOY.glob("kserve/*.yaml")]):
        for manifest in yaml.safe_load_all(path.read_text()):
            for container in containers(manifest):
                found[str(path.relative_to(DEPLOY))] = {one["name"]: one["value"] for one in container["env"]}
    return found


@pytest.mark.parametrize("name", deployments())
def test_without_a_proxy_the_server_bounds_messages_itself(name: str):
    environment = image_environment() | {key: str(value) for key, value in deployments()[name].items()}
    parser = argparse.ArgumentParser()
    add_flags(parser)
    settings = resolve(parser.parse_args([]), environment)
    assert settings.host == "0.0.0.0"
    assert choose_transport(settings) == "grpcio"
    assert settings.max_message_bytes <= 64 * 2**20
