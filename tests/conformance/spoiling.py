"""What planted faults do to a message: each function spoils one kind of it."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from google.protobuf import descriptor_pb2
from grpc_reflection.v1alpha import reflection_pb2

from service.pb.inference import grpc_service_pb2 as pb

Change = Callable[[Any], None]


def assign(name: str, value: Any) -> Change:
    return lambda message: setattr(message, name, value)


def outputs_of(datatype: str, change: Callable[[bytes], bytes]) -> Change:
    """Change the raw contents of outputs of a datatype."""

    def mutate(response: Any) -> None:
        for place, output in enumerate(response.outputs):
            if output.datatype == datatype:
                response.raw_output_contents[place] = change(response.raw_output_contents[place])

    return mutate


def without_id(message: pb.ModelStreamInferResponse) -> None:
    message.infer_response.id = ""


def renumber(response: reflection_pb2.ServerReflectionResponse) -> None:
    """Swap the numbers of ModelInferRequest's name and version in the description."""
    files = response.file_descriptor_response.file_descriptor_proto
    for place, data in enumerate(files):
        file = descriptor_pb2.FileDescriptorProto.FromString(data)
        for message in file.message_type:
            if message.name == "ModelInferRequest":
                message.field[0].number, message.field[1].number = message.field[1].number, message.field[0].number
        files[place] = file.SerializeToString()


def drop_request_fields(response: reflection_pb2.ServerReflectionResponse) -> None:
    files = response.file_descriptor_response.file_descriptor_proto
    for place, data in enumerate(files):
        file = descriptor_pb2.FileDescriptorProto.FromString(data)
        for message in file.message_type:
            if message.name == "ModelInferRequest":
                del message.field[-1]
        files[place] = file.SerializeToString()


def hide_services(response: reflection_pb2.ServerReflectionResponse) -> None:
    del response.list_services_response.service[:]


def swap_raw(response: Any) -> None:
    raw = response.raw_output_contents
    if len(raw) > 1:
        raw[0], raw[-1] = raw[-1], raw[0]


def inputs_by_place(request: Any) -> None:
    """Give the inputs the names of another order than that of their contents."""
    names = sorted(tensor.name for tensor in request.inputs)
    for tensor, name in zip(request.inputs, names, strict=True):
        tensor.name, tensor.datatype = name, name[2:]


def sort_outputs(response: Any) -> None:
    """Give the outputs in the order of their names, whatever was asked for."""
    pairs = sorted(zip(response.outputs, response.raw_output_contents, strict=True), key=lambda pair: pair[0].name)
    outputs, raw = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    copies = [type(output).FromString(output.SerializeToString()) for output in outputs]
    del response.outputs[:]
    response.outputs.extend(copies)
    response.raw_output_contents[:] = raw


def classes_of(change: Callable[[list[bytes]], list[bytes]]) -> Change:
    """Change the rows of outputs given as classes."""

    def mutate(response: Any) -> None:
        for place, output in enumerate(response.outputs):
            if output.datatype != "BYTES" or output.name.endswith("BYTES"):
                continue
            data, elements = response.raw_output_contents[place], []
            while data:
                (size,) = struct.unpack_from("<I", data)
                elements.append(data[4 : 4 + size])
                data = data[4 + size :]
            changed = change(elements)
            response.raw_output_contents[place] = b"".join(struct.pack("<I", len(e)) + e for e in changed)

    return mutate


def only_one_class(request: Any) -> None:
    for output in request.outputs:
        output.parameters["classification"].int64_param = min(1, output.parameters["classification"].int64_param)


def first_input_at_nought(request: Any) -> None:
    for tensor in request.inputs:
        if "shared_memory_offset" in tensor.parameters:
            tensor.parameters["shared_memory_offset"].int64_param = 0


def any_parameter(request: Any) -> bool:
    return any(name.startswith("conformance") for name in request.parameters)


def untyped(response: Any) -> None:
    response.parameters["planted"].Clear()


def twice_the_rows(stats: Any) -> None:
    stats.inference_count *= 2


def no_batches(stats: Any) -> None:
    del stats.batch_stats[:]


def in_seconds(stats: Any) -> None:
    stats.last_inference //= 1000


def not_ready(response: Any) -> None:
    for entry in response.models:
        entry.state = "LOADING"


def dims_with_batch(response: Any) -> None:
    for tensor in response.config.input:
        tensor.dims.insert(0, -1)


def other_datatype(response: Any) -> None:
    response.outputs[0].datatype = "UINT8"


def zero_size(response: Any) -> None:
    response.inputs[0].shape[-1] = 0


def one_row_more(response: Any) -> None:
    response.config.max_batch_size += 1


def lose_typed_precision(request: Any) -> None:
    for tensor in request.inputs:
        if tensor.contents.int64_contents:
            tensor.contents.int64_contents[:] = [v // 2 for v in tensor.contents.int64_contents]


def no_outputs_chosen(request: Any) -> None:
    del request.outputs[:]


def no_version(request: Any) -> None:
    request.model_version = ""


def one_missing(response: Any) -> None:
    if len(response.outputs) > 1:
        del response.outputs[-1], response.raw_output_contents[-1]


def no_classes(request: Any) -> None:
    for output in request.outputs:
        output.parameters.pop("classification", None)


def always(_: Any) -> bool:
    return True


def has_unknown_fields(request: Any) -> bool:
    return b"\xf8\xf0\x04\x07" in request.SerializeToString()
