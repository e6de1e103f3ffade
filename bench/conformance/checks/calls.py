"""cancellation, deadlines and concurrency: many callers, some of whom leave."""

from __future__ import annotations

from typing import Any

import grpc

from bench.conformance.checks.answers import all_answered
from bench.conformance.model import Model, outputs_of
from bench.conformance.outcome import CallFailed, CheckFailed, NotApplicable, Unsupported, expect, expect_equal
from bench.conformance.registry import model_check
from bench.conformance.target import answer_of

_CANCELLATION = "gRPC, Cancellation"
_DEADLINES = "gRPC, Deadlines"
# How HTTP/2 servers close a connection on which many calls are reset before they were taken up (CVE-2023-44487).
_RAPID_RESETS = ("too_many_resets", "ENHANCE_YOUR_CALM", "Error code: 11")
_TOO_LATE = (
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.UNAVAILABLE,  # Triton's
)


@model_check("cancellation", "a few callers who cancel do not affect the others", _CANCELLATION)
def some_leave(suite: Any, model: Model) -> None:
    _half_leave(suite, model, 16)


@model_check("cancellation", "32 callers who cancel at once do not affect the others", _CANCELLATION)
def many_leave(suite: Any, model: Model) -> None:
    try:
        _half_leave(suite, model, 64)
    except CheckFailed as failed:
        if any(words in str(failed) for words in _RAPID_RESETS):
            raise Unsupported(f"the connection is closed as an attack: {failed}") from None
        raise


def _half_leave(suite: Any, model: Model, count: int) -> None:
    """Make ``count`` calls at once and cancel every other one; the rest must be answered."""
    arrays = model.arrays(seed=14)
    expected = outputs_of(suite.target.infer(model.request(arrays)))
    infer = suite.target.method("ModelInfer")
    calls = [
        infer.future(model.request(arrays, request_id=str(number)), timeout=suite.target.timeout_seconds)
        for number in range(count)
    ]
    for call in calls[::2]:
        call.cancel()
    for number, call in enumerate(calls):
        if number % 2:
            response = answer_of(call, f"an answer to call {number}, which was not cancelled")
            expect_equal(response.id, str(number), "id")
            model.check_same(expected, outputs_of(response), f"call {number}, which was not cancelled")
    model.check_same(expected, outputs_of(suite.target.infer(model.request(arrays))), "afterwards")


@model_check("cancellation", "a cancelled stream does not affect other calls", _CANCELLATION)
def stream_left(suite: Any, model: Model) -> None:
    stream = suite.target.stream([model.valid_request(request_id=str(number)) for number in range(16)])
    for _ in suite.target.answers(stream):
        break
    stream.cancel()
    suite.target.infer(model.valid_request())


@model_check("deadlines", "a call with enough time is answered", _DEADLINES)
def time_enough(suite: Any, model: Model) -> None:
    suite.target.infer(model.valid_request(), timeout_seconds=suite.target.timeout_seconds / 2)


@model_check(
    "deadlines",
    "calls without enough time end with DEADLINE_EXCEEDED or overload, and do not affect others",
    _DEADLINES,
)
def no_time(suite: Any, model: Model) -> None:
    arrays = model.arrays(seed=15)
    expected = outputs_of(suite.target.infer(model.request(arrays)))
    infer = suite.target.method("ModelInfer")
    calls = [infer.future(model.request(arrays), timeout=seconds) for seconds in (0.0001, 0.001, 0.005) * 6]
    for call in calls:
        if call.exception() is None:
            model.check_same(expected, outputs_of(call.result()), "a call that was just in time")
        else:
            names = " or ".join(code.name for code in _TOO_LATE)
            expect(call.code() in _TOO_LATE, names, f"{call.code().name}: {call.details()}")
    model.check_same(expected, outputs_of(suite.target.infer(model.request(arrays))), "afterwards")


@model_check(
    "deadlines", "a timeout of a microsecond is met, ignored or refused", "Triton, extension_schedule_policy.md"
)
def timeout_parameter(suite: Any, model: Model) -> None:
    request = model.valid_request()
    request.parameters["timeout"].int64_param = 1
    try:
        outputs_of(suite.target.infer(request))
    except CallFailed as failed:
        expect(failed.code in _TOO_LATE, "an answer, DEADLINE_EXCEEDED or overload", failed)


@model_check("concurrency", "1,000 calls at once get their own answers, or are refused for overload", "no text says so")
def thousand(suite: Any, model: Model) -> None:
    if model is not suite.models[0]:
        raise NotApplicable("asked of the first model only")
    all_answered(suite.target, model, 1000)


@model_check("concurrency", "100 calls of several rows at once get their own answers", "no text says so")
def hundred_of_several_rows(suite: Any, model: Model) -> None:
    rows = [1 + number % min(3, model.max_rows) for number in range(100)]
    arrays = [model.arrays(count, seed=number % 7) for number, count in enumerate(rows)]
    infer = suite.target.method("ModelInfer")
    calls = [infer.future(model.request(array), timeout=suite.target.timeout_seconds) for array in arrays]
    for count, array, call in zip(rows, arrays, calls, strict=True):
        came = outputs_of(answer_of(call, "an answer"))
        model.check_mirrors(array, came)
        if model.batched:
            expect(
                all(len(output) == count for output in came.values()),
                f"{count} rows",
                {name: output.shape for name, output in came.items()},
            )
