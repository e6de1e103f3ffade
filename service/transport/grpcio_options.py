"""A door's limits as gRPC's library takes them."""

from __future__ import annotations

from service.transport.limits import DoorLimits

_UNBOUNDED = 2**31 - 1


def channel_arguments(limits: DoorLimits) -> list[tuple[str, int]]:
    """Return gRPC's channel arguments."""
    age = [
        ("grpc.max_connection_age_ms", int(limits.max_connection_age_seconds * 1000)),
        ("grpc.max_connection_age_grace_ms", int(limits.age_grace_seconds * 1000)),
    ]
    return [
        *(age if limits.max_connection_age_seconds else []),
        ("grpc.max_receive_message_length", limits.max_message_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_concurrent_streams", limits.max_concurrent_streams),
        ("grpc.max_metadata_size", limits.max_metadata_bytes),  # gRPC refuses some calls past it
        ("grpc.absolute_max_metadata_size", limits.max_metadata_bytes),  # and all past this
        ("grpc.max_allowed_incoming_connections", limits.max_connections),
        ("grpc.keepalive_time_ms", int(limits.keepalive_seconds * 1000)),
        ("grpc.keepalive_timeout_ms", int(limits.keepalive_timeout_seconds * 1000)),
        ("grpc.http2.ping_timeout_ms", int(limits.keepalive_timeout_seconds * 1000)),  # the longer of the two counts
        ("grpc.http2.min_ping_interval_without_data_ms", int(limits.least_ping_seconds * 1000)),
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
