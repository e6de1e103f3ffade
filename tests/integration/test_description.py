"""Metadata, configuration, statistics, readiness, health and reflection: what clients decide by."""

from __future__ import annotations

import grpc
import numpy as np
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from service.pb.inference import grpc_service_pb2 as pb
from service.pb.inference import model_config_pb2 as config
from tests.integration.harness import ADD_SUB, DEADLINE_SECONDS, ServerProcess, failure, infer_request

SERVING = health_pb2.HealthCheckResponse.SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


def test_the_server(server: ServerProcess):
    inference = server.client.inference
    assert inference.ServerLive(pb.ServerLiveRequest()).live
    assert inference.ServerReady(pb.ServerReadyRequest()).ready
    told = inference.ServerMetadata(pb.ServerMetadataRequest())
    assert told.name == "convserve"
    assert {"classification", "statistics", "model_configuration"} <= set(told.extensions)
    assert "model_repository" not in told.extensions  # only what works


def test_metadata_of_a_picture_model(server: ServerProcess):
    told = server.client.inference.ModelMetadata(pb.ModelMetadataRequest(name="lenet5-mnist"))
    assert (told.name, list(told.versions), told.platform) == ("lenet5-mnist", ["1"], "onnxruntime_onnx")
    assert [(each.name, each.datatype, list(each.shape)) for each in told.inputs] == [
        ("images", "UINT8", [-1, 28, 28, 1])
    ]
    assert [(each.name, each.datatype, list(each.shape)) for each in told.outputs] == [
        ("probabilities", "FP32", [-1, 10])
    ]
    assert told.properties["verified"] == "true"
    assert told.properties["execution_provider_actual"] == "CPUExecutionProvider"
    assert float(told.properties["accuracy.top1"]) > 0.9


def test_metadata_of_bare_graphs(server: ServerProcess):
    fixed = server.client.inference.ModelMetadata(pb.ModelMetadataRequest(name="fixed"))
    assert list(fixed.inputs[0].shape) == [2, 3]
    assert fixed.properties["verified"] == "false"
    both = server.client.inference.ModelMetadata(pb.ModelMetadataRequest(name="add-sub"))
    assert list(both.versions) == ["2", "1"]
    assert [each.name for each in both.outputs] == ["sum", "difference"]


def test_configuration(server: ServerProcess):
    def ask(name: str) -> config.ModelConfig:
        return server.client.inference.ModelConfig(pb.ModelConfigRequest(name=name)).config

    pictures = ask("lenet5-mnist")
    assert (pictures.max_batch_size, pictures.input[0].format) == (32, config.ModelInput.FORMAT_NHWC)
    assert (pictures.input[0].data_type, list(pictures.input[0].dims)) == (config.TYPE_UINT8, [28, 28, 1])
    assert pictures.output[0].label_filename == "labels.txt"
    assert pictures.HasField("dynamic_batching")
    fixed = ask("fixed")
    assert (fixed.max_batch_size, list(fixed.input[0].dims)) == (0, [2, 3])
    assert not fixed.HasField("dynamic_batching")
    assert fixed.parameters["verified"].string_value == "false"
    assert ask("strings").input[0].data_type == config.TYPE_STRING


def test_statistics_grow_by_rows_requests_and_batches(server: ServerProcess):
    def ask() -> pb.ModelStatistics:
        asked = pb.ModelStatisticsRequest(name="scores", version="1")
        return server.client.inference.ModelStatistics(asked).model_stats[0]

    before = ask()
    for _ in range(3):
        server.client.infer(infer_request("scores", {"x": np.zeros((4, 3), dtype=np.uint8)}))
    after = ask()
    assert after.inference_count - before.inference_count == 12
    assert after.execution_count - before.execution_count == 3
    for name in ("success", "queue", "compute_input", "compute_infer"):
        new, old = (getattr(stats.inference_stats, name) for stats in (after, before))
        assert new.count - old.count == 3, name
        assert new.ns > old.ns, name
    assert after.last_inference >= before.last_inference > 0 or not before.execution_count
    new, old = (
        {batch.batch_size: batch.compute_infer.count for batch in stats.batch_stats} for stats in (after, before)
    )
    assert new == old | {4: old.get(4, 0) + 3}


def test_statistics_without_a_name_are_of_every_version(server: ServerProcess):
    told = server.client.inference.ModelStatistics(pb.ModelStatisticsRequest()).model_stats
    names = [(stats.name, stats.version) for stats in told]
    assert {("add-sub", "1"), ("add-sub", "2"), ("lenet5-mnist", "1"), ("textcnn-mr", "1")} <= set(names)
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("method", "request_type"),
    [
        ("ModelMetadata", pb.ModelMetadataRequest),
        ("ModelConfig", pb.ModelConfigRequest),
        ("ModelStatistics", pb.ModelStatisticsRequest),
        ("ModelReady", pb.ModelReadyRequest),
    ],
)
def test_versions_and_names_that_are_not_there(server: ServerProcess, method: str, request_type: type):
    call = getattr(server.client.inference, method)
    assert failure(call, request_type(name="nothing")).code is grpc.StatusCode.NOT_FOUND
    assert failure(call, request_type(name="add-sub", version="9")).code is grpc.StatusCode.NOT_FOUND
    assert failure(call, request_type(name="add-sub", version="x")).code is grpc.StatusCode.INVALID_ARGUMENT
    call(request_type(name="add-sub", version="1"))


