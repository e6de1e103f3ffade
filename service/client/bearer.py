"""Adds a bearer token to every call of a channel.

gRPC refuses its own call credentials without TLS, for example behind a proxy that terminates it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import grpc


def interceptor(token: str) -> _Blocking:
    """Return the interceptor that puts a token into the metadata of a channel's calls."""
    return _Blocking(token)


def aio_interceptors(token: str) -> list[grpc.aio.ClientInterceptor]:
    """Return the same for a channel of grpc.aio, which wants one interceptor per kind of call."""
    return [_UnaryUnary(token), _UnaryStream(token), _StreamStream(token)]


class _Call(NamedTuple):
    """gRPC's ClientCallDetails, of which gRPC has the interface only; that of grpc.aio has no compression."""

    method: Any
    timeout: float | None
    metadata: Any
    credentials: Any
    wait_for_ready: bool | None
    compression: Any = None


class _Bearer:
    def __init__(self, token: str) -> None:
        self._field = ("authorization", f"Bearer {token}")

    def _with_token(self, call: Any) -> _Call:
        metadata = (*(call.metadata or ()), self._field)
        compression = getattr(call, "compression", None)
        return _Call(call.method, call.timeout, metadata, call.credentials, call.wait_for_ready, compression)


class _Blocking(
    _Bearer, grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor, grpc.StreamStreamClientInterceptor
):
    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return continuation(self._with_token(client_call_details), request)

    def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return continuation(self._with_token(client_call_details), request)

    def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return continuation(self._with_token(client_call_details), request_iterator)


class _UnaryUnary(_Bearer, grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await continuation(self._with_token(client_call_details), request)


class _UnaryStream(_Bearer, grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await continuation(self._with_token(client_call_details), request)


class _StreamStream(_Bearer, grpc.aio.StreamStreamClientInterceptor):
    async def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return await continuation(self._with_token(client_call_details), request_iterator)
