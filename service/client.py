"""A small client of ClassificationService: what ``convserve classify`` calls."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import grpc

from service.errors import SettingsError
from service.pb.convserve.classification.v1 import classification_pb2 as pb
from service.pb.convserve.classification.v1 import classification_pb2_grpc as pb_grpc

Response = pb.ClassifyImagesResponse | pb.ClassifySentencesResponse
_MAX_MESSAGE_BYTES = 2**31 - 1


class CallFailed(Exception):
    """A call ended with another status than OK; the message begins with its name."""


class Client:
    """One channel to one server. Thread-safe. Use as a context manager."""

    def __init__(self, server: str) -> None:
        """Prepare a channel to ``HOST:PORT``; it connects with the first call."""
        self._channel = grpc.insecure_channel(
            server,
            options=[
                ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
                ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
            ],
        )
        self._stub: Any = pb_grpc.ClassificationServiceStub(self._channel)  # type: ignore[no-untyped-call]

    def __enter__(self) -> Client:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the channel."""
        self._channel.close()

    def classify_images(self, model: str, images: Sequence[bytes], **options: Any) -> pb.ClassifyImagesResponse:
        """Classify encoded pictures; ``options`` as for :meth:`classify_sentences`."""
        timeout_seconds = options.pop("timeout_seconds", None)
        request = pb.ClassifyImagesRequest(model_name=model, images=images, **options)
        response: pb.ClassifyImagesResponse = self._call(self._stub.ClassifyImages, request, timeout_seconds)
        return response

    def classify_sentences(self, model: str, sentences: Sequence[str], **options: Any) -> pb.ClassifySentencesResponse:
        """Classify sentences.

        Args:
            model: Model name.
            sentences: At least one.
            **options: ``model_version``, ``top_k``, ``explain`` and ``request_id`` of the request, and
                ``timeout_seconds`` for the deadline.

        Raises:
            CallFailed: The call ended with another status than OK.
        """
        timeout_seconds = options.pop("timeout_seconds", None)
        request = pb.ClassifySentencesRequest(model_name=model, sentences=sentences, **options)
        response: pb.ClassifySentencesResponse = self._call(self._stub.ClassifySentences, request, timeout_seconds)
        return response

    def describe(self, model: str, version: str = "") -> pb.DescribeModelResponse:
        """Ask what a model version says of itself."""
        request = pb.DescribeModelRequest(model_name=model, model_version=version)
        response: pb.DescribeModelResponse = self._call(self._stub.DescribeModel, request, None)
        return response

    def _call(self, method: Any, request: Any, timeout_seconds: float | None) -> Any:
        try:
            return method(request, timeout=timeout_seconds)
        except grpc.RpcError as error:
            call: Any = error  # grpc's errors are calls too, which its type does not say
            raise CallFailed(f"{call.code().name}: {call.details()}") from None


def classify_and_print(flags: argparse.Namespace) -> int:
    """Do what ``convserve classify`` says; return the exit code.

    Args:
        flags: ``server``, ``model``, ``model_version``, ``top_k``, ``timeout_seconds``, ``explain``, and
            ``text`` or ``pictures``.
    """
    options = {
        "model_version": flags.model_version,
        "top_k": flags.top_k,
        "explain": flags.explain,
        "timeout_seconds": flags.timeout_seconds,
    }
    with Client(flags.server) as client:
        response: Response
        if flags.text:
            names = list(flags.text)
            response = client.classify_sentences(flags.model, names, **options)
        else:
            names = list(flags.pictures)
            response = client.classify_images(flags.model, [_read(name) for name in names], **options)
        about = client.describe(response.model_name, response.model_version)
    verified = "verified" if about.verified else "not verified"
    print(f"{response.model_name} version {response.model_version} on {about.actual_execution_provider}, {verified}")
    failed = 0
    for name, result in zip(names, response.results, strict=True):
        print(name)
        if result.HasField("error"):
            failed += 1
            print(f"  {_status_name(result.error.code)}: {result.error.message}")
        for scored in result.classification.scored_labels:
            print(f"  {scored.probability:8.4f}  {scored.label}")
    if response.HasField("explanation"):
        print(str(response.explanation).rstrip())
    return 1 if failed else 0


def _status_name(code: int) -> str:
    return next((status.name for status in grpc.StatusCode if status.value[0] == code), f"status {code}")


def _read(name: str) -> bytes:
    try:
        return Path(name).read_bytes()
    except OSError as error:
        raise SettingsError(f"{name}: {error.strerror}") from None
