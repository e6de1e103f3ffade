"""The wire contracts: field numbers that clients rely on, a comment on every element, request and response pairs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FileDescriptor

from service.pb.convserve.classification.v1 import classification_pb2
from service.pb.inference import grpc_service_pb2, model_config_pb2

PROTO = Path(__file__).parents[3] / "proto"
FILES: dict[str, FileDescriptor] = {
    "inference/grpc_service.proto": grpc_service_pb2.DESCRIPTOR,
    "inference/model_config.proto": model_config_pb2.DESCRIPTOR,
    "convserve/classification/v1/classification.proto": classification_pb2.DESCRIPTOR,
}

# Message of package inference -> its fields as "name=number", all of them.
FIELD_NUMBERS = {
    "ServerLiveRequest": "",
    "ServerLiveResponse": "live=1",
    "ServerReadyResponse": "ready=1",
    "ModelReadyRequest": "name=1 version=2",
    "ModelReadyResponse": "ready=1",
    "ServerMetadataResponse": "name=1 version=2 extensions=3",
    "ModelMetadataRequest": "name=1 version=2",
    "ModelMetadataResponse": "name=1 versions=2 platform=3 inputs=4 outputs=5 properties=6",
    "ModelMetadataResponse.TensorMetadata": "name=1 datatype=2 shape=3",
    "InferParameter": "bool_param=1 int64_param=2 string_param=3 double_param=4 uint64_param=5",
    "InferTensorContents": "bool_contents=1 int_contents=2 int64_contents=3 uint_contents=4 uint64_contents=5 "
    "fp32_contents=6 fp64_contents=7 bytes_contents=8",
    "ModelInferRequest": "model_name=1 model_version=2 id=3 parameters=4 inputs=5 outputs=6 raw_input_contents=7",
    "ModelInferRequest.InferInputTensor": "name=1 datatype=2 shape=3 parameters=4 contents=5",
    "ModelInferRequest.InferRequestedOutputTensor": "name=1 parameters=2",
    "ModelInferResponse": "model_name=1 model_version=2 id=3 parameters=4 outputs=5 raw_output_contents=6",
    "ModelInferResponse.InferOutputTensor": "name=1 datatype=2 shape=3 parameters=4 contents=5",
    "ModelStreamInferResponse": "error_message=1 infer_response=2",
    "ModelConfigRequest": "name=1 version=2",
    "ModelConfigResponse": "config=1",
    "ModelConfig": "name=1 platform=2 version_policy=3 max_batch_size=4 input=5 output=6 instance_group=7 "
    "default_model_filename=8 cc_model_filenames=9 metric_tags=10 dynamic_batching=11 optimization=12 "
    "sequence_batching=13 parameters=14 ensemble_scheduling=15 model_warmup=16 backend=17 model_operations=18 "
    "model_transaction_policy=19 batch_input=20 batch_output=21 model_repository_agents=23 response_cache=24 "
    "runtime=25 model_metrics=26",
    "ModelInput": "name=1 data_type=2 format=3 dims=4 reshape=5 is_shape_tensor=6 allow_ragged_batch=7 optional=8 "
    "is_non_linear_format_io=9",
    "ModelOutput": "name=1 data_type=2 dims=3 label_filename=4 reshape=5 is_shape_tensor=6 is_non_linear_format_io=7",
    "ModelDynamicBatching": "preferred_batch_size=1 max_queue_delay_microseconds=2 preserve_ordering=3 "
    "priority_levels=4 default_priority_level=5 default_queue_policy=6 priority_queue_policy=7",
    "ModelQueuePolicy": "timeout_action=1 default_timeout_microseconds=2 allow_timeout_override=3 max_queue_size=4",
    "ModelInstanceGroup": "name=1 count=2 gpus=3 kind=4 profile=5 rate_limiter=6 passive=7 secondary_devices=8 "
    "host_policy=9",
    "ModelWarmup": "name=1 batch_size=2 inputs=3 count=4",
    "ModelStatisticsRequest": "name=1 version=2",
    "ModelStatisticsResponse": "model_stats=1",
    "ModelStatistics": "name=1 version=2 last_inference=3 inference_count=4 execution_count=5 inference_stats=6 "
    "batch_stats=7 memory_usage=8 response_stats=9",
    "InferStatistics": "success=1 fail=2 queue=3 compute_input=4 compute_infer=5 compute_output=6 cache_hit=7 "
    "cache_miss=8",
    "StatisticDuration": "count=1 ns=2",
    "InferBatchStatistics": "batch_size=1 compute_input=2 compute_infer=3 compute_output=4",
    "MemoryUsage": "type=1 id=2 byte_size=3",
    "RepositoryIndexRequest": "repository_name=1 ready=2",
    "RepositoryIndexResponse.ModelIndex": "name=1 version=2 state=3 reason=4",
    "RepositoryModelLoadRequest": "repository_name=1 model_name=2 parameters=3",
    "RepositoryModelUnloadRequest": "repository_name=1 model_name=2 parameters=3",
    "TraceSettingRequest": "settings=1 model_name=2",
    "LogSettingsRequest": "settings=1",
}

ENUM_VALUES = {
    "DataType": "INVALID=0 BOOL=1 UINT8=2 UINT16=3 UINT32=4 UINT64=5 INT8=6 INT16=7 INT32=8 INT64=9 FP16=10 FP32=11 "
    "FP64=12 STRING=13 BF16=14",
    "ModelInput.Format": "NONE=0 NHWC=1 NCHW=2",
    "ModelInstanceGroup.Kind": "AUTO=0 GPU=1 CPU=2 MODEL=3",
    "ModelQueuePolicy.TimeoutAction": "REJECT=0 DELAY=1",
}
ENUM_PREFIXES = {"DataType": "TYPE_", "ModelInput.Format": "FORMAT_", "ModelInstanceGroup.Kind": "KIND_"}

RPCS = [
    "ServerLive",
    "ServerReady",
    "ModelReady",
    "ServerMetadata",
    "ModelMetadata",
    "ModelInfer",
    "ModelStreamInfer",
    "ModelConfig",
    "ModelStatistics",
    "RepositoryIndex",
    "RepositoryModelLoad",
    "RepositoryModelUnload",
    "SystemSharedMemoryStatus",
    "SystemSharedMemoryRegister",
    "SystemSharedMemoryUnregister",
    "CudaSharedMemoryStatus",
    "CudaSharedMemoryRegister",
    "CudaSharedMemoryUnregister",
    "TraceSetting",
    "LogSettings",
]

# The start of a declaration; a field, an enum value and a map all end in "= number;".
DECLARATION = re.compile(r"^\s*(?:(?:message|enum|service|oneof|rpc)\s+(?P<name>\w+)|.*?\b(?P<value>\w+) = \d+;$)")


def all_messages(file: FileDescriptor) -> Iterator[Descriptor]:
    """Yield the messages of a file at every depth, without the entries that maps generate."""
    waiting = list(file.message_types_by_name.values())
    while waiting:
        message = waiting.pop()
        if not message.GetOptions().map_entry:
            yield message
            waiting.extend(message.nested_types)


def all_enums(file: FileDescriptor) -> Iterator[EnumDescriptor]:
    """Yield the enums of a file at every depth."""
    yield from file.enum_types_by_name.values()
    for message in all_messages(file):
        yield from message.enum_types


def declared_names(file: FileDescriptor) -> list[str]:
    """Return the names of everything that the source of a file declares, sorted."""
    names = []
    for message in all_messages(file):
        names.append(message.name)
        names.extend(field.name for field in message.fields)
        # A field that is `optional` brings a oneof of its own, whose name begins with an underscore.
        names.extend(oneof.name for oneof in message.oneofs if not oneof.name.startswith("_"))
    for enum in all_enums(file):
        names.append(enum.name)
        names.extend(value.name for value in enum.values)
    for service in file.services_by_name.values():
        names.append(service.name)
        names.extend(method.name for method in service.methods)
    return sorted(names)


def find_inference(name: str, file: FileDescriptor = grpc_service_pb2.DESCRIPTOR) -> Descriptor:
    """Return a message of package inference by its name without the package."""
    message: Descriptor = file.pool.FindMessageTypeByName(f"inference.{name}")
    return message


@pytest.mark.parametrize("name", FIELD_NUMBERS)
def test_inference_field_numbers(name: str) -> None:
    fields = sorted(find_inference(name).fields, key=lambda field: field.number)
    assert " ".join(f"{field.name}={field.number}" for field in fields) == FIELD_NUMBERS[name]


@pytest.mark.parametrize("name", ENUM_VALUES)
def test_inference_enum_values(name: str) -> None:
    enum = model_config_pb2.DESCRIPTOR.pool.FindEnumTypeByName(f"inference.{name}")
    prefix = ENUM_PREFIXES.get(name, "")
    expected = [prefix + value for value in ENUM_VALUES[name].split()]
    assert [f"{value.name}={value.number}" for value in enum.values] == expected


def test_scheduling_choices_share_one_oneof() -> None:
    oneof = find_inference("ModelConfig").oneofs_by_name["scheduling_choice"]
    assert {field.number for field in oneof.fields} == {11, 13, 15}


def test_inference_rpcs_keep_their_wire_path() -> None:
    service = grpc_service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    assert service.full_name == "inference.GRPCInferenceService"
    assert [method.name for method in service.methods] == RPCS
    streaming = [method.name for method in service.methods if method.client_streaming or method.server_streaming]
    assert streaming == ["ModelStreamInfer"]


def test_infer_request_bytes() -> None:
    request = grpc_service_pb2.ModelInferRequest(model_name="m", raw_input_contents=[b"\x01"])
    request.inputs.add(name="x", datatype="UINT8", shape=[1, 1])
    assert request.SerializeToString() == b"\x0a\x01m\x2a\x0e\x0a\x01x\x12\x05UINT8\x1a\x02\x01\x01\x3a\x01\x01"


@pytest.mark.parametrize("path", FILES)
def test_imports_are_found_from_the_folder_of_the_contracts(path: str) -> None:
    """Clients of other languages compile them with ``-I proto``, and not every compiler can map folders."""
    imports = re.findall(r'^import "(.+)";$', (PROTO / path).read_text(encoding="utf-8"), re.MULTILINE)
    assert [name for name in imports if not name.startswith("google/protobuf/") and name not in FILES] == []


@pytest.mark.parametrize("path", FILES)
def test_every_element_has_a_leading_comment(path: str) -> None:
    lines = (PROTO / path).read_text(encoding="utf-8").splitlines()
    found, bare = [], []
    for number, line in enumerate(lines):
        match = DECLARATION.match(line)
        if match is None or line.lstrip().startswith("//"):
            continue
        found.append(match["name"] or match["value"])
        if not lines[number - 1].lstrip().startswith("// "):
            bare.append(f"{path}:{number + 1}: {line.strip()}")
    assert bare == []
    assert sorted(found) == declared_names(FILES[path]), "a declaration is laid out so that this test overlooks it"


def test_each_classification_rpc_has_its_own_request_and_response() -> None:
    service = classification_pb2.DESCRIPTOR.services_by_name["ClassificationService"]
    assert service.full_name == "convserve.classification.v1.ClassificationService"
    for method in service.methods:
        assert (method.input_type.name, method.output_type.name) == (f"{method.name}Request", f"{method.name}Response")


def test_classification_enums_follow_the_style() -> None:
    for enum in all_enums(classification_pb2.DESCRIPTOR):
        prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", enum.name).upper() + "_"
        assert all(value.name.startswith(prefix) for value in enum.values)
        assert (enum.values[0].name, enum.values[0].number) == (f"{prefix}UNSPECIFIED", 0)


def test_a_result_is_a_classification_or_an_error() -> None:
    result = classification_pb2.ClassificationResult(error=classification_pb2.ItemError(code=3, message="no picture"))
    result.classification.scored_labels.add(index=7, label="seven", probability=0.5)
    assert result.WhichOneof("outcome") == "classification"
