"""The complete door: one grpc.aio server with every servicer, on its own thread and loop.

Hot calls are begun on the loop and answered from the instances' threads; the replies of a batch reach the loop by one
``call_soon_threadsafe``. Behind the native fast lane it listens on an abstract Unix socket and takes all other calls.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from service.errors import InvalidInput, ServingError
from service.scheduling import take_turns_at_once
from service.transport.address import ABSTRACT, check_free
from service.transport.call import request_id_of, unexpected
from service.transport.call_record import EndedCall
from service.transport.calls import HOT_METHODS, Calls
from service.transport.departure import leaving
from service.transport.health import Health
from service.transport.limits import DoorLimits
from service.transport.off_loop import OffLoop
from service.transport.reply_queue import LoopResponder, ReplyQueue
from service.transport.servicers import Method
from service.transport.standard_services import add_reflection
from service.transport.status import Status, abort
from service.transport.streaming import MODEL_STREAM_INFER, Stream
from service.vital import OnDeath, vital_thread

_LOG = logging.getLogger(__name__)
_PATIENCE_SECONDS = 5.0  # with a loop that should answer at once
_LOOK_SECONDS = 0.25  # how soon a server that ended by itself is noticed
_UNTIL_STOPPED_SECONDS = 86400.0  # grace for calls in flight, which stop() shortens
_SETTLE_SECONDS = 0.05  # a few trips of the loop
_PAUSE_SECONDS = 0.02  # without a call: none waited
_MOST_SETTLE_SECONDS = 0.5  # some callers never pause, and some wait for answers


class GrpcioDoor:
    """Owns the loop's thread and the server on it. Its public methods may be called from any thread."""

    def __init__(
        self,
        calls: Calls,
        methods: Sequence[Method],
        health: Health,
        limits: DoorLimits,
        credentials: grpc.ServerCredentials | None,
        on_death: OnDeath,
    ) -> None:
        """Wire up; nothing listens yet. Without ``credentials`` there is no TLS.

        ``on_death`` is called if the loop, what starts the server again, or a thread of calls that block dies.
        """
        self._credentials = credentials
        self._calls = calls
        self._methods = methods
        self._health = health
        self._limits = limits
        self._loop = asyncio.new_event_loop()
        self._thread = vital_thread("grpcio", self._run_loop, on_death)
        self._on_death = on_death
        self._server: grpc.aio.Server | None = None
        self._replies = ReplyQueue(self._loop)
        self._off_loop = OffLoop(on_death)
        self._hold: asyncio.Event | None = None
        self._picked_up = 0
        self._leaving: asyncio.Task[None] | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._ended: set[asyncio.Task[None]] = set()  # servers that ended by themselves and finish what is in flight

    @property
    def unsent(self) -> int:
        """How many hot calls, and requests of streams, are not completely answered yet."""
        return self._replies.unsent

    def start(self, address: str) -> int:
        """Listen on ``HOST:PORT`` or ``unix-abstract:NAME``; return the port.

        Raises:
            OSError: The address cannot be bound.
        """
        self._off_loop.start()
        self._thread.start()
        return asyncio.run_coroutine_threadsafe(self._start(address), self._loop).result()

    def leave(self) -> None:
        """Tell callers to go elsewhere (GOAWAY) and stop listening; calls in flight go on until :meth:`stop`."""
        self._wait_for(self._leave(), _MOST_SETTLE_SECONDS)

    def stop(self, grace_seconds: float) -> None:
        """Leave, if that was not done, give calls in flight ``grace_seconds``, then end the loop."""
        self._wait_for(self._stop(grace_seconds), grace_seconds)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=5)
        self._off_loop.close()

    def _wait_for(self, step: Coroutine[Any, Any, None], seconds: float) -> None:
        """Run a step on the loop that should take ``seconds``; do not wait for a loop that has died or hangs."""
        if not self._thread.is_alive():
            step.close()
            return
        try:
            asyncio.run_coroutine_threadsafe(step, self._loop).result(seconds + _PATIENCE_SECONDS)
        except TimeoutError:
            _LOG.error("the loop of the grpcio transport does not answer, the drain continues without it")

    def _run_loop(self) -> None:
        take_turns_at_once()
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._loop.close()

    async def _start(self, address: str) -> int:
        self._health.attach(self._loop)
        port = await self._listen(address)
        again = address if address.startswith(ABSTRACT) else f"{address.rpartition(':')[0]}:{port}"
        self._keeper = self._loop.create_task(self._keep(again))
        self._keeper.add_done_callback(self._kept)
        return port

    async def _listen(self, address: str) -> int:
        server = grpc.aio.server(options=self._limits.channel_arguments())
        self._register(server)
        check_free(address)
        try:
            keys = self._credentials
            port = server.add_secure_port(address, keys) if keys else server.add_insecure_port(address)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {address}") from error
        await server.start()
        self._server = server
        return port

    async def _keep(self, address: str) -> None:
        """Start a new server when the present one ended by itself, which no caller must be able to bring about.

        A server ends on any exception while it takes a call in: grpcio 1.84 and 1.85 decode the path there, which need
        not be UTF-8. It no longer listens then; calls in flight on it are finished, as when the server stops.
        """
        while self._leaving is None and self._server is not None:
            try:
                await self._server.wait_for_termination(_LOOK_SECONDS)
                self._replies.flush()
            except Exception as error:
                _LOG.error("the grpcio server ended unexpectedly and is being restarted: %s", error)
                self._ended = {task for task in self._ended if not task.done()}
                self._ended.add(self._loop.create_task(self._server.stop(self._limits.age_grace_seconds)))
                while self._leaving is None and not await self._listens_again(address):
                    await asyncio.sleep(_LOOK_SECONDS)

    def _kept(self, keeper: asyncio.Task[None]) -> None:
        if not keeper.cancelled() and isinstance(error := keeper.exception(), Exception):
            self._on_death(error)

    async def _listens_again(self, address: str) -> bool:
        try:
            await self._listen(address)
        except Exception as error:
            _LOG.error("the grpcio server cannot listen again yet: %s", error)
            return False
        return True

    async def _leave(self) -> None:
        """Leave so that no call in the doorway is lost.

        Calls that the loop has not picked up when gRPC stops end with CANCELLED, which no client retries. So answers
        are held back until it has, which takes a while for hundreds, and given when clients were told to send no more.
        """
        if self._server is None or self._leaving is not None:
            return
        self._hold = asyncio.Event()
        give_up = self._loop.time() + _MOST_SETTLE_SECONDS
        await asyncio.sleep(_SETTLE_SECONDS)
        before = -1
        while before != self._picked_up and self._loop.time() < give_up:
            before = self._picked_up
            await asyncio.sleep(_PAUSE_SECONDS)
        self._leaving = self._loop.create_task(self._server.stop(_UNTIL_STOPPED_SECONDS))
        await asyncio.sleep(0)
        self._hold.set()
        await asyncio.sleep(_SETTLE_SECONDS)  # what came last has begun by then, so it is not refused

    async def _stop(self, grace_seconds: float) -> None:
        await self._leave()
        if self._server is not None and self._leaving is not None:
            await asyncio.gather(self._leaving, self._server.stop(grace_seconds))

    def _register(self, server: grpc.aio.Server) -> None:
        handlers: dict[str, grpc.RpcMethodHandler] = {
            path: grpc.unary_unary_rpc_method_handler(self._hot(path)) for path in HOT_METHODS
        }
        handlers[MODEL_STREAM_INFER] = grpc.stream_stream_rpc_method_handler(self._stream)
        for method in self._methods:
            handlers[method.path] = grpc.unary_unary_rpc_method_handler(
                self._cold(method), response_serializer=method.response_type.SerializeToString
            )
        services: dict[str, dict[str, grpc.RpcMethodHandler]] = {}
        for path, handler in handlers.items():
            _, service, name = path.split("/")
            services.setdefault(service, {})[name] = handler
        server.add_generic_rpc_handlers(
            tuple(grpc.method_handlers_generic_handler(service, table) for service, table in services.items())
        )
        add_reflection(server, (*services, self._health.register(server, self._calls.rpcs)), self._calls.rpcs)

    def _hot(self, path: str) -> Callable[[bytes, Any], Awaitable[bytes]]:
        """Return the handler of a hot method: raw bytes in, raw bytes out."""

        async def handle(payload: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
            self._picked_up += 1
            self._replies.count_until_sent(context)
            metadata = context.invocation_metadata() or ()
            responder = LoopResponder(self._replies, self._loop.create_future(), metadata)
            ticket = self._calls.begin(path, payload, context.time_remaining(), responder, metadata)
            try:
                outcome = await responder.future
                await self._pass()
            except asyncio.CancelledError:
                if ticket is not None:
                    ticket.cancel()
                raise
            return await abort(context, outcome) if isinstance(outcome, Status) else outcome

        return handle

    async def _stream(
        self, requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext[bytes, bytes]
    ) -> AsyncIterator[bytes]:
        """The handler of ModelStreamInfer; its credential is checked once, at the start."""
        self._picked_up += 1
        metadata = context.invocation_metadata() or ()
        request_id = request_id_of(metadata)
        with self._calls.rpcs.one(MODEL_STREAM_INFER, leaving(context)) as rpc:
            try:
                self._calls.check_access(MODEL_STREAM_INFER, metadata)
            except ServingError as error:
                rpc.code = error.status
                self._calls.count(MODEL_STREAM_INFER, error.status, rpc=False)
                await abort(context, self._calls.status_of(error, request_id))
            stream = Stream(self._calls, self._replies, context.time_remaining(), request_id, metadata)
            async for answer in stream.run(requests):
                await self._pass()
                yield answer
            rpc.code = "OK"

    async def _pass(self) -> None:
        """Wait while answers are held back."""
        if self._hold is not None:
            await self._hold.wait()

    def _cold(self, method: Method) -> Callable[[bytes, Any], Awaitable[Any]]:
        """Return the handler of a method that is not hot."""

        async def handle(payload: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            self._picked_up += 1
            metadata = context.invocation_metadata() or ()
            request_id = request_id_of(metadata)
            arrival, leaves = self._calls.dataplane.clock(), leaving(context)
            recorder = self._calls.recorder
            record = recorder.begin(method.path, metadata, arrival) if recorder.draws else None
            self._calls.rpcs.started(method.path)

            def ended(code: str, reason: str = "") -> None:
                self._calls.count(method.path, code)
                took = self._calls.dataplane.clock() - arrival
                recorder.ended(EndedCall(method.path, "grpcio", request_id, code, took, arrival, reason, record=record))

            try:
                await self._pass()
                self._calls.check_access(method.path, metadata)
                request = method.request_type.FromString(payload)
                response = await self._off_loop.answer(method, request)
            except ServingError as error:
                status, reason = self._calls.status_of(error, request_id), error.reason
            except DecodeError:
                damaged = InvalidInput("the request message is damaged")
                status, reason = self._calls.status_of(damaged, request_id), damaged.reason
            except asyncio.CancelledError:
                ended((left := leaves()).status, left.reason)
                raise
            except Exception:
                status, reason = unexpected(request_id, method.path), "INTERNAL"
            else:
                ended("OK")
                return response
            ended(status.name, reason)
            return await abort(context, status)

        return handle
