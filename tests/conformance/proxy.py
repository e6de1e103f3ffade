"""A proxy that plants one fault between the suite and a real server, and passes everything else on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import grpc

from service.pb.inference import grpc_service_pb2 as pb
from tests.integration.harness import DEADLINE_SECONDS

_STREAMS = ("ModelStreamInfer", "ServerReflectionInfo", "Watch")
_OPTIONS = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]

Forward = Callable[[Any], Any]


class Refusal(Exception):
    """Raised by a fault to end a call with a code."""

    def __init__(self, code: grpc.StatusCode) -> None:
        super().__init__(code.name)
        self.code = code


@dataclass(frozen=True)
class Fault:
    """What happens to one method instead of what should.

    Attributes:
        method: Its name, without its service.
        unary: Takes the request and a way to forward one, and returns the response. Messages of the
            inference service are parsed, others are bytes.
        stream: Takes the requests, bytes, and a way to forward such, and yields responses, bytes.
    """

    method: str
    unary: Callable[[Any, Forward], Any] | None = None
    stream: Callable[[Iterator[bytes], Callable[[Iterable[bytes]], Any]], Iterator[bytes]] | None = None


@contextmanager
def proxy(port: int, *faults: Fault) -> Iterator[str]:
    """Stand before a server on this machine; give the address to ask in its place."""
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=_OPTIONS) as channel:
        server = grpc.server(ThreadPoolExecutor(16), options=[*_OPTIONS, ("grpc.so_reuseport", 0)])
        server.add_generic_rpc_handlers([_Handlers(channel, {fault.method: fault for fault in faults})])
        free = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield f"127.0.0.1:{free}"
        finally:
            server.stop(None).wait(DEADLINE_SECONDS)


class _Handlers(grpc.GenericRpcHandler):
    def __init__(self, channel: grpc.Channel, faults: dict[str, Fault]) -> None:
        self._channel = channel
        self._faults = faults

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        path = details.method
        name = path.rpartition("/")[2]
        fault = self._faults.get(name, Fault(name))
        if name in _STREAMS:
            return grpc.stream_stream_rpc_method_handler(self._stream(path, fault))
        return grpc.unary_unary_rpc_method_handler(self._unary(path, name, fault))

    def _unary(self, path: str, name: str, fault: Fault) -> Callable[[bytes, grpc.ServicerContext], bytes]:
        call = self._channel.unary_unary(path)
        request_type, response_type = getattr(pb, f"{name}Request", None), getattr(pb, f"{name}Response", None)

        def handle(payload: bytes, context: grpc.ServicerContext) -> bytes:
            def forward(request: Any) -> Any:
                raw = request if isinstance(request, bytes) else request.SerializeToString()
                answer = call(raw, timeout=context.time_remaining())
                return response_type.FromString(answer) if response_type else answer

            try:
                if fault.unary is None:
                    return call(payload, timeout=context.time_remaining())
                response = fault.unary(request_type.FromString(payload) if request_type else payload, forward)
                return response if isinstance(response, bytes) else response.SerializeToString()
            except Refusal as refusal:
                context.abort(refusal.code, "planted")
            except grpc.RpcError as error:
                _abort(context, error)

        return handle

    def _stream(self, path: str, fault: Fault) -> Callable[[Iterator[bytes], grpc.ServicerContext], Iterator[bytes]]:
        call = self._channel.stream_stream(path)

        def handle(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            def forward(given: Iterable[bytes]) -> Any:
                forwarded = call(iter(given), timeout=context.time_remaining())
                context.add_callback(forwarded.cancel)
                return forwarded

            try:
                yield from fault.stream(requests, forward) if fault.stream else forward(requests)
            except Refusal as refusal:
                context.abort(refusal.code, "planted")
            except grpc.RpcError as error:
                _abort(context, error)

        return handle


def _abort(context: grpc.ServicerContext, error: Any) -> NoReturn:
    context.abort(error.code(), error.details())
    raise AssertionError("abort raises")
