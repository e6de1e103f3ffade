"""Explains a failed call. gRPC says little about why a connection failed, so this module tries to connect again."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
from collections.abc import Mapping
from pathlib import Path

import grpc

from service.client.address import NO_ADDRESS, OTHER_TARGETS, host_and_port
from service.client.credentials import Credentials

_TIMEOUT_SECONDS = 5.0
# The preface of HTTP/2 and empty SETTINGS, which a server answers with SETTINGS of its own (RFC 9113, section 3.4).
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
_SETTINGS = 4
_EXPIRED, _NOT_YET = 10, 9  # OpenSSL's X509_V_ERR_…
_OTHER_NAME, _OTHER_ADDRESS = 62, 64
_OF_CALLERS = ("CERTIFICATE", "UNKNOWN_CA", "HANDSHAKE_FAILURE")  # alerts about what the caller shows
_ELSE = "the server at this address does not speak gRPC: give another HOST:PORT"
_SILENT = "the server at this address does not respond: check whether it hangs, or give another HOST:PORT"
_NOT_CONNECTED = "failed to connect"  # so gRPC's own words begin
_PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")  # in the order in which gRPC looks for them
_GIVE_TOKEN = "--token-file FILE or CONVSERVE_CLIENT_TOKEN"  # noqa: S105 - no password


def explained(code: grpc.StatusCode, details: str, server: str, credentials: Credentials) -> str:
    """Return one line that says how a call ended, with the remedy where one is known.

    Args:
        code: Status of the call.
        details: Text of the status.
        server: Address that was called.
        credentials: Those of the call.
    """
    said = f"{code.name}: {' '.join(details.split())}"
    if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
        fault = _fault(server, credentials)
        if fault is None and details.startswith(_NOT_CONNECTED) and not server.startswith(OTHER_TARGETS):
            fault = _fault_of_proxy(server, os.environ)
        return f"{server}: {fault}" if fault else said
    if code is grpc.StatusCode.UNAUTHENTICATED:
        if credentials.token:
            return f"{said}; the token may have expired or belong to another server: give a valid one, {_GIVE_TOKEN}"
        return f"{said}; give one, {_GIVE_TOKEN}"
    if code is grpc.StatusCode.PERMISSION_DENIED:
        return f"{said}; give another one, {_GIVE_TOKEN}"
    return said


def _fault(server: str, credentials: Credentials) -> str | None:
    """Connect again and return what prevents it; None if nothing does, or if it cannot be tried."""
    if server.startswith(OTHER_TARGETS):
        return None
    address = host_and_port(server)
    if address is None:
        return NO_ADDRESS
    try:
        with socket.create_connection(address, _TIMEOUT_SECONDS):
            pass
    except UnicodeError:  # no name that could be looked up
        return NO_ADDRESS
    except OSError as error:
        return (
            f"no gRPC server answers at this address ({error.strerror or error}); start one, or give another HOST:PORT"
        )
    context = credentials.ssl_context()
    if context is None:
        return _fault_in_the_clear(address)
    return _fault_over_tls(address, context, credentials)


def _fault_in_the_clear(address: tuple[str, int]) -> str | None:
    if _speaks_in_the_clear(address):
        return None
    anybody = ssl.create_default_context()
    anybody.check_hostname = False
    anybody.verify_mode = ssl.CERT_NONE  # nothing is sent: whether it speaks TLS at all
    try:
        with _connected(address) as plain, anybody.wrap_socket(plain):
            pass
    except TimeoutError:
        return _SILENT
    except OSError as error:
        if "ALERT" not in str(error):  # which is TLS as well: TLS 1.2 refuses who shows no certificate in the handshake
            return _ELSE
    return "the server speaks TLS: give --tls-ca FILE, or --tls if this machine trusts its certificate"


def _fault_over_tls(address: tuple[str, int], context: ssl.SSLContext, credentials: Credentials) -> str | None:
    name = credentials.server_name or address[0]
    try:
        with _connected(address) as plain, context.wrap_socket(plain, server_hostname=name) as secured:
            if secured.selected_alpn_protocol() != "h2":
                return "the server speaks TLS but not HTTP/2 (ALPN h2): give another HOST:PORT"
            with contextlib.suppress(ssl.SSLError, ConnectionError):  # whether or not its last words can be read
                if _answers(secured):
                    return None
    except ssl.SSLCertVerificationError as error:
        return _fault_of_certificate(error.verify_code, address, context, name, credentials.ca)
    except OSError as error:
        why = str(getattr(error, "reason", None) or error.strerror or error)
        if not any(word in why for word in _OF_CALLERS):
            if _speaks_in_the_clear(address):
                return "the server does not speak TLS: leave out --tls and all --tls-… flags"
            if why == "WRONG_VERSION_NUMBER":
                return _ELSE
            if isinstance(error, TimeoutError):
                return _SILENT
            return (
                f"the TLS handshake failed ({why}): give another port, or --tls-server-name if its name is not {name}"
            )
    if credentials.certificate is None:  # it went through the handshake, and then hung up
        return "the server requires client certificates: give --tls-certificate FILE and --tls-key FILE"
    return f"the server does not accept {credentials.certificate}: give a valid one from an authority that it trusts"


def _fault_of_certificate(
    code: int, address: tuple[str, int], context: ssl.SSLContext, name: str, ca: Path | str | None
) -> str:
    if code == _EXPIRED:
        return "the server's certificate, or one of its authorities', has expired: renew it on the server"
    if code == _NOT_YET:
        return (
            "the server's certificate is not valid yet: check the clocks of this machine and of the one that issued it"
        )
    if code in (_OTHER_NAME, _OTHER_ADDRESS):
        there = _names(address, context, name)
        return f"the server's certificate is for {there}, not for {name}: use that name, or give --tls-server-name NAME"
    trusted = ca or "this machine's trust store"
    return (
        f"the server's certificate is from no authority in {trusted}: give its authority's certificate, --tls-ca FILE"
    )


def _fault_of_proxy(server: str, environment: Mapping[str, str]) -> str | None:
    """Return the remedy if gRPC uses a proxy for a server that can be reached directly; None without a proxy."""
    proxy = next((name for name in _PROXIES if environment.get(name)), None)
    host = server.rpartition(":")[0].strip("[]")
    if proxy is None:
        return None
    return f"gRPC cannot connect through the proxy in {proxy}, but a direct connection works: set no_proxy={host}"


def _names(address: tuple[str, int], context: ssl.SSLContext, name: str) -> str:
    """Return the names in the server's certificate, whose authority is trusted."""
    context.check_hostname = False
    try:
        with _connected(address) as plain, context.wrap_socket(plain, server_hostname=name) as secured:
            pairs = (secured.getpeercert() or {}).get("subjectAltName", ())
    except OSError:
        return "another name"
    return ", ".join(str(pair[1]) for pair in pairs) or "no name"


def _connected(address: tuple[str, int]) -> socket.socket:
    return socket.create_connection(address, _TIMEOUT_SECONDS)


def _speaks_in_the_clear(address: tuple[str, int]) -> bool:
    try:
        with _connected(address) as plain:
            return _answers(plain)
    except OSError:
        return False


def _answers(made: socket.socket) -> bool:
    """Tell whether the peer speaks HTTP/2: its first frame is SETTINGS."""
    made.sendall(_PREFACE)
    data = b""
    while len(data) < 4:
        if not (more := made.recv(64)):
            return False
        data += more
    return data[3] == _SETTINGS
