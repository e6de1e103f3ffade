"""The client for asyncio."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, NoReturn, Self, Unpack

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from service.client.credentials import ChannelOptions, Credentials
from service.client.failure import CallFailed
from service.client.requests import (
    CHANNEL_OPTIONS,
    TIMEOUT_SECONDS,
    CallOptions,
    Options,
    Terms,
    check_client,
    describe_request,
    health_request,
    images_request,
    sentences_request,
)
from service.pb.convserve.classification.v1 import classification_pb2 as pb
from service.pb.convserve.classification.v1 import classification_pb2_grpc as pb_grpc


class AsyncClient:
    """:class:`service.client.Client` with ``await``: same arguments, same answers, same errors.

    Make and use it in one running loop; in another its calls are a RuntimeError. Use ``async with``, or :meth:`close`
    it. Cancelling a call's task also cancels the call at the server.
    """

    def __init__(
        self,
        server: str,
        credentials: Credentials | None = None,
        *,
        timeout_seconds: float | None = TIMEOUT_SECONDS,
        attempts: int = 1,
        channel_options: ChannelOptions = (),
    ) -> None:
        """Prepare a channel; arguments and errors as for :class:`service.client.Client`.

        Raises:
            RuntimeError: No loop runs; gRPC would take another one than the calls are made in.
        """
        self._loop = asyncio.get_running_loop()
        check_client(server, timeout_seconds, attempts)
        self._channel = (credentials or Credentials()).aio_channel(server, [*channel_options, *CHANNEL_OPTIONS])
        self._stub: Any = pb_grpc.ClassificationServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self._health: Any = health_pb2_grpc.HealthStub(self._channel)
        self._timeout_seconds = timeout_seconds
        self._attempts = attempts
        self._closed = False

    async def __aenter__(self) -> Self:
        """Return itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the channel."""
        await self.close()

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled or copied, in words: gRPC's name neither the client nor what to do."""
        raise TypeError("a client holds a connection and cannot be pickled or copied: make one in each process")

    async def close(self) -> None:
        """Close the channel; calls in flight end CANCELLED, later ones are a ValueError."""
        self._closed = True
        await self._channel.close()

    async def classify_images(
        self, model: str, images: Sequence[bytes], **options: Unpack[Options]
    ) -> pb.ClassifyImagesResponse:
        """Classify encoded pictures."""
        request = images_request(model, images, options)
        response: pb.ClassifyImagesResponse = await self._call(self._stub.ClassifyImages, request, options)
        return response

    async def classify_sentences(
        self, model: str, sentences: Sequence[str], **options: Unpack[Options]
    ) -> pb.ClassifySentencesResponse:
        """Classify sentences."""
        request = sentences_request(model, sentences, options)
        response: pb.ClassifySentencesResponse = await self._call(self._stub.ClassifySentences, request, options)
        return response

    async def describe(self, model: str, version: str = "", **options: Unpack[CallOptions]) -> pb.DescribeModelResponse:
        """Describe a model version."""
        request = describe_request(model, version, options)
        response: pb.DescribeModelResponse = await self._call(self._stub.DescribeModel, request, options)
        return response

    async def is_ready(self, model: str = "", **options: Unpack[CallOptions]) -> bool:
        """Tell whether the server takes calls, or one of its models does."""
        answer = await self._call(self._health.Check, health_request(model, options), options)
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    async def _call(self, method: Any, request: Any, options: CallOptions) -> Any:
        if self._closed:
            raise ValueError("the client is closed")
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError("the client was made in another event loop: make one in the loop that uses it")
        terms = Terms.of(options, self._timeout_seconds, self._attempts, time.monotonic())
        attempt = 1
        while True:
            try:
                return await method(request, timeout=terms.left_seconds(time.monotonic()), metadata=terms.metadata)
            except grpc.RpcError as error:
                failed = CallFailed.of(error)
            except asyncio.CancelledError:  # gRPC's as well, for calls on a channel that closes
                task = asyncio.current_task()
                if self._closed and task is not None and not task.cancelling():
                    raise CallFailed.closed() from None
                raise
            wait = terms.wait_seconds(failed, attempt, time.monotonic(), random.random())  # noqa: S311 - no secret
            if wait is None:
                try:
                    raise failed
                finally:
                    del failed  # its traceback knows this frame: the request would wait for the garbage collector
            await asyncio.sleep(wait)
            if self._closed:
                raise CallFailed.closed()
            attempt += 1
