"""What both clients share: options, requests, and when to repeat a call."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, TypedDict

import grpc
from grpc_health.v1 import health_pb2

from service.client.address import NO_ADDRESS, is_target
from service.client.failure import CallFailed
from service.pb.convserve.classification.v1 import classification_pb2 as pb

LARGEST_MESSAGE_BYTES = 2**31 - 1
CHANNEL_OPTIONS = (  # after the caller's own: of two that are the same gRPC takes the first
    ("grpc.max_send_message_length", LARGEST_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", LARGEST_MESSAGE_BYTES),
    ("grpc.max_reconnect_backoff_ms", 1000),  # else up to two minutes, in which calls fail though the server is back
)
TIMEOUT_SECONDS = 30.0
_LONGEST_SECONDS = 1e8  # three years, which stands for infinity: gRPC takes what it cannot count for the past
_ENCODED = "give the bytes of JPEG, PNG, WebP, GIF, BMP or TIFF files, as Path.read_bytes() returns them"
_KEY = re.compile("[a-z0-9_.-]+")
_SPREAD = 0.5  # of a delay, at random: callers who were refused together shall not return together
_FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 1.0, 8.0  # where no server says when; it doubles from one to the other

Metadata = Sequence[tuple[str, str | bytes]]


class CallOptions(TypedDict, total=False):
    """Options of any call.

    Attributes:
        timeout_seconds: The deadline of the call, retries included, in place of the client's; more than 0, or None for
            none.
        metadata: Further keys (lower case) and values (ASCII) to send, such as ``traceparent``; a key that ends with
            ``-bin`` has bytes.
    """

    timeout_seconds: float | None
    metadata: Metadata


class Options(CallOptions, total=False):
    """Options of a call that classifies.

    Attributes:
        model_version: Decimal digits; the newest that is ready if left out.
        top_k: How many labels to return, best first; 5 if left out.
        request_id: Sent back, and written to the server's log.
        explain: Whether the answer says how it came about.
    """

    model_version: str
    top_k: int
    request_id: str
    explain: bool


@dataclass(frozen=True, slots=True)
class Terms:
    """How long a call may take, and how many times it may be made.

    Attributes:
        give_up: The instant of its deadline; None for none.
        metadata: Sent with it.
        attempts: Most times that it is made.
    """

    give_up: float | None
    metadata: Metadata
    attempts: int

    @classmethod
    def of(cls, options: CallOptions, timeout_seconds: float | None, attempts: int, now: float) -> Terms:
        """Combine a call's own options with the client's, which yield to them."""
        seconds = options.get("timeout_seconds", timeout_seconds)
        return cls(None if seconds is None else now + seconds, options.get("metadata", ()), attempts)

    def left_seconds(self, now: float) -> float | None:
        """Return the seconds until the deadline, at least 0; None without one."""
        return None if self.give_up is None else min(max(0.0, self.give_up - now), _LONGEST_SECONDS)

    def wait_seconds(self, failed: CallFailed, attempt: int, now: float, chance: float) -> float | None:
        """Return how long to wait before repeating a call; None if it is not to be repeated.

        It is repeated if the server says when, or if none answered (UNAVAILABLE without a reason): the connection was
        refused or lost, or a proxy has no server. Then it may have run already, which harms nobody: no call of these
        clients changes anything.

        Args:
            failed: How the last attempt ended.
            attempt: Its number, from 1.
            now: The present instant.
            chance: Random, from 0 to 1.
        """
        wait = failed.retry_after_seconds
        if wait is None and failed.code is grpc.StatusCode.UNAVAILABLE and not failed.reason:
            wait = min(_FIRST_WAIT_SECONDS * 2 ** min(attempt - 1, 10), _LONGEST_WAIT_SECONDS)
        if wait is None or attempt >= self.attempts:
            return None
        wait *= 1 + _SPREAD * chance
        return wait if self.give_up is None or now + wait < self.give_up else None


def images_request(model: str, images: Sequence[bytes], options: Options) -> pb.ClassifyImagesRequest:
    """Build a request.

    Raises:
        TypeError: The pictures are no sequence of encoded ones; it says what to give instead.
    """
    if isinstance(images, bytes | bytearray | memoryview):
        raise TypeError("expected a sequence of encoded pictures, got the bytes of one: [picture] is a sequence of one")
    if isinstance(images, str) or hasattr(images, "read") or not isinstance(images, Iterable):
        raise TypeError(f"expected a sequence of encoded pictures, got {type(images).__name__}: {_ENCODED}")
    images = [*images]  # once: it may be a generator
    for place, image in enumerate(images):
        if not isinstance(image, bytes):
            raise TypeError(f"picture {place}: expected bytes, got {type(image).__name__}: {_ENCODED}")
    _expect_text("model", model)
    return pb.ClassifyImagesRequest(model_name=model, images=images, **_of_request(options))


def sentences_request(model: str, sentences: Sequence[str], options: Options) -> pb.ClassifySentencesRequest:
    """Build a request.

    Raises:
        TypeError: The sentences are one string, of which protobuf would take each letter for a sentence, or not all
            are strings.
        ValueError: A sentence cannot be written in UTF-8.
    """
    if isinstance(sentences, str | bytes):
        raise TypeError("expected a sequence of sentences, got one string: [sentence] is a sequence of one")
    if not isinstance(sentences, Iterable):
        raise TypeError(f"expected a sequence of sentences, got {type(sentences).__name__}")
    sentences = [*sentences]  # once: it may be a generator
    for place, sentence in enumerate(sentences):
        # protobuf takes UTF-8 for a string
        if not isinstance(sentence, bytes) and not (isinstance(sentence, str) and sentence.isascii()):
            _expect_text(f"sentence {place}", sentence)
    _expect_text("model", model)
    return pb.ClassifySentencesRequest(model_name=model, sentences=sentences, **_of_request(options))


def describe_request(model: str, version: str, options: CallOptions) -> pb.DescribeModelRequest:
    """Build a request."""
    _refuse_unknown(options, CallOptions)
    _expect_text("model", model)
    _expect_text("version", version or "")
    return pb.DescribeModelRequest(model_name=model, model_version=version)


def health_request(model: str, options: CallOptions) -> health_pb2.HealthCheckRequest:
    """Build a request."""
    _refuse_unknown(options, CallOptions)
    _expect_text("model", model)
    return health_pb2.HealthCheckRequest(service=model)


def _of_request(options: Options) -> dict[str, Any]:
    _refuse_unknown(options, Options)
    return {name: value for name, value in options.items() if name not in CallOptions.__annotations__}


def _refuse_unknown(options: CallOptions, kind: type[CallOptions]) -> None:
    """Refuse an option that does not exist, or a value that it cannot have.

    Raises:
        TypeError: An option is unknown, or of another type; it names it, and what is expected.
        ValueError: It has a value that cannot be sent.
    """
    if unknown := options.keys() - kind.__annotations__.keys():
        raise TypeError(f"unknown option {min(unknown)!r}; expected {', '.join(sorted(kind.__annotations__))}")
    for name in ("model_version", "request_id"):
        _expect_text(name, options.get(name) or "")
    _expect_number("top_k", options.get("top_k") or 0, Integral)
    _expect_seconds(options.get("timeout_seconds"))
    if isinstance(options.get("explain"), str | bytes):
        raise TypeError(f"explain: expected bool, got {type(options['explain']).__name__}")  # type: ignore[typeddict-item]
    _expect_metadata(options.get("metadata") or ())


def check_client(server: str, timeout_seconds: float | None, attempts: int) -> None:
    """Go on unless a client cannot be made with this.

    Raises:
        TypeError: An argument is of another type; it names it, and what is expected.
        ValueError: It has a value that it cannot have.
    """
    _expect_text("server", server)
    if not is_target(server):
        raise ValueError(f"server: {NO_ADDRESS}, got {server!r}")
    _expect_seconds(timeout_seconds)
    _expect_number("attempts", attempts, Integral)
    if attempts < 1:
        raise ValueError(f"attempts: expected at least 1, got {attempts}")


def _expect_number(name: str, value: object, kind: type[Integral | Real]) -> None:
    """Refuse with a TypeError what is no such number; NumPy's are."""
    if not isinstance(value, kind):
        expected = "int" if kind is Integral else "float"
        raise TypeError(f"{name}: expected {expected}, got {type(value).__name__}")


