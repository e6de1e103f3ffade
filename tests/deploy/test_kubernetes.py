"""deploy/kubernetes and deploy/kserve: built, validated, and consistent with the server they run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.settings import Settings
from tests.deploy.conftest import DEPLOY, ROOT, check, program
from tests.integration import graphs
from tests.integration.harness import MODELS, ServerProcess

KUBERNETES = DEPLOY / "kubernetes"
BUILDS = ("base", "overlays/gpu", "overlays/monitoring")
OPERATORS = ("monitoring.coreos.com/",)  # resources that Kubernetes itself does not define
CLOSE_SECONDS = 5  # the doors and the interpreter, generously


def read(path: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def deployment() -> dict[str, Any]:
    (found,) = read(KUBERNETES / "base" / "deployment.yaml")
    return found


def build(name: str) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all(check(program("kubectl"), "kustomize", KUBERNETES / name)) if one]


@pytest.mark.deploy
def test_the_base_is_valid_as_it_stands(tmp_path: Path):
    """Asks for no kubectl, which Debian has in a version that cannot build the overlays."""
    files = [path for path in (KUBERNETES / "base").glob("*.yaml") if path.name != "kustomization.yaml"]
    resources = [one for path in files for one in read(path)]
    path = tmp_path / "resources.yaml"
    path.write_text(yaml.safe_dump_all(resources))
    assert check(program("kubernetes-validate"), "--strict", path).count(" passed ") == len(resources)


@pytest.mark.deploy
@pytest.mark.parametrize("name", BUILDS)
def test_what_kustomize_builds_is_valid(name: str, tmp_path: Path):
    resources = build(name)
    own = [one for one in resources if not one["apiVersion"].startswith(OPERATORS)]
    path = tmp_path / "resources.yaml"
    path.write_text(yaml.safe_dump_all(own))
    said = check(program("kubernetes-validate"), "--strict", path)
    assert said.count(" passed ") == len(own)
    assert all(one["metadata"].get("namespace") == "convserve" for one in resources if one["kind"] != "Namespace")


@pytest.mark.deploy
def test_the_gpu_variant_refuses_a_fallback_and_loses_no_other_setting():
    (plain,), (gpu,) = (
        [one for one in build(name) if one["kind"] == "Deployment"] for name in ("base", "overlays/gpu")
    )
    before, after = (
        {entry["name"]: entry["value"] for entry in one["spec"]["template"]["spec"]["containers"][0]["env"]}
        for one in (plain, gpu)
    )
    assert after == before | {"CONVSERVE_DEVICE": "cuda"}
    (container,) = gpu["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert container["image"] == "convserve:latest-gpu"


@pytest.mark.deploy
def test_the_containers_of_the_serving_runtime_are_valid(tmp_path: Path):
    (runtime,) = read(DEPLOY / "kserve" / "clusterservingruntime.yaml")
    spec = {key: runtime["spec"][key] for key in ("containers", "volumes")}
    path = tmp_path / "pod.yaml"
    path.write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": spec}))
    assert " passed " in check(program("kubernetes-validate"), "--strict", path)
    (service,) = read(DEPLOY / "kserve" / "inferenceservice.yaml")
    model = service["spec"]["predictor"]["model"]
    assert model["runtime"] == runtime["metadata"]["name"]
    assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]
    assert model["modelFormat"]["name"] in {entry["name"] for entry in runtime["spec"]["supportedModelFormats"]}


def test_the_serving_runtime_is_chosen_for_no_format_of_others():
    """KServe admits no second runtime of a format with the same priority; its own for Triton has onnx with 1."""
    (runtime,) = read(DEPLOY / "kserve" / "clusterservingruntime.yaml")
    chosen = [entry["name"] for entry in runtime["spec"]["supportedModelFormats"] if entry.get("autoSelect")]
    assert chosen == ["convserve"]


@pytest.mark.parametrize("name", BUILDS)
def test_every_file_is_part_of_its_build(name: str):
    folder = KUBERNETES / name
    (kustomization,) = read(folder / "kustomization.yaml")
    named = {*kustomization["resources"], *(patch.get("path") for patch in kustomization.get("patches", ()))}
    assert all((folder / entry).exists() for entry in named - {None})
    present = {path.name for path in folder.glob("*.yaml")}
    assert present - named <= {"kustomization.yaml", "prometheus-adapter-values.yaml"}


def settings_of(container: dict[str, Any]) -> Settings:
    given = {entry["name"].removeprefix("CONVSERVE_").lower(): entry["value"] for entry in container["env"]}
    return Settings(lame_duck_seconds=float(given["lame_duck_seconds"]), drain_seconds=float(given["drain_seconds"]))


def test_kubernetes_waits_for_the_drain_to_end():
    pod = deployment()["spec"]["template"]["spec"]
    settings = settings_of(pod["containers"][0])
    longest = settings.lame_duck_seconds + settings.drain_seconds + CLOSE_SECONDS
    assert pod["terminationGracePeriodSeconds"] >= longest
    # The endpoint is gone from the balancers before the lame duck ends.
    probe = pod["containers"][0]["readinessProbe"]
    assert settings.lame_duck_seconds > probe["periodSeconds"] * probe["failureThreshold"] + 5

    (runtime,) = read(DEPLOY / "kserve" / "clusterservingruntime.yaml")
    (service,) = read(DEPLOY / "kserve" / "inferenceservice.yaml")
    settings = settings_of(runtime["spec"]["containers"][0])
    longest = settings.lame_duck_seconds + settings.drain_seconds + CLOSE_SECONDS
    assert service["spec"]["predictor"]["terminationGracePeriodSeconds"] >= longest

    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["convserve"]
    defaults = Settings()
    grace = float(compose["stop_grace_period"].removesuffix("s"))
    assert grace >= defaults.lame_duck_seconds + defaults.drain_seconds + CLOSE_SECONDS


def test_kserve_probes_and_confines_the_server_as_the_deployment_does():
    pod = deployment()["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    (runtime,) = read(DEPLOY / "kserve" / "clusterservingruntime.yaml")
    (of_kserve,) = runtime["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        asked = container[name]["httpGet"]
        assert of_kserve[name] == container[name] | {"httpGet": asked | {"port": ports[asked["port"]]}}, name
    of_pod = {name: value for name, value in pod["securityContext"].items() if name != "fsGroup"}
    assert of_kserve["securityContext"] == container["securityContext"] | of_pod


def test_names_ports_and_users_agree():
    dockerfile = (ROOT / "Dockerfile").read_text()
    pod = deployment()["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    user = re.search(r"^USER (\d+):(\d+)$", dockerfile, re.MULTILINE)
    assert user is not None
    security = pod["securityContext"]
    assert (security["runAsUser"], security["runAsGroup"]) == tuple(map(int, user.groups()))
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"grpc": Settings().grpc_port, "http": Settings().http_port}
    labels = deployment()["spec"]["template"]["metadata"]["labels"].items()
    services = read(KUBERNETES / "base" / "service.yaml")
    for service in services:
        assert service["spec"]["selector"].items() <= labels
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports.keys()
    (monitor,) = read(KUBERNETES / "overlays" / "monitoring" / "servicemonitor.yaml")
    selected = [
        one
        for one in services
        if monitor["spec"]["selector"]["matchLabels"].items() <= one["metadata"]["labels"].items()
    ]
    assert [one["metadata"]["name"] for one in selected] == ["convserve"]  # once, and the job's name in the rules
    (scaler,) = read(KUBERNETES / "overlays" / "monitoring" / "horizontalpodautoscaler.yaml")
    adapter = yaml.safe_load((KUBERNETES / "overlays" / "monitoring" / "prometheus-adapter-values.yaml").read_text())
    wanted = {metric["pods"]["metric"]["name"] for metric in scaler["spec"]["metrics"]}
    assert wanted == {rule["name"]["as"] for rule in adapter["rules"]["custom"]}


def test_no_server_is_restarted_for_a_model_that_cannot_be_loaded(tmp_path: Path):
    (container,) = deployment()["spec"]["template"]["spec"]["containers"]
    graphs.write(tmp_path, "add-sub", graphs.GRAPHS["add-sub"]())
    (tmp_path / "broken" / "1").mkdir(parents=True)
    (tmp_path / "broken" / "1" / "model.onnx").write_bytes(b"no model")
    with ServerProcess(tmp_path, "grpcio", wait_ready=False) as server:
        server.client.wait_ready("add-sub")
        answers = {
            probe: server.get(container[probe]["httpGet"]["path"])[0]
            for probe in ("startupProbe", "readinessProbe", "livenessProbe")
        }
    assert answers == {"startupProbe": 200, "readinessProbe": 503, "livenessProbe": 200}


def test_the_probes_are_answered_by_a_server_with_the_settings_of_the_deployment():
    (container,) = deployment()["spec"]["template"]["spec"]["containers"]
    given = {entry["name"].removeprefix("CONVSERVE_").lower(): entry["value"] for entry in container["env"]}
    assert given.pop("try_form") == "false"
    flags = [part for name, value in given.items() for part in ("--" + name.replace("_", "-"), value)]
    with ServerProcess(MODELS, "grpcio", "--no-try-form", *flags) as server:
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert server.get(container[probe]["httpGet"]["path"])[0] == 200, probe
