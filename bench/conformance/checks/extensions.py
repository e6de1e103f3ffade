"""extensions: what is advertised works, and what is not answers UNIMPLEMENTED."""

from __future__ import annotations

from typing import Any

import grpc

from bench.conformance.checks.repository import NOT_ALLOWED
from bench.conformance.model import Model
from bench.conformance.outcome import CallFailed, CheckFailed, NotApplicable, expect, expect_equal
from bench.conformance.registry import model_check, server_check
from service.pb.inference import grpc_service_pb2 as pb

_SOURCE = "OIP, ServerMetadataResponse.extensions"


# By extension: the method that belongs to it, and its request if it is about a model.
_METHODS: dict[str, tuple[str, Any]] = {
    "model_configuration": ("ModelConfig", pb.ModelConfigRequest),
    "statistics": ("ModelStatistics", pb.ModelStatisticsRequest),
    "system_shared_memory": ("SystemSharedMemoryStatus", None),
    "cuda_shared_memory": ("CudaSharedMemoryStatus", None),
    "trace": ("TraceSetting", None),
    "logging": ("LogSettings", None),
}


def _method_check(extension: str, method: str, request_type: Any) -> None:
    @server_check("extensions", f"{method} answers if and only if '{extension}' is listed", _SOURCE)
    def agrees(suite: Any) -> None:
        listed = extension in suite.extensions
        if request_type and not suite.models:
            raise NotApplicable("no model was found")
        try:
            suite.target.call(method, request_type and request_type(name=suite.models[0].name))
        except CallFailed as failed:
            expect(not listed, f"{method} to answer, as '{extension}' is listed", failed)
            expect(failed.code is grpc.StatusCode.UNIMPLEMENTED, "UNIMPLEMENTED", failed)
        else:
            expect(listed, f"UNIMPLEMENTED, as '{extension}' is not listed", f"an answer of {method}")


for _extension, _method in _METHODS.items():
    _method_check(_extension, *_method)


@server_check(
    "extensions", "RepositoryIndex answers if 'model_repository' is listed; loading is allowed only then", _SOURCE
)
def model_repository(suite: Any) -> None:
    if "model_repository" in suite.extensions:
        suite.target.call("RepositoryIndex")
        return
    try:
        suite.target.call("RepositoryModelLoad", pb.RepositoryModelLoadRequest(model_name="no-such-model"))
    except CallFailed as failed:
        expect(failed.code in NOT_ALLOWED, "loading not to be allowed, as 'model_repository' is not listed", failed)
    else:
        raise CheckFailed("expected loading not to be allowed, as 'model_repository' is not listed, got OK")


@model_check("extensions", "'classification', if listed, gives classes", _SOURCE)
def classification(suite: Any, model: Model) -> None:
    if "classification" not in suite.extensions:
        raise NotApplicable("'classification' is not listed")
    ranked = [output.name for output in model.outputs if output.datatype in ("FP32", "FP64")]
    if not ranked:
        raise NotApplicable("the model has no output of FP32 or FP64")
    request = model.valid_request()
    request.outputs.add(name=ranked[0]).parameters["classification"].int64_param = 1
    expect_equal(suite.target.infer(request).outputs[0].datatype, "BYTES", "datatype of an output as classes")


@model_check("extensions", "'binary_tensor_data', if listed, is answered in kind", _SOURCE)
def binary_tensor_data(suite: Any, model: Model) -> None:
    if "binary_tensor_data" not in suite.extensions:
        raise NotApplicable("'binary_tensor_data' is not listed")
    response = suite.target.infer(model.valid_request())
    expect_equal(len(response.raw_output_contents), len(response.outputs), "number of raw contents")


@server_check("extensions", "a method that does not exist is UNIMPLEMENTED", "gRPC, Status Codes")
def no_such_method(suite: Any) -> None:
    call = suite.target.channel.unary_unary("/inference.GRPCInferenceService/NoSuchMethod")
    try:
        call(b"", timeout=suite.target.timeout_seconds)
    except grpc.RpcError as error:
        failed = CallFailed.of("NoSuchMethod", error)
        expect(failed.code is grpc.StatusCode.UNIMPLEMENTED, "UNIMPLEMENTED", failed)
    else:
        raise CheckFailed("expected UNIMPLEMENTED, got OK")
