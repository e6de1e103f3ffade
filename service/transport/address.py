"""Addresses to listen on: names, IPv4, and IPv6 with or without brackets."""

from __future__ import annotations

import errno
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address

from service.errors import SettingsError
from service.shortage import shortage

ABSTRACT = "unix-abstract:"  # begins an address that is a name of the kernel's: no file that could be removed or left


def bare(host: str) -> str:
    """Return a host as sockets take it: IPv6 without brackets."""
    return host.removeprefix("[").removesuffix("]")


def target(host: str, port: int) -> str:
    """Return ``HOST:PORT`` as gRPC takes it: IPv6 in brackets."""
    host = bare(host)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def family(host: str) -> socket.AddressFamily:
    """Return the kind of socket that can be bound to a host."""
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach an address; ``localhost`` is the only name known to be one."""
    try:
        return ip_address(bare(host)).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def check_free(address: str) -> None:
    """Bind an address and release it: gRPC itself reports a port in use on standard error, in its own form.

    Raises:
        OSError: ``HOST:PORT`` cannot be bound.
    """
    if address.startswith(ABSTRACT):
        return
    host, _, port = address.rpartition(":")
    both = family(host) is socket.AF_INET6 and socket.has_dualstack_ipv6()  # as gRPC takes :: for IPv4, too
    socket.create_server((bare(host), int(port)), family=family(host), dualstack_ipv6=both).close()


@contextmanager
def listening(door: str, host: str, port: int, host_flag: str) -> Iterator[None]:
    """Turn a failure to bind a door into an error that names the address and the setting to change.

    Raises:
        SettingsError: The door cannot be bound.
        OSError: Nor could another: :func:`service.shortage.shortage` says why.
    """
    if not host:  # HTTP would take it for every interface
        raise SettingsError(f"{host_flag}: expected an address to listen on, such as 127.0.0.1 or 0.0.0.0, got none")
    try:
        yield
    except (TypeError, UnicodeError):  # of a host that cannot be written as a name
        raise SettingsError(
            f"cannot listen on {host!r}: it is not a host name or address. Choose another with {host_flag}"
        ) from None
    except OSError as error:
        if shortage(error):
            raise
        remedy = f"--{door}-port" if error.errno in (errno.EADDRINUSE, errno.EACCES) else host_flag
        # The doors word it differently.
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or error
        raise SettingsError(f"cannot listen on {target(host, port)}: {reason}. Choose another with {remedy}") from None


def new_name() -> str:
    """Return a name for a socket that nobody can have taken: whoever shares the network may take any."""
    return f"convserve-{secrets.token_hex(16)}"
