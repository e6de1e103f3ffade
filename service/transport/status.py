"""Errors to gRPC status: one table, and the google.rpc details (AIP-193)."""

from __future__ import annotations

from dataclasses import dataclass

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from service.errors import DeadlineUnmeetable, InternalError, QueueFull, ServingError

DOMAIN = "convserve"
_TYPE_URL = "type.googleapis.com/"
_DETAILS_KEY = "grpc-status-details-bin"
_MAX_MESSAGE = 400  # characters; it travels twice in metadata, of which clients take 8 KiB

Metadata = tuple[tuple[str, bytes], ...]


@dataclass(frozen=True, slots=True)
class Status:
    """What the caller sees.

    Attributes:
        code: Canonical code.
        message: For a person.
        trailing_metadata: ``google.rpc.Status`` with ErrorInfo and, where a retry may help, RetryInfo.
    """

    code: grpc.StatusCode
    message: str
    trailing_metadata: Metadata

    @property
    def number(self) -> int:
        """The code as a number."""
        return int(self.code.value[0])


def status_of(error: ServingError, request_id: str, overload_status: str = "RESOURCE_EXHAUSTED") -> Status:
    """Translate an error.

    Args:
        error: Any; an INTERNAL one is shown with the request id, under which the log has the rest.
        request_id: Of the call.
        overload_status: What a refusal for overload becomes: RESOURCE_EXHAUSTED, or UNAVAILABLE as
            Triton answers.
    """
    name = overload_status if isinstance(error, QueueFull | DeadlineUnmeetable) else error.status
    code = grpc.StatusCode[name]
    message = error.message
    if len(message) > _MAX_MESSAGE:  # a caller's own text that it repeats may be of any length
        message = f"{message[:_MAX_MESSAGE]} … ({len(message)} characters)"
    if code is grpc.StatusCode.INTERNAL:
        message = f"{message} (request id {request_id})"
    return Status(code, message, ((_DETAILS_KEY, _details(error, code, message, request_id)),))


def internal(request_id: str) -> Status:
    """Return the status of anything unexpected."""
    return status_of(InternalError("internal error"), request_id)


def _details(error: ServingError, code: grpc.StatusCode, message: str, request_id: str) -> bytes:
    facts = {**error.facts, "request_id": request_id}
    details = [_any(error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=facts))]
    if error.retry_after_seconds is not None:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(int(error.retry_after_seconds * 1e9))
        details.append(_any(error_details_pb2.RetryInfo(retry_delay=delay)))
    status = status_pb2.Status(code=code.value[0], message=message, details=details)
    serialised: bytes = status.SerializeToString()
    return serialised


def _any(message: error_details_pb2.ErrorInfo | error_details_pb2.RetryInfo) -> any_pb2.Any:
    # What Pack does, at a third of its price: an overloaded server refuses more than it answers.
    return any_pb2.Any(type_url=_TYPE_URL + message.DESCRIPTOR.full_name, value=message.SerializeToString())
