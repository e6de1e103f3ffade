"""reflection: does the server describe the protocol as it is written?"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from google.protobuf import descriptor_pb2

from bench.conformance.outcome import CheckFailed, expect, expect_equal
from bench.conformance.registry import server_check
from bench.conformance.target import REQUIRED_METHODS, SERVICE
from service.pb.inference import grpc_service_pb2, model_config_pb2

_SOURCE = "gRPC Server Reflection"
_PROTO = "OIP, open_inference_grpc.proto"
_Fields = dict[str, tuple[int, int, int]]


def _described(suite: Any) -> list[descriptor_pb2.FileDescriptorProto]:
    answer = suite.target.reflect(file_containing_symbol=SERVICE)
    if answer.HasField("error_response"):
        raise CheckFailed(f"expected the file of {SERVICE}, got {answer.error_response}")
    files = {}
    waiting = list(answer.file_descriptor_response.file_descriptor_proto)
    while waiting:
        file = descriptor_pb2.FileDescriptorProto.FromString(waiting.pop())
        files[file.name] = file
        for name in file.dependency:
            if name not in files:
                more = suite.target.reflect(file_by_filename=name)
                waiting += more.file_descriptor_response.file_descriptor_proto
    return list(files.values())


def _own() -> list[descriptor_pb2.FileDescriptorProto]:
    files = []
    for module in (grpc_service_pb2, model_config_pb2):
        file = descriptor_pb2.FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(file)
        files.append(file)
    return files


def _messages(files: Iterable[descriptor_pb2.FileDescriptorProto]) -> dict[str, _Fields]:
    """Return the fields of each message of the package: number, type and label by name."""
    found: dict[str, _Fields] = {}

    def walk(prefix: str, message: descriptor_pb2.DescriptorProto) -> None:
        name = f"{prefix}.{message.name}"
        found[name] = {field.name: (field.number, field.type, field.label) for field in message.field}
        for nested in message.nested_type:
            walk(name, nested)

    for file in files:
        if file.package == "inference":
            for message in file.message_type:
                walk(file.package, message)
    return found


@server_check("reflection", "the inference service is listed", _SOURCE)
def listed(suite: Any) -> None:
    answer = suite.target.reflect(list_services="")
    names = [service.name for service in answer.list_services_response.service]
    expect(SERVICE in names, SERVICE, names)


@server_check("reflection", "the service has the protocol's methods, unary as they are", _PROTO)
def methods(suite: Any) -> None:
    found = {
        method.name: method for file in _described(suite) for service in file.service for method in service.method
        if f"{file.package}.{service.name}" == SERVICE
    }  # fmt: skip
    expect(set(found) >= REQUIRED_METHODS, f"at least {', '.join(sorted(REQUIRED_METHODS))}", sorted(found))
    for name, method in found.items():
        if name in REQUIRED_METHODS:
            expect_equal(method.input_type, f".inference.{name}Request", f"request of {name}")
            expect(not method.client_streaming and not method.server_streaming, f"{name} to be unary", "a stream")


@server_check("reflection", "every field has the number, type and label of the protocol", _PROTO)
def fields(suite: Any) -> None:
    theirs, ours = _messages(_described(suite)), _messages(_own())
    for message in sorted(theirs.keys() & ours.keys()):
        for name in sorted(theirs[message].keys() & ours[message].keys()):
            expect_equal(theirs[message][name], ours[message][name], f"number, type and label of {message}.{name}")


@server_check("reflection", "no field of the core messages is missing", _PROTO)
def complete(suite: Any) -> None:
    theirs, ours = _messages(_described(suite)), _messages(_own())
    optional = {"properties", "double_param", "uint64_param"}  # in one of the two texts only, or later than it
    for method in sorted(REQUIRED_METHODS):
        for kind in ("Request", "Response"):
            message = f"inference.{method}{kind}"
            missing = ours[message].keys() - theirs.get(message, {}).keys() - optional
            expect(not missing, f"every field of {message}", f"none of {', '.join(sorted(missing))}")
