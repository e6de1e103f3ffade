"""grpc.health.v1, fed from readiness: "" is ready to serve, and one name for each model.

A name is ``MODEL`` for its newest version or ``MODEL/VERSION``. While the server drains all are
NOT_SERVING. Unknown names are NOT_FOUND in Check and SERVICE_UNKNOWN in Watch, as the protocol has it.

The servicer of grpcio-health-checking is not used: when one of two callers who watch the same name
leaves, it never tells the other of a change again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from service.repository.lifecycle import Lifecycle
from service.rpc_counts import RpcCounts

_HEALTH: str = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
_CLASSIFICATION = "convserve.classification.v1.ClassificationService"
_INFERENCE = "inference.GRPCInferenceService"
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class Health:
    """The health service and what it is told. :meth:`refresh` may be called from any thread."""

    service_name: str = _HEALTH

    def __init__(
        self, lifecycle: Lifecycle, is_ready: Callable[[], bool], is_draining: Callable[[], bool], rpcs: RpcCounts
    ) -> None:
        """Wire up.

        Args:
            lifecycle: Knows the states of the models.
            is_ready: Tells whether the server as a whole is ready to serve.
            is_draining: Tells whether it is about to stop, and with it every model.
            rpcs: Where the service's calls are counted.
        """
        self._lifecycle = lifecycle
        self._is_ready = is_ready
        self._is_draining = is_draining
        self._servicer = _Servicer(rpcs)
        self._loop: asyncio.AbstractEventLoop | None = None

    def register(self, server: grpc.aio.Server) -> None:
        """Add the servicer to a server that has not started."""
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Name the loop on which the servicer lives, from that loop."""
        self._loop = loop
        self._refresh()

    def refresh(self) -> None:
        """Bring Check and every Watch up to date."""
        if self._loop is not None and self._loop.is_running():
            self._loop.call_soon_threadsafe(self._refresh)

    def _refresh(self) -> None:
        ready, draining = self._is_ready(), self._is_draining()
        states = dict.fromkeys(("", _INFERENCE, _CLASSIFICATION), ready)
        for status in self._lifecycle.statuses():
            serving = status.state == "READY" and not draining
            states[f"{status.name}/{status.version}"] = serving
            states[status.name] = serving or states.get(status.name, False)
        self._servicer.update({name: _SERVING if serving else _NOT_SERVING for name, serving in states.items()})


class _Servicer(health_pb2_grpc.HealthServicer):
    """Holds the states by name; for the loop's thread only."""

    def __init__(self, rpcs: RpcCounts) -> None:
        self._rpcs = rpcs
        self._states: dict[str, int] = {}
        self._changed = asyncio.Event()

    def update(self, states: dict[str, int]) -> None:
        """Replace every state and wake whoever watches."""
        self._states = states
        self._changed.set()
        self._changed = asyncio.Event()

    async def Check(self, request: Any, context: Any) -> Any:  # noqa: N802 - the protocol's name
        with self._rpcs.one(f"/{_HEALTH}/Check") as rpc:
            state = self._states.get(request.service)
            if state is None:
                rpc.code = "NOT_FOUND"
                await context.abort(grpc.StatusCode.NOT_FOUND, f"no service '{request.service}'")
            rpc.code = "OK"
            return health_pb2.HealthCheckResponse(status=state)

    async def Watch(self, request: Any, _: Any) -> AsyncIterator[Any]:  # noqa: N802 - the protocol's name
        told = None
        with self._rpcs.one(f"/{_HEALTH}/Watch"):
            while True:
                changed = self._changed
                state = self._states.get(request.service, _SERVICE_UNKNOWN)
                if state != told:
                    told = state
                    yield health_pb2.HealthCheckResponse(status=state)
                await changed.wait()
