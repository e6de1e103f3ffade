"""Errors to gRPC status: one table, and the google.rpc details (AIP-193)."""

from __future__ import annotations

import functools
import traceback
from dataclasses import dataclass
from typing import Any, NoReturn

import grpc
from google.rpc import error_details_pb2, status_pb2

from service.errors import DeadlineUnmeetable, InternalError, QueueFull, ServingError
from service.fields import write_varint

DOMAIN = "convserve"
_DETAILS, _METADATA = 3, 3  # fields of google.rpc.Status and of ErrorInfo, the last of either
_DELIMITED = 2  # the wire type of bytes, texts and messages
_DETAILS_KEY = "grpc-status-details-bin"
_MAX_MESSAGE = 400  # characters; it travels twice in metadata, of which clients take 8 KiB

_NUMBERS: dict[str, int] = {code.name: code.value[0] for code in grpc.StatusCode}  # an Enum's attributes are slow


@dataclass(frozen=True, slots=True)
class Status:
    """What the caller sees.

    Attributes:
        name: The canonical code's name.
        message: Text for a person.
        trailing_metadata: ``google.rpc.Status`` with ErrorInfo and, where a retry may help, RetryInfo.
    """

    name: str
    message: str
    trailing_metadata: tuple[tuple[str, bytes], ...]

    @property
    def code(self) -> grpc.StatusCode:
        """The canonical code."""
        return grpc.StatusCode[self.name]

    @property
    def number(self) -> int:
        """The code as a number."""
        return _NUMBERS[self.name]


def status_of(error: ServingError, request_id: str, overload_status: str = "RESOURCE_EXHAUSTED") -> Status:
    """Translate an error.

    Args:
        error: Any error. An INTERNAL one is shown with the request id, under which the log has the rest.
        request_id: The call's id.
        overload_status: The status of a refusal for overload: RESOURCE_EXHAUSTED, or UNAVAILABLE as
            Triton answers.
    """
    name = overload_status if isinstance(error, QueueFull | DeadlineUnmeetable) else error.status
    message = error.message
    if len(message) > _MAX_MESSAGE:  # a caller's own text that it repeats may be of any length
        message = f"{message[:_MAX_MESSAGE]} … ({len(message)} characters)"
    if name == "INTERNAL":
        message = f"{message} (request id {request_id})"
    given = request_id.encode()
    before, after = _around_id(
        _NUMBERS[name], message, error.reason, tuple(error.facts.items()), error.retry_after_seconds, len(given)
    )
    return Status(name, message, ((_DETAILS_KEY, before + given + after),))


def internal(request_id: str) -> Status:
    """Return the status of anything unexpected."""
    return status_of(InternalError("internal error"), request_id)


async def abort(context: grpc.aio.ServicerContext[Any, Any], status: Status) -> NoReturn:
    """End a call of grpc.aio with an error."""
    try:
        await context.abort(status.code, status.message, status.trailing_metadata)
    except grpc.aio.AbortError as error:
        let_go: Any = functools.partial(_let_go, error)
        context.add_done_callback(let_go)
        raise


def _let_go(error: grpc.aio.AbortError, _context: object) -> None:
    """Empty the frames that an error came through: gRPC's context keeps it, and they know the context and the message.

    They have ended; the message would wait for the garbage collector.
    """
    traceback.clear_frames(error.__traceback__)


@functools.lru_cache(maxsize=64)
def _around_id(
    number: int,
    message: str,
    reason: str,
    facts: tuple[tuple[str, str], ...],
    retry_after_seconds: float | None,
    id_bytes: int,
) -> tuple[bytes, bytes]:
    """Return the details before and after a request id of that length.

    An overloaded server refuses many at once for the same reason; only the id differs.
    """
    head = status_pb2.Status(code=number, message=message)
    info = error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN, metadata=dict(facts))
    tail = status_pb2.Status()
    if retry_after_seconds is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(int(retry_after_seconds * 1e9))
        tail.details.add().Pack(retry)
    blank = bytes(id_bytes)
    with_id = info.SerializeToString() + _field(_METADATA, _REQUEST_ID + _field(2, blank))
    before = head.SerializeToString() + _field(_DETAILS, _ERROR_INFO + _field(2, with_id))
    return before[: len(before) - id_bytes], tail.SerializeToString()


def _field(number: int, data: bytes) -> bytes:
    """Encode a length-delimited field of a number below 16."""
    return bytes((number << 3 | _DELIMITED,)) + write_varint(len(data)) + data


_ERROR_INFO = _field(1, b"type.googleapis.com/google.rpc.ErrorInfo")  # an Any's type_url
_REQUEST_ID = _field(1, b"request_id")  # a map entry's key