def test_a_model_is_ready(server: ServerProcess):
    assert server.client.inference.ModelReady(pb.ModelReadyRequest(name="add-sub", version="2")).ready


@pytest.mark.parametrize(
    "name",
    ["", "lenet5-mnist", "add-sub", "add-sub/1", "add-sub/2", "inference.GRPCInferenceService",
     "convserve.classification.v1.ClassificationService"],
)  # fmt: skip
def test_health_of_what_serves(server: ServerProcess, name: str):
    request = health_pb2.HealthCheckRequest(service=name)
    assert server.client.health.Check(request).status == SERVING
    watch = server.client.health.Watch(request, timeout=DEADLINE_SECONDS)
    assert next(watch).status == SERVING
    watch.cancel()


def test_health_of_an_unknown_name(server: ServerProcess):
    request = health_pb2.HealthCheckRequest(service="nothing")
    assert failure(server.client.health.Check, request).code is grpc.StatusCode.NOT_FOUND
    watch = server.client.health.Watch(request, timeout=DEADLINE_SECONDS)
    assert next(watch).status == SERVICE_UNKNOWN
    watch.cancel()


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_reflection_lists_and_describes_the_services(server: ServerProcess, version: str):
    """Whatever is listed can be described, as tools ask of each service; the two versions say the same."""
    names = {
        "inference.GRPCInferenceService",
        "convserve.classification.v1.ClassificationService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    ask = reflection_pb2.ServerReflectionRequest
    info = server.client.channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=ask.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    requests = [ask(list_services=""), *(ask(file_containing_symbol=name) for name in names)]
    listed, *described = info(iter(requests), timeout=DEADLINE_SECONDS)
    assert {service.name for service in listed.list_services_response.service} == names
    for name, answer in zip(names, described, strict=True):
        pool = DescriptorPool()
        for file in reversed(answer.file_descriptor_response.file_descriptor_proto):
            pool.AddSerializedFile(file)
        service = pool.FindServiceByName(name)
        assert {method.input_type.file.package for method in service.methods} == {service.file.package}


def test_reflection_finds_methods_too(server: ServerProcess):
    """As `grpcurl describe SERVICE.METHOD` asks; what is not there stays NOT_FOUND."""
    ask = reflection_pb2.ServerReflectionRequest
    info = server.client.channel.stream_stream(
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        request_serializer=ask.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    names = ("inference.GRPCInferenceService.ModelInfer", "inference.GRPCInferenceService.Nothing", "nothing", "")
    found, *missing = info(iter([ask(file_containing_symbol=name) for name in names]), timeout=DEADLINE_SECONDS)
    assert b"ModelInfer" in found.file_descriptor_response.file_descriptor_proto[0]
    assert [answer.error_response.error_code for answer in missing] == [grpc.StatusCode.NOT_FOUND.value[0]] * 3


def test_http_pages(server: ServerProcess):
    assert server.get("/livez") == (200, "live\n")
    assert server.get("/readyz") == (200, "ready\n")
    assert server.get("/nothing")[0] == 404
    code, page = server.get("/")
    assert code == 200
    assert "lenet5-mnist" in page


def test_metrics_tell_state_provider_and_proof(server: ServerProcess):
    server.client.infer(ADD_SUB)
    assert server.metric("convserve_model_state", model="lenet5-mnist", state="READY") == 1
    assert server.metric("convserve_golden_check_passed", model="lenet5-mnist") == 1
    assert server.metric("convserve_golden_check_passed", model="add-sub") == 0
    provider = {"requested": "auto", "actual": "CPUExecutionProvider", "device": "cpu"}
    assert server.metric("convserve_execution_provider_info", model="textcnn-mr", **provider) == 1
    assert server.metric("convserve_build_info") == 1
    assert server.metric("convserve_batch_cost_seconds", model="lenet5-mnist", bucket="32") > 0
    assert server.metric("convserve_requests_total", model="add-sub", method="ModelInfer", code="OK") > 0
    assert server.metric("convserve_request_duration_seconds_count", model="add-sub") > 0
    assert server.metric("convserve_phase_duration_seconds_count", model="add-sub", phase="infer") > 0
    assert server.metric("convserve_inflight_requests") == 0
    assert server.metric("convserve_queue_depth") == 0
