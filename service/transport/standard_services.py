"""Health and reflection, which gRPC's libraries define, with our own answer to a damaged message.

As the libraries register them, a damaged message gives the caller the text of the parser's exception and the log a
traceback. Neither service asks for a token.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, NoReturn

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from service.rpc_counts import Rpc, RpcCounts
from service.transport.departure import leaving
from service.transport.status import Status, abort

_MAX_NAME = 256  # characters of a name that is repeated; it travels in metadata, of which clients take 8 KiB
_HEALTH: str = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
_REFLECTION_V1 = "grpc.reflection.v1.ServerReflection"
_REFLECTIONS: tuple[str, ...] = (_REFLECTION_V1, reflection.SERVICE_NAME)


class States:
    """The states that the health service reports; for the loop's thread only."""

    def __init__(self) -> None:
        """Know of no service."""
        self._states: dict[str, int] = {}
        self._changed = asyncio.Event()

    def update(self, states: dict[str, int]) -> None:
        """Replace every state and wake every Watch."""
        self._states = states
        self._changed.set()
        self._changed = asyncio.Event()

    def of(self, name: str) -> int | None:
        """Return the status of a service; None for one that is not known."""
        return self._states.get(name)

    async def changes(self, name: str) -> AsyncIterator[int]:
        """Yield the status of a service, now and after each change, without end."""
        told = None
        while True:
            changed = self._changed
            state = self._states.get(name, health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)
            if state != told:
                told = state
                yield state
            await changed.wait()


def add_health(server: grpc.aio.Server, states: States, rpcs: RpcCounts) -> str:
    """Register the health service; return its name."""

    async def check(payload: bytes, context: Any) -> Any:
        with rpcs.one(f"/{_HEALTH}/Check", leaving(context)) as rpc:
            name = (await _parsed(health_pb2.HealthCheckRequest, payload, context, rpc)).service
            state = states.of(name)
            if state is None:
                await _abort(context, rpc, grpc.StatusCode.NOT_FOUND, f"no service '{name[:_MAX_NAME]}'")
            rpc.code = "OK"
            return health_pb2.HealthCheckResponse(status=state)

    async def watch(payload: bytes, context: Any) -> AsyncIterator[Any]:
        with rpcs.one(f"/{_HEALTH}/Watch", leaving(context)) as rpc:
            request = await _parsed(health_pb2.HealthCheckRequest, payload, context, rpc)
            async for state in states.changes(request.service):
                yield health_pb2.HealthCheckResponse(status=state)

    serialise = health_pb2.HealthCheckResponse.SerializeToString
    methods: dict[str, grpc.RpcMethodHandler] = {
        "Check": grpc.unary_unary_rpc_method_handler(check, response_serializer=serialise),
        "Watch": grpc.unary_stream_rpc_method_handler(watch, response_serializer=serialise),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_HEALTH, methods),))
    return _HEALTH


def add_reflection(server: grpc.aio.Server, names: Sequence[str], rpcs: RpcCounts) -> None:
    """Register server reflection, which lists the services of these names and itself.

    It is registered as v1 and as v1alpha, since some clients know only one of the two. Both say the same.
    """
    _add_final_contract()
    servicer: Any = reflection.aio.ReflectionServicer((*names, *_REFLECTIONS), _Contracts())

    def answer(service: str) -> Callable[[AsyncIterator[bytes], Any], AsyncIterator[Any]]:
        async def info(payloads: AsyncIterator[bytes], context: Any) -> AsyncIterator[Any]:
            with rpcs.one(f"/{service}/ServerReflectionInfo", leaving(context)) as rpc:

                async def requests() -> AsyncIterator[Any]:
                    async for payload in payloads:
                        yield await _parsed(reflection_pb2.ServerReflectionRequest, payload, context, rpc)

                async for response in servicer.ServerReflectionInfo(requests(), context):
                    yield response
                rpc.code = "OK"

        return info

    serialise = reflection_pb2.ServerReflectionResponse.SerializeToString
    for service in _REFLECTIONS:
        methods: dict[str, grpc.RpcMethodHandler] = {
            "ServerReflectionInfo": grpc.stream_stream_rpc_method_handler(
                answer(service), response_serializer=serialise
            )
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, methods),))


class _Contracts:
    """The pool of contracts for reflection, in which methods are found by name too, as ``grpcurl describe`` asks."""

    def __getattr__(self, name: str) -> Any:
        return getattr(descriptor_pool.Default(), name)

    def FindFileContainingSymbol(self, symbol: str) -> Any:  # noqa: N802 - as the library calls it
        """Return the file that declares a symbol; KeyError for none. The pool's own method finds no methods."""
        pool = descriptor_pool.Default()
        with contextlib.suppress(KeyError):
            return pool.FindFileContainingSymbol(symbol)
        return pool.FindMethodByName(symbol).containing_service.file


def _add_final_contract() -> None:
    """Make v1 of the reflection contract known, which grpcio-reflection lacks: v1alpha with other names."""
    pool = descriptor_pool.Default()
    with contextlib.suppress(KeyError):
        pool.FindFileContainingSymbol(_REFLECTION_V1)
        return
    contract = descriptor_pb2.FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(contract)
    contract.name, contract.package = "grpc/reflection/v1/reflection.proto", "grpc.reflection.v1"
    for field in (field for message in contract.message_type for field in message.field if field.type_name):
        field.type_name = field.type_name.replace(".v1alpha.", ".v1.")
    for method in (method for service in contract.service for method in service.method):
        method.input_type = method.input_type.replace(".v1alpha.", ".v1.")
        method.output_type = method.output_type.replace(".v1alpha.", ".v1.")
    pool.AddSerializedFile(contract.SerializeToString())


async def _parsed(message_type: Any, payload: bytes, context: Any, rpc: Rpc) -> Any:
    try:
        return message_type.FromString(payload)
    except DecodeError:
        await _abort(context, rpc, grpc.StatusCode.INVALID_ARGUMENT, "the request message is damaged")


async def _abort(context: grpc.aio.ServicerContext[Any, Any], rpc: Rpc, code: grpc.StatusCode, text: str) -> NoReturn:
    rpc.code = code.name
    await abort(context, Status(code.name, text, ()))
