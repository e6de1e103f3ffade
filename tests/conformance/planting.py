"""How faults are made: each helper changes one method of a server, or one kind of message."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import grpc
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from service.pb.inference import grpc_service_pb2 as pb
from tests.conformance.proxy import Fault, Forward, Refusal
from tests.conformance.spoiling import Change

INVALID = grpc.StatusCode.INVALID_ARGUMENT
INTERNAL = grpc.StatusCode.INTERNAL
INFER = "ModelInfer"


def answer(method: str, change: Change) -> Fault:
    """Change every response."""

    def unary(request: Any, forward: Forward) -> Any:
        response = forward(request)
        change(response)
        return response

    return Fault(method, unary)


def ask(method: str, change: Change) -> Fault:
    """Change every request."""

    def unary(request: Any, forward: Forward) -> Any:
        change(request)
        return forward(request)

    return Fault(method, unary)


def recode(method: str, old: grpc.StatusCode, new: grpc.StatusCode) -> Fault:
    """Refuse with another code."""

    def unary(request: Any, forward: Forward) -> Any:
        try:
            return forward(request)
        except grpc.RpcError as error:
            if error.code() is old:
                raise Refusal(new) from None
            raise

    return Fault(method, unary)


def forgive(method: str, answered: Any) -> Fault:
    """Answer what should be refused."""

    def unary(request: Any, forward: Forward) -> Any:
        try:
            return forward(request)
        except grpc.RpcError:
            return answered

    return Fault(method, unary)


def refuse(method: str, when: Callable[[Any], object], code: grpc.StatusCode) -> Fault:
    """Refuse what should be answered."""

    def unary(request: Any, forward: Forward) -> Any:
        if when(request):
            raise Refusal(code)
        return forward(request)

    return Fault(method, unary)


def watch(*statuses: int, stays_open: bool) -> Fault:
    """Tell these, and nothing of what the server says."""

    def stream(requests: Iterator[bytes], _: Any) -> Iterator[bytes]:
        for status in statuses:
            yield health_pb2.HealthCheckResponse(status=status).SerializeToString()
        if stays_open:
            for _ in requests:
                pass
            threading.Event().wait(2)  # longer than the suite of this test waits

    return Fault("Watch", stream=stream)


def frozen(method: str) -> Fault:
    """Give the first answer again and again."""
    first: list[Any] = []

    def unary(request: Any, forward: Forward) -> Any:
        if not first:
            first.append(forward(request))
        return first[0]

    return Fault(method, unary)


def delayed_by_one() -> Fault:
    """Give each caller the outputs of the one before, under his own id."""
    last: list[Any] = []

    def unary(request: Any, forward: Forward) -> Any:
        response = forward(request)
        given = pb.ModelInferResponse()
        given.CopyFrom(last[-1] if last else response)
        given.id = response.id
        last.append(response)
        return given

    return Fault(INFER, unary)


def numbered_ids() -> Fault:
    numbers = itertools.count()
    return answer(INFER, lambda response: setattr(response, "id", f"id-{next(numbers)}"))


def streamed(change: Callable[[pb.ModelStreamInferResponse], Any]) -> Fault:
    """Change each answer of a stream; an answer for which False comes back is lost."""

    def stream(requests: Iterator[bytes], forward: Any) -> Iterator[bytes]:
        for payload in forward(requests):
            message = pb.ModelStreamInferResponse.FromString(payload)
            if change(message) is not False:
                yield message.SerializeToString()

    return Fault("ModelStreamInfer", stream=stream)


def at_the_end() -> Fault:
    """Answer nothing before the caller has sent everything."""
    return Fault("ModelStreamInfer", stream=lambda requests, forward: iter(list(forward(requests))))


def ended_by_errors() -> Fault:
    def stream(requests: Iterator[bytes], forward: Any) -> Iterator[bytes]:
        for payload in forward(requests):
            if pb.ModelStreamInferResponse.FromString(payload).error_message:
                raise Refusal(INVALID)
            yield payload

    return Fault("ModelStreamInfer", stream=stream)


def empty_fails() -> Fault:
    def stream(requests: Iterator[bytes], forward: Any) -> Iterator[bytes]:
        first = next(requests, None)
        if first is None:
            raise Refusal(INTERNAL)
        yield from forward(itertools.chain([first], requests))

    return Fault("ModelStreamInfer", stream=stream)


def reflected(change: Callable[[reflection_pb2.ServerReflectionResponse], None]) -> Fault:
    def stream(requests: Iterator[bytes], forward: Any) -> Iterator[bytes]:
        for payload in forward(requests):
            response = reflection_pb2.ServerReflectionResponse.FromString(payload)
            change(response)
            yield response.SerializeToString()

    return Fault("ServerReflectionInfo", stream=stream)


def each_statistics(change: Change) -> Fault:
    def mutate(response: Any) -> None:
        for stats in response.model_stats:
            change(stats)

    return answer("ModelStatistics", mutate)