def _expect_seconds(value: Any) -> None:
    if value is None:
        return
    _expect_number("timeout_seconds", value, Real)
    if not value > 0:  # nor is NaN
        raise ValueError(f"timeout_seconds: expected more than 0, or None for no deadline, got {value}")


def _expect_text(name: str, value: object) -> None:
    """Refuse what is no text, or has no UTF-8: protobuf's errors name neither the value nor what is expected."""
    if not isinstance(value, str):
        raise TypeError(f"{name}: expected str, got {type(value).__name__}")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{name}: expected text that UTF-8 can write, got a lone surrogate") from None


def _expect_metadata(metadata: object) -> None:
    """Refuse what cannot be sent: gRPC says INTERNAL, as if the server had failed, or does not name the key."""
    if isinstance(metadata, Mapping | str | bytes) or not isinstance(metadata, Collection):
        came = type(metadata).__name__
        raise TypeError(f"metadata: expected pairs of key and value, as a mapping's items() are, got {came}")
    for pair in metadata:
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise TypeError(f"metadata: expected pairs of key and value, got {pair!r}")
        key, value = pair
        if not isinstance(key, str) or not _KEY.fullmatch(key):
            raise ValueError(f"metadata: expected a key of a-z, 0-9, '_', '-' and '.', got {key!r}")
        expected = bytes if key.endswith("-bin") else str
        if not isinstance(value, expected):
            raise TypeError(f"metadata {key}: expected {expected.__name__}, got {type(value).__name__}")
        if isinstance(value, str) and not (value.isascii() and value.isprintable()):
            raise ValueError(f"metadata {key}: expected printable ASCII, or a key that ends with -bin and bytes")
