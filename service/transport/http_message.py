"""A request to the HTTP endpoint and its response, as the pages see them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

# Nothing is fetched from elsewhere, nothing inline is run, no other page may frame these or send forms for them.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' blob: data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
SAFE_HEADERS: Mapping[str, str] = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True, slots=True)
class Request:
    """What came.

    Attributes:
        headers: By name in lower case; the last of a name counts.
        query: Values by name; the last of a name counts.
        read: Reads so many bytes of the body, within the endpoint's patience. Raises TimeoutError or
            ConnectionError, which end the connection without an answer.
    """

    headers: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    read: Callable[[int], bytes] = bytes

    @property
    def body_bytes(self) -> int | None:
        """Declared length of the body; None if none, or no number, was declared."""
        declared = self.headers.get("content-length", "")
        return int(declared) if declared.isascii() and declared.isdecimal() and len(declared) <= 18 else None


@dataclass(frozen=True, slots=True)
class Response:
    """What goes back: HTTP status code, media type and content."""

    status: int
    kind: str
    body: bytes


Page = Callable[[Request], Response]
Routes = Mapping[tuple[str, str], Page]
"""By method and path, e.g. ``("GET", "/livez")``. HEAD is answered by what answers GET."""


def text(status: int, line: str) -> Response:
    """Return a response of one line."""
    return Response(status, "text/plain; charset=utf-8", f"{line}\n".encode())
