"""Versions that must not serve, beside others that do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2

from service.golden import Golden, read_golden, write_golden
from service.pb.convserve.classification.v1.classification_pb2 import MODEL_STATE_UNAVAILABLE, DescribeModelRequest
from service.pb.inference import grpc_service_pb2 as pb
from tests.integration import graphs
from tests.integration.harness import ADD_SUB, MODELS, ServerProcess, eventually, failure, infer_request, reseal


def picture(model: str = "lenet5-mnist", version: str = "") -> pb.ModelInferRequest:
    return infer_request(model, {"images": np.zeros((1, 28, 28, 1), dtype=np.uint8)}, model_version=version)


def change_golden_answers(folder: Path) -> None:
    golden = read_golden(folder / "golden.npz")
    write_golden(
        Golden(golden.raw, golden.inputs, tuple(output + 0.01 for output in golden.outputs)), folder / "golden.npz"
    )
    reseal(folder)


def change_golden_pictures(folder: Path) -> None:
    golden = read_golden(folder / "golden.npz")
    write_golden(Golden(golden.raw[::-1], golden.inputs, golden.outputs), folder / "golden.npz")
    reseal(folder)


def remove_golden(folder: Path) -> None:
    (folder / "golden.npz").unlink()


def change_model_bytes(folder: Path) -> None:
    data = bytearray((folder / "model.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "model.onnx").write_bytes(data)


def change_manifest(change: Callable[[dict], object]) -> Callable[[Path], None]:
    def tamper(folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text())
        change(manifest)
        (folder / "manifest.json").write_text(json.dumps(manifest))

    return tamper


def remove_a_label(folder: Path) -> None:
    labels = (folder / "labels.txt").read_text().splitlines()
    (folder / "labels.txt").write_text("\n".join(labels[:-1]))
    reseal(folder)


def reverse_labels(folder: Path) -> None:
    labels = (folder / "labels.txt").read_text().splitlines()
    (folder / "labels.txt").write_text("\n".join(reversed(labels)) + "\n")


GOLDEN = "it did not reproduce its golden answers"
MANIFEST = "its manifest, labels or golden answers are not valid"
GRAPH = "its model file is damaged or differs from its manifest"
TAMPERED = {
    "golden-answers": (change_golden_answers, GOLDEN, "differs by 0.01"),
    "golden-pictures": (change_golden_pictures, GOLDEN, "preprocessing differs"),
    "no-golden-answers": (remove_golden, MANIFEST, "golden.npz: no such file"),
    "model-bytes": (change_model_bytes, GRAPH, "the manifest says sha256:"),
    "an-unknown-key": (change_manifest(lambda manifest: manifest.update(colour="blue")), MANIFEST, "colour"),
    "a-missing-key": (change_manifest(lambda manifest: manifest.pop("parity")), MANIFEST, "parity"),
    "another-input": (change_manifest(lambda manifest: manifest["inputs"][0].update(name="x")), MANIFEST, "inputs"),
    "labels-in-another-order": (reverse_labels, MANIFEST, "labels.txt: has digest"),
    "a-label-too-few": (remove_a_label, MANIFEST, "has 9 labels"),
}


def serve_tampered(tmp_path: Path, tamper: Callable[[Path], None], *versions: int) -> None:
    for version in versions:
        shutil.copytree(MODELS / "lenet5-mnist" / "1", tmp_path / "lenet5-mnist" / str(version))
    tamper(tmp_path / "lenet5-mnist" / str(versions[-1]))
    graphs.write(tmp_path, "add-sub", graphs.add_sub())


@pytest.fixture(scope="module")
def tampered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Serves ``add-sub``, and LeNet-5 once for each way of tampering with it."""
    root = tmp_path_factory.mktemp("tampered")
    for name, (tamper, _, _) in TAMPERED.items():
        shutil.copytree(MODELS / "lenet5-mnist", root / name)
        tamper(root / name / "1")
    graphs.write(root, "add-sub", graphs.add_sub())
    with ServerProcess(root, "native", wait_ready=False) as server:
        server.client.wait_ready("add-sub")
        eventually(lambda: len(server.logged("model version is UNAVAILABLE")) == len(TAMPERED), "all are looked at")
        yield server


@pytest.mark.parametrize("name", TAMPERED)
def test_a_tampered_version_is_unavailable_while_others_serve(tampered: ServerProcess, name: str):
    _, told, logged = TAMPERED[name]
    (entry,) = (entry for entry in tampered.logged("model version is UNAVAILABLE") if entry["model"] == name)
    assert logged in entry["message"]
    failed = failure(tampered.client.infer, picture(name))
    assert failed.code is grpc.StatusCode.UNAVAILABLE
    assert failed.info is not None
    assert failed.info.reason == "MODEL_NOT_READY"
    assert failed.message == f"model '{name}' version 1 is UNAVAILABLE: {told}"
    describe = tampered.client.classification.DescribeModel
    described = describe(DescribeModelRequest(model_name=name))
    assert (described.state, described.state_reason) == (MODEL_STATE_UNAVAILABLE, told)
    with pytest.raises(grpc.RpcError) as nobody:
        describe(DescribeModelRequest(model_name=name, model_version="7"))
    assert nobody.value.code() is grpc.StatusCode.NOT_FOUND
    check_the_others(tampered, name)


