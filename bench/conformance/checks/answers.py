"""outputs and ids: the answer holds what was asked for, under the id that was given."""

from __future__ import annotations

from typing import Any

import grpc

from bench.conformance.model import Model, outputs_of
from bench.conformance.outcome import NotApplicable, expect, expect_equal
from bench.conformance.registry import model_check
from bench.conformance.target import Target, answer_of

_OUTPUTS = "OIP, ModelInferRequest.outputs"
_ID = "OIP, ModelInferRequest.id"
_KINDS = 10  # of answers among calls in flight


def _names(response: Any) -> list[str]:
    return [output.name for output in response.outputs]


@model_check("outputs", "without requested outputs, every output is returned", _OUTPUTS)
def all_outputs(suite: Any, model: Model) -> None:
    came = _names(suite.target.infer(model.valid_request()))
    expect_equal(sorted(came), sorted(output.name for output in model.outputs), "outputs")


@model_check("outputs", "each output can be requested alone", _OUTPUTS)
def one_output(suite: Any, model: Model) -> None:
    arrays = model.arrays(seed=7)
    every = outputs_of(suite.target.infer(model.request(arrays)))
    for output in model.outputs:
        response = suite.target.infer(model.request(arrays, [output.name]))
        expect_equal(_names(response), [output.name], "outputs")
        model.check_same(every, outputs_of(response), f"'{output.name}' alone")


@model_check("outputs", "outputs come in the order asked for", "no text says so; convserve and tritonclient's users do")
def order_of_outputs(suite: Any, model: Model) -> None:
    if len(model.outputs) < 2:
        raise NotApplicable("the model has one output")
    wanted = [output.name for output in reversed(model.outputs)]
    arrays = model.arrays(seed=8)
    every = outputs_of(suite.target.infer(model.request(arrays)))
    response = suite.target.infer(model.request(arrays, wanted))
    expect_equal(_names(response), wanted, "outputs")
    model.check_same(every, outputs_of(response), "outputs in reverse order")


@model_check("outputs", "an unknown output is INVALID_ARGUMENT", f"{_OUTPUTS}; the code: Triton")
def unknown_output(suite: Any, model: Model) -> None:
    request = model.request(model.arrays(), ["no-such-output"])
    suite.target.refused("ModelInfer", request, grpc.StatusCode.INVALID_ARGUMENT)


@model_check("ids", "the id comes back: none, plain, long, of any script", _ID)
def ids_come_back(suite: Any, model: Model) -> None:
    for given in ("request-17", "r" * 1000, "Anfrage № 4 für 東京"):
        expect_equal(suite.target.infer(model.valid_request(request_id=given)).id, given, "id")


@model_check("ids", "without an id there is none in the answer", f"{_ID}, which is optional")
def no_id(suite: Any, model: Model) -> None:
    expect_equal(suite.target.infer(model.valid_request()).id, "", "id")


@model_check("ids", "each of fifty calls in flight gets its own id and answer", _ID)
def ids_in_flight(suite: Any, model: Model) -> None:
    all_answered(suite.target, model, 50)


def all_answered(target: Target, model: Model, count: int) -> None:
    """Make ``count`` calls at once; each must get its own id and answer, or be refused for overload."""
    arrays = [model.arrays(seed=100 + kind) for kind in range(_KINDS)]
    expected = [outputs_of(target.infer(model.request(array))) for array in arrays]
    infer = target.method("ModelInfer")
    calls = [
        infer.future(model.request(arrays[number % _KINDS], request_id=f"id-{number}"), timeout=target.timeout_seconds)
        for number in range(count)
    ]
    overload = (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE)
    refused = 0
    for number, call in enumerate(calls):
        if call.code() in overload:
            refused += 1
            continue
        response = answer_of(call, f"an answer to call {number} of {count}, or a refusal for overload")
        expect_equal(response.id, f"id-{number}", f"id of call {number}")
        came = outputs_of(response)
        model.check_same(expected[number % _KINDS], came, f"call {number} of {count} at once")
        model.check_mirrors(arrays[number % _KINDS], came)
    expect(refused < count, "some answers", "refusals for overload only")
