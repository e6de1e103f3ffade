"""A socket that never blocks, with its HTTP/2 connection."""

from __future__ import annotations

import errno
import os
import socket
import ssl
import time
from typing import Any, NamedTuple, Self

from bench.load.hpack import request_block
from bench.load.http2 import Connection
from service.client import Credentials

PATH = "/inference.GRPCInferenceService/ModelInfer"
_READ_BYTES = 1 << 18
_CONNECT_SECONDS = 5.0

Address = tuple[int, Any]  # family and place of a server: no name is looked up while requests are due


class ConnectFailed(Exception):
    """The server cannot be reached."""


class Manner(NamedTuple):
    """How to begin a connection to a server.

    Attributes:
        block: Header fields of all calls.
        context: Of TLS; None without.
        name: The name that the server's certificate must have.
    """

    block: bytes
    context: ssl.SSLContext | None
    name: str

    @classmethod
    def of(cls, host: str, port: int, credentials: Credentials) -> Self:
        """Derive it from an address and credentials.

        Raises:
            CredentialsInvalid: A file cannot be used.
        """
        context = credentials.ssl_context()
        authority = credentials.server_name or (f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        block = request_block(authority, PATH, secure=context is not None, token=credentials.token)
        return cls(block, context, credentials.server_name or host)

    def secured(self, made: socket.socket) -> socket.socket:
        """Wrap a socket, connected and not yet used, in TLS if there is a context."""
        if self.context is None:
            return made
        return self.context.wrap_socket(made, server_hostname=self.name, do_handshake_on_connect=False)


class Link:
    """A connection, from its beginning: calls may be made before it is established."""

    def __init__(self, made: socket.socket, manner: Manner, *, connecting: bool, keep_bodies: bool) -> None:
        """Take a socket over.

        Args:
            made: A socket that is connected, or connecting.
            manner: How the connection is begun.
            connecting: Whether it is still connecting.
            keep_bodies: Whether answers carry their message.
        """
        made.setblocking(False)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = made
        self.connecting = connecting
        self.connection = Connection(manner.block, keep_bodies=keep_bodies)
        self._manner = manner
        self._shaking = False  # hands: TCP is established and TLS is not yet
        self._waits_to_read = False
        self._give_up = time.monotonic() + _CONNECT_SECONDS
        self._unsent = memoryview(b"")

    @property
    def wants_to_write(self) -> bool:
        """Whether there is something to do once the socket can be written."""
        return not self._waits_to_read if self.connecting else bool(self._unsent)

    def go_on(self) -> None:
        """Continue connecting, now that the socket is ready for it.

        Raises:
            OSError: The attempt failed.
        """
        if not self._shaking:
            failure = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if failure:
                raise OSError(failure, "cannot connect")
            self.socket = self._manner.secured(self.socket)
            self._shaking = True
        if isinstance(self.socket, ssl.SSLSocket):
            try:
                _shake_hands(self.socket)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
                self._waits_to_read = isinstance(error, ssl.SSLWantReadError)
                return
        self.connecting = False

    def flush(self) -> None:
        """Write as much as the socket takes.

        Raises:
            OSError: The connection is lost, or could not be established in time.
        """
        if self.connecting:
            if time.monotonic() >= self._give_up:
                raise TimeoutError("cannot connect")
            return
        more = self.connection.take()
        if more:
            self._unsent = memoryview(bytes(self._unsent) + more)
        if self._unsent:
            try:
                self._unsent = self._unsent[self.socket.send(self._unsent) :]
            except (BlockingIOError, ssl.SSLWantWriteError):
                return

    def read(self) -> bytes:
        """Return what has arrived, perhaps nothing.

        Raises:
            OSError: The connection is lost.
        """
        try:
            data = self.socket.recv(_READ_BYTES)  # more than a record of TLS, so none is kept back from select
        except (BlockingIOError, ssl.SSLWantReadError):
            return b""
        if not data:
            raise ConnectionResetError("the server closed the connection")
        return data


def connect(host: str, port: int, manner: Manner) -> socket.socket:
    """Connect, and wait for it.

    Raises:
        ConnectFailed: The server cannot be reached, or TLS fails.
    """
    try:
        made = manner.secured(socket.create_connection((host, port), _CONNECT_SECONDS))
        if isinstance(made, ssl.SSLSocket):
            _shake_hands(made)
    except OSError as error:
        raise ConnectFailed(f"{host}:{port}: {getattr(error, 'reason', None) or error.strerror or error}") from None
    return made


def _shake_hands(made: ssl.SSLSocket) -> None:
    """Begin or continue the handshake of TLS.

    Raises:
        OSError: It fails, or is not for HTTP/2.
    """
    made.do_handshake()
    if made.selected_alpn_protocol() != "h2":
        raise ConnectionAbortedError(errno.EPROTO, "the server does not speak HTTP/2 (ALPN h2)")


def begin_to_connect(address: Address) -> socket.socket:
    """Begin to connect and return the socket at once; when it can be written, the attempt is over.

    Raises:
        ConnectFailed: The attempt cannot even be begun.
    """
    family, place = address
    made = socket.socket(family, socket.SOCK_STREAM)
    made.setblocking(False)
    failure = made.connect_ex(place)
    if failure not in (0, errno.EINPROGRESS):
        made.close()
        raise ConnectFailed(os.strerror(failure))
    return made