MODES = {
    "none": ("--model-control-mode", "none"),
    "poll": ("--model-control-mode", "poll", "--repository-poll-seconds", "0.1"),
    "explicit": ("--model-control-mode", "explicit", "--load-models", "*"),
}


@pytest.mark.parametrize("mode", MODES)
def test_a_model_with_a_wrong_serving_toml_is_unavailable_while_others_serve(tmp_path: Path, mode: str):
    serve_tampered(tmp_path, lambda folder: (folder.parent / "serving.toml").write_text("instance = 2\n"), 1)
    with ServerProcess(tmp_path, "native", *MODES[mode], wait_ready=False) as server:
        server.client.wait_ready("add-sub")
        (told,) = server.logged("a model cannot be served as it is on disk: ")
        assert "lenet5-mnist/serving.toml: unknown key 'instance'; known: " in told["message"]
        failed = failure(server.client.infer, picture())
        assert failed.code is grpc.StatusCode.UNAVAILABLE
        assert failed.message == "model 'lenet5-mnist' version 1 is UNAVAILABLE: its serving.toml is not valid"
        index = server.client.inference.RepositoryIndex(pb.RepositoryIndexRequest())
        assert [(model.name, model.state, model.reason) for model in index.models] == [
            ("add-sub", "READY", ""),
            ("lenet5-mnist", "UNAVAILABLE", "its serving.toml is not valid"),
        ]
        assert server.metric("convserve_model_change_failed", model="lenet5-mnist") == 1
        check_the_others(server)
        (tmp_path / "lenet5-mnist" / "serving.toml").write_text("instances = 2\n")
        if mode == "explicit":
            server.client.inference.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="lenet5-mnist"))
        if mode != "none":
            server.client.wait_ready()
            assert server.client.infer(picture()).model_version == "1"


def check_the_others(server: ServerProcess, name: str = "lenet5-mnist") -> None:
    """The server as a whole is not ready, and says so everywhere; the healthy model answers."""
    client = server.client
    assert client.infer(ADD_SUB).model_name == "add-sub"
    assert not client.inference.ServerReady(pb.ServerReadyRequest()).ready
    assert not client.inference.ModelReady(pb.ModelReadyRequest(name=name)).ready
    assert client.inference.ModelReady(pb.ModelReadyRequest(name="add-sub")).ready
    for service, status in (("", "NOT_SERVING"), (name, "NOT_SERVING"), ("add-sub", "SERVING")):
        answer = client.health.Check(health_pb2.HealthCheckRequest(service=service))
        assert health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status) == status, service
    assert server.get("/readyz")[0] == 503
    assert server.metric("convserve_model_state", model=name, state="UNAVAILABLE") == 1
    assert server.metric("convserve_golden_check_passed", model=name) == 0


def test_the_older_version_goes_on_answering(tmp_path: Path, transport: str):
    serve_tampered(tmp_path, change_golden_answers, 1, 2)
    with ServerProcess(tmp_path, transport, "--versions", "all", wait_ready=False) as server:
        server.client.wait_ready("add-sub")
        server.wait_log("model version is UNAVAILABLE")
        server.client.wait_ready()
        assert server.client.infer(picture()).model_version == "1"
        assert failure(server.client.infer, picture(version="2")).code is grpc.StatusCode.UNAVAILABLE
        assert server.client.inference.ServerReady(pb.ServerReadyRequest()).ready  # every model answers
        health = health_pb2.HealthCheckRequest(service="lenet5-mnist/2")
        assert server.client.health.Check(health).status == health_pb2.HealthCheckResponse.NOT_SERVING


def test_versions_and_settings_of_one_model(tmp_path: Path):
    for version in (1, 2, 10):
        graphs.write(tmp_path, "add-sub", graphs.add_sub(version), version)
    (tmp_path / "add-sub" / "serving.toml").write_text('versions = "1,10"\nmax_batch_size = 3\n')
    (tmp_path / "add-sub" / "drafts").mkdir()
    with ServerProcess(tmp_path, "grpcio") as server:
        told = server.client.inference.ModelMetadata(pb.ModelMetadataRequest(name="add-sub"))
        assert list(told.versions) == ["10", "1"]
        configured = server.client.inference.ModelConfig(pb.ModelConfigRequest(name="add-sub")).config
        assert configured.max_batch_size == 3
        asked = infer_request("add-sub", {}, model_version="2")
        assert failure(server.client.infer, asked).code is grpc.StatusCode.UNAVAILABLE
