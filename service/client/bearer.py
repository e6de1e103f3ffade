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

    def _with_token(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """Continue any kind of call; in asyncio, what is returned is awaited."""
        call = client_call_details
        metadata = (*(call.metadata or ()), self._field)
        compression = getattr(call, "compression", None)
        given = _Call(call.method, call.timeout, metadata, call.credentials, call.wait_for_ready, compression)
        return continuation(given, request)


class _Blocking(
    _Bearer, grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor, grpc.StreamStreamClientInterceptor
):
    intercept_unary_unary = intercept_unary_stream = _Bearer._with_token
    intercept_stream_stream: Any = _Bearer._with_token


class _UnaryUnary(_Bearer, grpc.aio.UnaryUnaryClientInterceptor):
    intercept_unary_unary = _Bearer._with_token


class _UnaryStream(_Bearer, grpc.aio.UnaryStreamClientInterceptor):
    intercept_unary_stream = _Bearer._with_token


class _StreamStream(_Bearer, grpc.aio.StreamStreamClientInterceptor):
    intercept_stream_stream: Any = _Bearer._with_token
