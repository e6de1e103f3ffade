"""The Deployment run for real by ``podman play kube``: it becomes ready, answers, and drains within its grace period.

Needs an image, named by the environment as tests/image/conftest.py says.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.client import Client
from tests.deploy.conftest import DEPLOY, check, free_ports
from tests.integration.harness import eventually, http_get

ENVIRONMENT = ("TEST_CONVSERVE_IMAGE_PREFIX", "TEST_CONVSERVE_IMAGE_TAG")
pytestmark = [
    pytest.mark.deploy,
    pytest.mark.image,
    pytest.mark.skipif(not set(ENVIRONMENT) <= os.environ.keys(), reason=f"no image: set {' and '.join(ENVIRONMENT)}"),
]


def for_this_host(deployment: dict[str, Any], grpc_port: int, http_port: int) -> dict[str, Any]:
    """Return the Deployment with what one host without a pod network must have otherwise."""
    deployment["spec"]["replicas"] = 1
    pod = deployment["spec"]["template"]["spec"]
    pod["hostNetwork"] = True
    (container,) = pod["containers"]
    container |= {"image": os.environ["TEST_CONVSERVE_IMAGE_TAG"], "imagePullPolicy": "Never"}
    del container["ports"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        del container[probe]  # podman would ask with curl, inside the image; asked below instead
    ports = {"CONVSERVE_GRPC_PORT": str(grpc_port), "CONVSERVE_HTTP_PORT": str(http_port)}
    container["env"] += [{"name": name, "value": value} for name, value in ports.items()]
    return deployment


def test_the_deployment_becomes_ready_answers_and_drains(tmp_path: Path):
    prefix = ["env", *shlex.split(os.environ["TEST_CONVSERVE_IMAGE_PREFIX"])]
    # What kustomize adds to it is a namespace and the image's tag, which are others here anyway.
    deployment = yaml.safe_load((DEPLOY / "kubernetes" / "base" / "deployment.yaml").read_text())
    pod = deployment["spec"]["template"]["spec"]
    grace = pod["terminationGracePeriodSeconds"]
    probes = [
        pod["containers"][0][name]["httpGet"]["path"] for name in ("startupProbe", "livenessProbe", "readinessProbe")
    ]
    grpc_port, http_port = free_ports(2)
    path = tmp_path / "deployment.yaml"
    path.write_text(yaml.safe_dump(for_this_host(deployment, grpc_port, http_port)))
    check(*prefix, "play", "kube", path)
    try:
        listed = check(*prefix, "ps", "--format", "{{.Names}}").split()
        (name,) = [one for one in listed if one.startswith("convserve-") and one.endswith("-convserve")]

        def answered(probe: str) -> bool:
            try:
                return http_get(http_port, probe)[0] == 200
            except OSError:
                return False

        for probe in probes:
            eventually(lambda probe=probe: answered(probe), f"{probe}\n{check(*prefix, 'logs', name)}")
        status = check(*prefix, "exec", name, "cat", "/proc/1/status")
        assert "CapEff:\t0000000000000000" in status
        assert "NoNewPrivs:\t1" in status
        wrote = subprocess.run([*prefix, "exec", name, "touch", "/x"], capture_output=True, text=True, check=False)
        assert "Read-only file system" in wrote.stderr
        with Client(f"127.0.0.1:{grpc_port}") as client:
            assert client.classify_sentences("textcnn-mr", ["A gripping story."]).results[0].classification
        started = time.monotonic()
        check(*prefix, "stop", "--time", str(grace), name)
        assert time.monotonic() - started < grace
        assert check(*prefix, "inspect", name, "--format", "{{.State.ExitCode}}").strip() == "0"
    finally:
        subprocess.run([*prefix, "play", "kube", "--down", str(path)], capture_output=True, check=False)
