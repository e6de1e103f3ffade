"""deploy/compose.yaml: read by a compose implementation, hardened, and every file it mounts is there."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from tests.deploy.conftest import DEPLOY, check, program

REPLICAS = ("-f", DEPLOY / "compose.yaml", "-f", DEPLOY / "compose.replicas.yaml")


def configuration(*files: Any) -> dict[str, Any]:
    said = check(program("podman-compose"), "--dry-run", *(files or REPLICAS[:2]), "config")
    parsed: dict[str, Any] = yaml.safe_load(said[said.index("name:") if said.find("name:") >= 0 else 0 :])
    return parsed


@pytest.mark.deploy
@pytest.mark.parametrize("files", [REPLICAS[:2], REPLICAS], ids=["one server", "three behind Envoy"])
def test_every_service_is_hardened(files: tuple[Any, ...]):
    services = configuration(*files)["services"]
    assert {"convserve", "prometheus", "grafana"} <= services.keys()
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["mem_limit"], name
        assert service["cpus"], name
        assert service["pids_limit"], name
        assert service["logging"]["options"]["max-size"], f"{name}: its log may fill the disk"
        assert any(str(mount).startswith("/tmp") for mount in service["tmpfs"]), name
        assert all(str(port).startswith("127.0.0.1:") for port in service.get("ports", ())), name
        if name != "convserve":
            assert ":" in service["image"].rpartition("/")[2], "a tag is pinned"


@pytest.mark.deploy
def test_three_servers_leave_the_port_to_envoy():
    services = configuration(*REPLICAS)["services"]
    assert not services["convserve"].get("ports")
    assert services["convserve"]["deploy"]["replicas"] == 3
    assert services["envoy"]["ports"] == ["127.0.0.1:8001:8001"]
    config = yaml.safe_load((DEPLOY / "envoy" / "envoy.yaml").read_text())
    (cluster,) = config["static_resources"]["clusters"]
    address = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]["socket_address"]
    assert address == {"address": "convserve", "port_value": 8001}


def test_every_file_that_is_mounted_is_there():
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    for service in services.values():
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert not source.startswith("./") or (DEPLOY / source).exists(), volume
    assert (DEPLOY / services["convserve"]["build"]["context"] / "Dockerfile").exists()
