"""What a door bounds before a call reaches our code. Each door passes on what its library supports."""

from __future__ import annotations

from dataclasses import dataclass


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
