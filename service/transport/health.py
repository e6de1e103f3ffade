"""grpc.health.v1, fed from readiness: "" is ready to serve, and one name for each model.

A name is ``MODEL`` for its newest version or ``MODEL/VERSION``. Unknown names are NOT_FOUND in Check
and SERVICE_UNKNOWN in Watch, as the protocol has it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from service.repository.lifecycle import Lifecycle


class Health:
    """The health servicer and what it is told. :meth:`refresh` may be called from any thread."""

    service_name: str = health.SERVICE_NAME

    def __init__(self, lifecycle: Lifecycle, is_ready: Callable[[], bool]) -> None:
        """Wire up; ``is_ready`` tells whether the server as a whole is ready to serve."""
        self._lifecycle = lifecycle
        self._is_ready = is_ready
        self._servicer = health.aio.HealthServicer()
        self._loop: asyncio.AbstractEventLoop | None = None

    def register(self, server: grpc.aio.Server) -> None:
        """Add the servicer to a server that has not started."""
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Name the loop on which the servicer lives, from that loop."""
        self._loop = loop
        loop.create_task(self._refresh())

    def refresh(self) -> None:
        """Bring Check and every Watch up to date."""
        if self._loop is not None and self._loop.is_running():
            asyncio.run_coroutine_threadsafe(self._refresh(), self._loop)

    async def _refresh(self) -> None:
        ready = self._is_ready()
        states = dict.fromkeys(("", "inference.GRPCInferenceService", _CLASSIFICATION), ready)
        for status in self._lifecycle.statuses():
            serving = status.state == "READY"
            states[f"{status.name}/{status.version}"] = serving
            states[status.name] = serving or states.get(status.name, False)
        for name, serving in states.items():
            await self._servicer.set(name, _SERVING if serving else _NOT_SERVING)


_CLASSIFICATION = "convserve.classification.v1.ClassificationService"
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
