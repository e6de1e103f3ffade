"""HOST:PORT, as people type it."""

from __future__ import annotations

import re

NO_ADDRESS = "expected HOST:PORT, such as 127.0.0.1:8001 or [::1]:8001"
OTHER_TARGETS = ("unix:", "unix-abstract:", "vsock:", "dns:", "ipv4:", "ipv6:", "xds:")  # left to gRPC


def is_target(text: str) -> bool:
    """Tell whether gRPC can be given a text as what it calls a target: ``HOST:PORT``, or another kind."""
    return host_and_port(text) is not None or text.startswith(OTHER_TARGETS)


def host_and_port(text: str) -> tuple[str, int] | None:
    """Return host and port, IPv6 without brackets; None if there is no port, for which gRPC would take 443."""
    parts = re.fullmatch(r"(?:\[([^/\[\]]+)\]|([^/\[\]:]+)):([0-9]{1,5})", text)
    return (parts[1] or parts[2], int(parts[3])) if parts and 0 < int(parts[3]) < 65536 else None
