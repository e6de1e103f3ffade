"""How a call ended that got no answer."""

from __future__ import annotations

import contextlib
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

_DETAILS_KEY = "grpc-status-details-bin"


class CallFailed(Exception):
    """A call ended with another status than OK; the text begins with its name.

    Attributes:
        code: Of gRPC. UNAVAILABLE can also mean that no connection could be made.
        details: What went wrong, for a person.
        reason: Machine-readable, such as ``QUEUE_FULL`` (``google.rpc.ErrorInfo``); empty if no server gave one.
        facts: Short facts that the server gave, such as the queue's length.
        request_id: The id of the call in the server's log; empty if no server gave one.
        retry_after_seconds: When the server considers a retry worthwhile (``google.rpc.RetryInfo``), or None.
    """

    def __init__(
        self, code: grpc.StatusCode, details: str, *, reason: str = "", facts: dict[str, str] | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:  # fmt: skip
        """Keep what is known."""
        super().__init__(f"{code.name}: {details}")
        self.code = code
        self.details = details
        self.reason = reason
        self.facts = dict(facts or {})
        self.request_id = self.facts.pop("request_id", "")
        self.retry_after_seconds = retry_after_seconds

    def __reduce__(self) -> tuple[Any, ...]:
        """Support pickling, as process pools do it: by default only the text of an exception survives."""
        return _restored, (self.code, self.details, dict(self.__dict__))

    @classmethod
    def of(cls, error: grpc.RpcError) -> CallFailed:
        """Read an error of gRPC's."""
        call: Any = error  # grpc's errors are calls too, which its type does not say
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        with contextlib.suppress(DecodeError):  # a proxy may have made the details
            for key, value in call.trailing_metadata() or ():
                if key == _DETAILS_KEY:
                    for detail in status_pb2.Status.FromString(value).details:
                        detail.Unpack(info)  # each does nothing with a detail of another kind
                        detail.Unpack(retry)
        seconds = retry.retry_delay.ToNanoseconds() / 1e9 if retry.HasField("retry_delay") else None
        facts = dict(info.metadata)
        return cls(call.code(), call.details() or "", reason=info.reason, facts=facts, retry_after_seconds=seconds)

    @classmethod
    def closed(cls) -> CallFailed:
        """Return the failure of a call in flight whose client was closed."""
        return cls(grpc.StatusCode.CANCELLED, "the client was closed")


def _restored(code: grpc.StatusCode, details: str, state: dict[str, Any]) -> CallFailed:
    failed = CallFailed(code, details)
    failed.__dict__.update(state)
    return failed
