"""grpc.health.v1, fed from readiness: "" is ready to serve, and one name for each model.

A name is ``MODEL`` for its newest version or ``MODEL/VERSION``. While the server drains all are
NOT_SERVING. Unknown names are NOT_FOUND in Check and SERVICE_UNKNOWN in Watch, as the protocol has it.

The servicer of grpcio-health-checking is not used: when one of two callers who watch the same name
leaves, it no longer tells the other of changes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2

from service.repository.lifecycle import Lifecycle
from service.rpc_counts import RpcCounts
from service.transport.departure import leaving
from service.transport.standard_services import end_with, parsed

_MAX_NAME = 256  # characters of a name that is repeated; it travels in metadata, of which clients take 8 KiB
_HEALTH: str = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
_CLASSIFICATION = "convserve.classification.v1.ClassificationService"
_INFERENCE = "inference.GRPCInferenceService"
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Health:
    """The health service and what it is told. :meth:`refresh` may be called from any thread."""

    def __init__(self, lifecycle: Lifecycle, is_ready: Callable[[], bool], is_draining: Callable[[], bool]) -> None:
        """Wire up.

        Args:
            lifecycle: Knows the states of the models.
            is_ready: Tells whether the server as a whole is ready to serve.
            is_draining: Tells whether it is about to stop, and with it every model.
        """
        self._lifecycle = lifecycle
        self._is_ready = is_ready
        self._is_draining = is_draining
        self._states: dict[str, int] = {}  # by service; for the loop's thread only
        self._changed = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_due = False

    def register(self, server: grpc.aio.Server, rpcs: RpcCounts) -> str:
        """Add the service to a server that has not started; return its name. Its calls are counted."""

        async def check(payload: bytes, context: Any) -> Any:
            with rpcs.one(f"/{_HEALTH}/Check", leaving(context)) as rpc:
                name = (await parsed(health_pb2.HealthCheckRequest, payload, context, rpc)).service
                state = self._states.get(name)
                if state is None:
                    await end_with(context, rpc, grpc.StatusCode.NOT_FOUND, f"no service '{name[:_MAX_NAME]}'")
                rpc.code = "OK"
                return health_pb2.HealthCheckResponse(status=state)

        async def watch(payload: bytes, context: Any) -> AsyncIterator[Any]:
            with rpcs.one(f"/{_HEALTH}/Watch", leaving(context)) as rpc:
                request = await parsed(health_pb2.HealthCheckRequest, payload, context, rpc)
                async for state in self._changes(request.service):
                    yield health_pb2.HealthCheckResponse(status=state)

        serialise = health_pb2.HealthCheckResponse.SerializeToString
        methods: dict[str, grpc.RpcMethodHandler] = {
            "Check": grpc.unary_unary_rpc_method_handler(check, response_serializer=serialise),
            "Watch": grpc.unary_stream_rpc_method_handler(watch, response_serializer=serialise),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_HEALTH, methods),))
        return _HEALTH

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Name the loop on which the servicer lives, from that loop."""
        self._loop = loop
        self._refresh()

    def refresh(self) -> None:
        """Bring Check and every Watch up to date, soon; many changes at once are one look at all models."""
        if not self._is_due and self._loop is not None and self._loop.is_running():
            self._is_due = True
            try:
                self._loop.call_soon_threadsafe(self._refresh)
            except BaseException:  # no memory
                self._is_due = False  # or nobody would ever look again
                raise

    def _refresh(self) -> None:
        self._is_due = False  # before looking: a change from now on may be missed, and is due again
        ready, draining = self._is_ready(), self._is_draining()
        states = dict.fromkeys(("", _INFERENCE, _CLASSIFICATION), ready)
        for status in self._lifecycle.statuses():
            serving = status.state == "READY" and not draining
            states[f"{status.name}/{status.version}"] = serving
            states[status.name] = serving or states.get(status.name, False)
        self._states = {name: _SERVING if serving else _NOT_SERVING for name, serving in states.items()}
        self._changed.set()  # which wakes every Watch
        self._changed = asyncio.Event()

    async def _changes(self, name: str) -> AsyncIterator[int]:
        """Yield the status of a service, now and after each change, without end."""
        told = None
        while True:
            changed = self._changed
            state = self._states.get(name, health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)
            if state != told:
                told = state
                yield state
            await changed.wait()
