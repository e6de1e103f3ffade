"""What a door bounds before a call reaches our code. Each door passes on what its library supports."""

from __future__ import annotations

from dataclasses import dataclass

_UNBOUNDED = 2**31 - 1


@dataclass(frozen=True, slots=True)
class DoorLimits:
    """Bounds of one door.

    Attributes:
        max_message_bytes: Largest request message.
        max_concurrent_streams: Most calls in flight on one connection; more wait at the client.
        max_metadata_bytes: Most metadata that one call may bring, counted as HTTP/2 does.
        max_connections: Most connections at a time; one more is closed at once. The native door has no such limit but
            that on open files.
        keepalive_seconds: Silence on a connection after which it is asked whether somebody is there.
        keepalive_timeout_seconds: How long it has for its answer.
        least_ping_seconds: Least time between a caller's pings; who asks more often is sent away. The native door
            answers all.
        max_connection_age_seconds: Age at which a connection's caller is told to connect anew, give or take a tenth, so
            that callers spread over servers that came later; 0: none. The native door has no such limit.
        age_grace_seconds: How long calls in flight may then take.
    """

    max_message_bytes: int
    max_concurrent_streams: int
    max_metadata_bytes: int = 16384
    max_connections: int = 16384
    # For 10,000 idle connections that is 170 pings a second; one whose other end vanished is closed after both.
    keepalive_seconds: float = 60.0
    keepalive_timeout_seconds: float = 20.0
    least_ping_seconds: float = 5.0  # clients' keepalive is 10 s or more; gRPC's own bound is 5 minutes
    max_connection_age_seconds: float = 0.0
    age_grace_seconds: float = 0.0

    def channel_arguments(self) -> list[tuple[str, int]]:
        """Return the limits as gRPC's library takes them."""
        age = [
            ("grpc.max_connection_age_ms", int(self.max_connection_age_seconds * 1000)),
            ("grpc.max_connection_age_grace_ms", int(self.age_grace_seconds * 1000)),
        ]
        return [
            *(age if self.max_connection_age_seconds else []),
            ("grpc.max_receive_message_length", self.max_message_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.max_concurrent_streams", self.max_concurrent_streams),
            ("grpc.max_metadata_size", self.max_metadata_bytes),  # gRPC refuses some calls past it
            ("grpc.absolute_max_metadata_size", self.max_metadata_bytes),  # and all past this
            ("grpc.max_allowed_incoming_connections", self.max_connections),
            ("grpc.keepalive_time_ms", int(self.keepalive_seconds * 1000)),
            ("grpc.keepalive_timeout_ms", int(self.keepalive_timeout_seconds * 1000)),
            ("grpc.http2.ping_timeout_ms", int(self.keepalive_timeout_seconds * 1000)),  # the longer of the two counts
            ("grpc.http2.min_ping_interval_without_data_ms", int(self.least_ping_seconds * 1000)),
            ("grpc.keepalive_permit_without_calls", 1),  # pings both ways: callers may also ask without calls
            ("grpc.so_reuseport", 0),
            # A stream counts until its call object is gone, which is after the client saw its end. With this
            # protection a client that keeps to the limit is refused (RST_STREAM) all the same.
            ("grpc.http.overload_protection", 0),
            # Calls that the loop has not picked up yet: gRPC ends some of more than 1,000 with CANCELLED,
            # at random. The streams bound them, and the queue refuses in a form that callers understand.
            ("grpc.server.max_pending_requests", _UNBOUNDED),
            ("grpc.server.max_pending_requests_hard_limit", _UNBOUNDED),
        ]
