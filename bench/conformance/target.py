"""One server under test: its channel, and the ways to call it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import grpc
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from bench.conformance.outcome import CallFailed, CheckFailed, expect, shortened
from service.client import Credentials
from service.pb.inference import grpc_service_pb2 as pb

SERVICE = "inference.GRPCInferenceService"
# A server of the Open Inference Protocol must have these; it may leave out any other.
REQUIRED_METHODS = frozenset(
    ("ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer")
)
_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),
)


class Target:
    """A channel to one server. Every call has a deadline, so that a hanging server fails. Thread-safe."""

    def __init__(self, address: str, timeout_seconds: float, credentials: Credentials | None = None) -> None:
        """Prepare the channel; it connects with the first call.

        Args:
            address: ``HOST:PORT``.
            timeout_seconds: Deadline of a call.
            credentials: TLS and token; None for neither.

        Raises:
            CredentialsInvalid: A file of the credentials cannot be used.
        """
        self.address = address
        self.timeout_seconds = timeout_seconds
        self.channel = (credentials or Credentials()).channel(address, _OPTIONS)

    def __enter__(self) -> Target:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the channel."""
        self.channel.close()

    @property
    def is_local(self) -> bool:
        """Whether the server is on this machine, as far as the address tells."""
        host = self.address.rpartition(":")[0].strip("[]")
        return self.address.startswith("unix:") or host in ("localhost", "::1") or host.startswith("127.")

    def method(self, name: str) -> Any:
        """Return a unary method of the inference service by its name."""
        return self.channel.unary_unary(
            f"/{SERVICE}/{name}",
            request_serializer=_serialized,
            response_deserializer=getattr(pb, f"{name}Response").FromString,
        )

    def call(self, name: str, request: Any = None, *, timeout_seconds: float | None = None) -> Any:
        """Call a unary method of the inference service.

        Args:
            name: Of the method.
            request: The message, or its bytes; None for an empty one.
            timeout_seconds: The deadline, if not the usual one.

        Raises:
            CallFailed: It ended with another status than OK.
        """
        given = b"" if request is None else request
        try:
            return self.method(name)(given, timeout=timeout_seconds or self.timeout_seconds)
        except grpc.RpcError as error:
            raise CallFailed.of(name, error) from None

    def refused(self, name: str, request: Any, *codes: grpc.StatusCode) -> None:
        """Make a call that must be refused with one of these codes.

        Raises:
            CheckFailed: It was answered, or refused with another code.
        """
        expected = " or ".join(sorted(code.name for code in codes))
        try:
            answer = self.call(name, request)
        except CallFailed as failed:
            if failed.code in codes:
                return
            if failed.code is grpc.StatusCode.UNIMPLEMENTED and name not in REQUIRED_METHODS:
                raise
            raise CheckFailed(f"{name}: expected {expected}, got {failed.code.name}: {failed.details}") from None
        raise CheckFailed(f"{name}: expected {expected}, got OK: {shortened(answer)}")

    def infer(self, request: Any, **options: Any) -> pb.ModelInferResponse:
        """Call ModelInfer; like :meth:`call`."""
        response: pb.ModelInferResponse = self.call("ModelInfer", request, **options)
        return response

    def stream(self, requests: Iterable[pb.ModelInferRequest]) -> Any:
        """Begin ModelStreamInfer; iterate over it in :meth:`answers`."""
        return self.channel.stream_stream(
            f"/{SERVICE}/ModelStreamInfer",
            request_serializer=_serialized,
            response_deserializer=pb.ModelStreamInferResponse.FromString,
        )(iter(requests), timeout=self.timeout_seconds)

    def answers(self, stream: Any) -> Iterator[pb.ModelStreamInferResponse]:
        """Yield the answers of a stream.

        Raises:
            CallFailed: The stream ended with another status than OK.
        """
        try:
            yield from stream
        except grpc.RpcError as error:
            raise CallFailed.of("ModelStreamInfer", error) from None

    def health_check(self, service: str) -> str:
        """Return the name of the status that grpc.health.v1 Check gives."""
        check = self.channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=_serialized,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        try:
            answer = check(health_pb2.HealthCheckRequest(service=service), timeout=self.timeout_seconds)
        except grpc.RpcError as error:
            raise CallFailed.of("grpc.health.v1 Check", error) from None
        return status_name(answer)

    def health_watch(self, service: str) -> Any:
        """Begin grpc.health.v1 Watch."""
        watch = self.channel.unary_stream(
            "/grpc.health.v1.Health/Watch",
            request_serializer=_serialized,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        return watch(health_pb2.HealthCheckRequest(service=service), timeout=self.timeout_seconds)

    def reflect(self, **request: str) -> Any:
        """Ask the reflection service one thing.

        Raises:
            CallFailed: It did not answer.
        """
        ask = self.channel.stream_stream(
            "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
            request_serializer=_serialized,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        message = reflection_pb2.ServerReflectionRequest(**request)  # type: ignore[arg-type]
        try:
            return next(ask(iter([message]), timeout=self.timeout_seconds))
        except grpc.RpcError as error:
            raise CallFailed.of("ServerReflectionInfo", error) from None


def answer_of(call: Any, expected: str) -> Any:
    """Return the answer of a call that grpc made as a future.

    Raises:
        CheckFailed: It ended otherwise.
    """
    expect(call.exception() is None, expected, f"{call.code().name}: {call.details()}")
    return call.result()


def status_name(answer: Any) -> str:
    """Return the name of a health status."""
    name: str = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    return name


def _serialized(message: Any) -> bytes:
    return message if isinstance(message, bytes) else bytes(message.SerializeToString())
