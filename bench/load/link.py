"""A socket that never blocks, and what is spoken over it."""

from __future__ import annotations

import errno
import os
import socket
import time
from typing import Any, NamedTuple

from bench.load.http2 import Connection

PATH = "/inference.GRPCInferenceService/ModelInfer"
_READ_BYTES = 1 << 18
_CONNECT_SECONDS = 5.0


class ConnectFailed(Exception):
    """The server cannot be reached."""


class Address(NamedTuple):
    """Where a server was found, so that no name is looked up while requests are due."""

    family: int
    place: Any  # as the family has it


class Link:
    """A connection, from the instant at which it is begun: calls may be made before it stands."""

    def __init__(self, made: socket.socket, authority: str, *, connecting: bool, keep_bodies: bool) -> None:
        """Take a socket over.

        Args:
            made: A socket that is connected, or about to be.
            authority: ``HOST:PORT``, as the server is told.
            connecting: Whether it is not connected yet.
            keep_bodies: Whether answers carry their message.
        """
        made.setblocking(False)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = made
        self.connecting = connecting
        self.connection = Connection(authority, PATH, keep_bodies=keep_bodies)
        self._give_up = time.monotonic() + _CONNECT_SECONDS
        self._unsent = memoryview(b"")

    @property
    def address(self) -> Address:
        """Where the server is."""
        return Address(self.socket.family, self.socket.getpeername())

    @property
    def wants_to_write(self) -> bool:
        """Whether something happens once the socket can be written."""
        return self.connecting or bool(self._unsent)

    def connected(self) -> None:
        """Take note that the socket can be written: the attempt is over.

        Raises:
            OSError: It failed.
        """
        failure = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if failure:
            raise OSError(failure, "cannot connect")
        self.connecting = False

    def flush(self) -> None:
        """Write what the socket takes.

        Raises:
            OSError: The connection is lost, or does not come about.
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
            except BlockingIOError:
                return

    def read(self) -> bytes:
        """Return what has come; nothing where nothing has.

        Raises:
            OSError: The connection is lost.
        """
        try:
            data = self.socket.recv(_READ_BYTES)
        except BlockingIOError:
            return b""
        if not data:
            raise ConnectionResetError("the server closed the connection")
        return data


def connect(host: str, port: int) -> socket.socket:
    """Return a socket that is connected, having waited for it.

    Raises:
        ConnectFailed: The server cannot be reached.
    """
    try:
        return socket.create_connection((host, port), _CONNECT_SECONDS)
    except OSError as error:
        raise ConnectFailed(f"{host}:{port}: {error.strerror or error}") from None


def begin_to_connect(address: Address) -> socket.socket:
    """Return a socket at once; when it can be written, the attempt is over.

    Raises:
        ConnectFailed: It cannot even be begun.
    """
    made = socket.socket(address.family, socket.SOCK_STREAM)
    made.setblocking(False)
    failure = made.connect_ex(address.place)
    if failure not in (0, errno.EINPROGRESS):
        made.close()
        raise ConnectFailed(os.strerror(failure))
    return made
