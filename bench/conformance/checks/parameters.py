"""parameters: typed values; a server ignores those that it does not know."""

from __future__ import annotations

from typing import Any

import grpc

from bench.conformance.model import Model, outputs_of
from bench.conformance.outcome import Unsupported, expect
from bench.conformance.registry import model_check
from service.pb.inference import grpc_service_pb2 as pb

_SOURCE = "Triton, extension_parameters.md"
_SCHEDULE = "Triton, extension_schedule_policy.md"
_TYPES = {
    "bool_param": True,
    "int64_param": -(2**62),
    "string_param": "größer",
    "double_param": 0.5,
}


def _same_answer(suite: Any, model: Model, request: pb.ModelInferRequest, when: str) -> Any:
    expected = outputs_of(suite.target.infer(model.valid_request(seed=9)))
    response = suite.target.infer(request)
    model.check_same(expected, outputs_of(response), when)
    return response


@model_check("parameters", "unknown parameters of the request are accepted: bool, integer, string, double", _SOURCE)
def of_the_request(suite: Any, model: Model) -> None:
    request = model.valid_request(seed=9)
    for field, value in _TYPES.items():
        setattr(request.parameters[f"conformance_{field}"], field, value)
    _same_answer(suite, model, request, "with parameters")


@model_check("parameters", "an unknown unsigned parameter is accepted", "OIP, InferParameter")
def unsigned(suite: Any, model: Model) -> None:
    request = model.valid_request(seed=9)
    request.parameters["conformance"].uint64_param = 2**63
    _same_answer(suite, model, request, "with an unsigned parameter")


@model_check("parameters", "unknown parameters of inputs and outputs are accepted", "OIP, InferInputTensor")
def of_tensors(suite: Any, model: Model) -> None:
    request = model.valid_request(seed=9)
    request.inputs[0].parameters["conformance"].string_param = "x"
    for output in model.outputs:
        request.outputs.add(name=output.name).parameters["conformance"].int64_param = 1
    _same_answer(suite, model, request, "with parameters of tensors")


@model_check("parameters", "every parameter of an answer has a type", "OIP, InferParameter")
def of_the_answer(suite: Any, model: Model) -> None:
    request = model.valid_request(seed=9)
    request.parameters["explain"].bool_param = True
    response = _same_answer(suite, model, request, "with parameters")
    for parameters in (response.parameters, *(output.parameters for output in response.outputs)):
        for name, parameter in parameters.items():
            expect(parameter.WhichOneof("parameter_choice") is not None, f"a value of parameter '{name}'", "none")


@model_check("parameters", "priority and a generous timeout change no answer", _SCHEDULE)
def schedule(suite: Any, model: Model) -> None:
    request = model.valid_request(seed=9)
    request.parameters["priority"].uint64_param = 0
    request.parameters["timeout"].int64_param = 10_000_000
    _same_answer(suite, model, request, "with priority and timeout")


@model_check("parameters", "a timeout of text is INVALID_ARGUMENT", _SCHEDULE)
def timeout_of_text(suite: Any, model: Model) -> None:
    if not suite.extensions & {"parameters", "schedule_policy"}:
        raise Unsupported("the server lists neither 'parameters' nor 'schedule_policy'")
    request = model.valid_request()
    request.parameters["timeout"].string_param = "soon"
    suite.target.refused("ModelInfer", request, grpc.StatusCode.INVALID_ARGUMENT)
