"""The client that waits for its answers."""

from __future__ import annotations

import random
import threading
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


class Client:
    """One channel to one server. Thread-safe; make one and share it. Use as a context manager, or :meth:`close` it.

    It connects with the first call, and again when the connection is lost. A forked process needs one of its own, and
    calls may not be in flight while it is forked, or gRPC hangs in it: make clients after the fork, or spawn.
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
        """Prepare a channel.

        Args:
            server: ``HOST:PORT``, or another target of gRPC's such as ``unix:PATH``.
            credentials: TLS and token; None for neither.
            timeout_seconds: Deadline of a call that has none of its own, more than 0; None for none.
            attempts: How many times a call is made at most. It is made again if the server refuses it and says when a
                retry is worthwhile (``google.rpc.RetryInfo``), or if no server answers, as while one restarts: then
                after about 1, 2, 4 and from then on 8 seconds. Never past the deadline.
            channel_options: Options of gRPC's, such as ``("grpc.lb_policy_name", "round_robin")``; they go before the
                client's own.

        Raises:
            CredentialsInvalid: A file of the credentials cannot be used.
            TypeError: An argument is of another type.
            ValueError: An argument has a value that it cannot have.
        """
        check_client(server, timeout_seconds, attempts)
        self._channel = (credentials or Credentials()).channel(server, [*channel_options, *CHANNEL_OPTIONS])
        self._stub: Any = pb_grpc.ClassificationServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self._health: Any = health_pb2_grpc.HealthStub(self._channel)
        self._timeout_seconds = timeout_seconds
        self._attempts = attempts
        self._closed = threading.Event()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the channel."""
        self.close()

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled or copied, in words: gRPC's name neither the client nor what to do."""
        raise TypeError("a client holds a connection and cannot be pickled or copied: make one in each process")

    def close(self) -> None:
        """Close the channel; calls in flight end CANCELLED, later ones are a ValueError."""
        self._closed.set()
        self._channel.close()

    def classify_images(
        self, model: str, images: Sequence[bytes], **options: Unpack[Options]
    ) -> pb.ClassifyImagesResponse:
        """Classify encoded pictures; like :meth:`classify_sentences`."""
        request = images_request(model, images, options)
        response: pb.ClassifyImagesResponse = self._call(self._stub.ClassifyImages, request, options)
        return response

    def classify_sentences(
        self, model: str, sentences: Sequence[str], **options: Unpack[Options]
    ) -> pb.ClassifySentencesResponse:
        """Classify sentences.

        Args:
            model: Model name.
            sentences: At least one; no more than the server takes in a call, which is 1024 unless set otherwise.
            **options: See :class:`Options`.

        Returns:
            A result per sentence, in order: ``classification.scored_labels``, or ``error`` if the sentence could not
            be classified; ``HasField`` tells which.

        Raises:
            CallFailed: The call as a whole ended with another status than OK.
            TypeError: A sentence or an option is of another type.
            ValueError: A sentence or an option has a value that cannot be sent.
        """
        request = sentences_request(model, sentences, options)
        response: pb.ClassifySentencesResponse = self._call(self._stub.ClassifySentences, request, options)
        return response

    def describe(self, model: str, version: str = "", **options: Unpack[CallOptions]) -> pb.DescribeModelResponse:
        """Describe a model version; the newest that is READY if none is named.

        Args:
            model: Model name.
            version: Decimal digits.
            **options: See :class:`CallOptions`.

        Raises:
            CallFailed: It ended with another status than OK.
        """
        request = describe_request(model, version, options)
        response: pb.DescribeModelResponse = self._call(self._stub.DescribeModel, request, options)
        return response

    def is_ready(self, model: str = "", **options: Unpack[CallOptions]) -> bool:
        """Tell whether the server takes calls, or one of its models (``MODEL``, ``MODEL/VERSION``) does.

        Raises:
            CallFailed: No server said so; NOT_FOUND for a model that is unknown.
        """
        answer = self._call(self._health.Check, health_request(model, options), options)
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    def _call(self, method: Any, request: Any, options: CallOptions) -> Any:
        terms = Terms.of(options, self._timeout_seconds, self._attempts, time.monotonic())
        attempt = 1
        while True:
            try:
                return method(request, timeout=terms.left_seconds(time.monotonic()), metadata=terms.metadata)
            except grpc.RpcError as error:
                failed = CallFailed.of(error)
            wait = terms.wait_seconds(failed, attempt, time.monotonic(), random.random())  # noqa: S311 - no secret
            if wait is None:
                try:
                    raise failed
                finally:
                    del failed  # its traceback knows this frame: the request would wait for the garbage collector
            if self._closed.wait(wait):
                raise CallFailed.closed()
            attempt += 1
