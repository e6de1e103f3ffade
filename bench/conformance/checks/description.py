"""metadata and config: what the server says of itself and of its models, and whether both agree."""

from __future__ import annotations

from typing import Any

import grpc

from bench.conformance.model import Model
from bench.conformance.outcome import NotApplicable, expect, expect_equal
from bench.conformance.registry import model_check, server_check
from bench.conformance.tensors import DTYPES
from service.pb.inference import grpc_service_pb2 as pb
from service.pb.inference import model_config_pb2

_OIP = "OIP, Model Metadata"
_CONFIG = "Triton, extension_model_configuration.md"


@server_check("metadata", "the server has a name and a version", "OIP, Server Metadata")
def server_metadata(suite: Any) -> None:
    answer = suite.target.call("ServerMetadata")
    expect(bool(answer.name and answer.version), "a name and a version", answer)
    expect_equal(len(set(answer.extensions)), len(answer.extensions), "number of different extensions")


@model_check("metadata", "a model has its name and a platform, and lists no version twice", _OIP)
def model_metadata(suite: Any, model: Model) -> None:
    answer = suite.target.call("ModelMetadata", pb.ModelMetadataRequest(name=model.name))
    expect_equal(answer.name, model.name, "name")
    expect(bool(answer.platform), "a platform", "none")
    expect(len(set(answer.versions)) == len(answer.versions), "every version once", list(answer.versions))
    expect(all(answer.versions), "no empty version", list(answer.versions))


@model_check("metadata", "inputs and outputs have a name of their own, a known datatype, a possible shape", _OIP)
def model_tensors(suite: Any, model: Model) -> None:
    for tensors in (model.inputs, model.outputs):
        names = [tensor.name for tensor in tensors]
        expect(len(set(names)) == len(names) and all(names), "names that differ", names)
        for tensor in tensors:
            expect(tensor.datatype in DTYPES, "a datatype of the protocol", tensor)
            expect(all(size == -1 or size > 0 for size in tensor.shape), "sizes that are -1 or positive", tensor)


@model_check("metadata", "outputs are as described", _OIP)
def described_as_it_is(suite: Any, model: Model) -> None:
    rows = min(2, model.max_rows)
    response = suite.target.infer(model.valid_request(rows))
    expect_equal({o.name: o.datatype for o in response.outputs}, {o.name: o.datatype for o in model.outputs}, "outputs")
    shapes = {output.name: output.shape for output in model.outputs}
    for output in response.outputs:
        described = shapes[output.name]
        fits = len(described) == len(output.shape) and all(
            size in (-1, came) for size, came in zip(described, output.shape, strict=True)
        )
        expect(fits, f"'{output.name}' of shape {list(described)}", list(output.shape))
        expect(not model.batched or output.shape[0] == rows, f"{rows} rows of '{output.name}'", list(output.shape))


@server_check("metadata", "ModelMetadata of an unknown model is NOT_FOUND", f"{_OIP}; the code: Triton")
def unknown_metadata(suite: Any) -> None:
    suite.target.refused("ModelMetadata", pb.ModelMetadataRequest(name="no-such-model"), grpc.StatusCode.NOT_FOUND)


@model_check("config", "ModelConfig names the same inputs and outputs as ModelMetadata", _CONFIG)
def config_agrees(suite: Any, model: Model) -> None:
    config = suite.target.call("ModelConfig", pb.ModelConfigRequest(name=model.name)).config
    expect_equal(config.name, model.name, "name")
    batch = (-1,) if config.max_batch_size > 0 else ()
    for tensors, described in ((config.input, model.inputs), (config.output, model.outputs)):
        expect_equal([tensor.name for tensor in tensors], [tensor.name for tensor in described], "names, in order")
        for tensor, shown in zip(tensors, described, strict=True):
            name = model_config_pb2.DataType.Name(tensor.data_type).removeprefix("TYPE_").replace("STRING", "BYTES")
            expect_equal(name, shown.datatype, f"data_type of '{tensor.name}'")
            shape = tuple(tensor.reshape.shape) if tensor.HasField("reshape") else tuple(tensor.dims)
            expect_equal((*batch, *shape), shown.shape, f"dims of '{tensor.name}', the batch before them")


@model_check("config", "max_batch_size rows are taken, one more is INVALID_ARGUMENT", _CONFIG)
def batch_limit(suite: Any, model: Model) -> None:
    suite.target.call("ModelConfig", pb.ModelConfigRequest(name=model.name))
    if not model.batched:
        raise NotApplicable("the model has no batch axis")
    suite.target.infer(model.valid_request(model.max_rows))
    suite.target.refused("ModelInfer", model.valid_request(model.max_rows + 1), grpc.StatusCode.INVALID_ARGUMENT)


@server_check("config", "ModelConfig of an unknown model is NOT_FOUND", f"{_CONFIG}; the code: Triton")
def unknown_config(suite: Any) -> None:
    suite.target.refused("ModelConfig", pb.ModelConfigRequest(name="no-such-model"), grpc.StatusCode.NOT_FOUND)
