"""A caller's TLS files and token; the only place that makes channels."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from service.client.bearer import aio_interceptors, interceptor
from service.errors import SettingsError

ChannelOptions = Sequence[tuple[str, Any]]


class CredentialsInvalid(SettingsError):
    """A file or a combination cannot be used; one line that names it."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """How a server is spoken to. Without arguments: in the clear, and with no token.

    Attributes:
        tls: Whether to speak TLS; any of the next four implies it.
        ca: PEM file of the authorities that may vouch for the server; None for those that the machine trusts.
        certificate: PEM file of the caller's certificate chain, for servers that demand one (mutual TLS).
        key: PEM file of its private key, without a passphrase.
        server_name: The name that the server's certificate must have, where it is not that of the address; the server
            is told it, too. Empty for that of the address.
        token: Sent as ``authorization: Bearer TOKEN``; without TLS it can be read on the way. Empty for none.
    """

    tls: bool = False
    ca: Path | str | None = None
    certificate: Path | str | None = None
    key: Path | str | None = None
    server_name: str = ""
    token: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        """Refuse values that do not go together or cannot be sent.

        Raises:
            CredentialsInvalid: Says which.
            TypeError: The name or the token is no text, as None of a variable that is not set.
        """
        for name, text in (("server_name", self.server_name), ("token", self.token)):
            if not isinstance(text, str):
                raise TypeError(f"{name}: expected str, got {type(text).__name__}")
        if (self.certificate is None) != (self.key is None):
            raise CredentialsInvalid(
                "the client's certificate needs its key, and the key its certificate: give both or neither"
            )
        if not _is_name(self.server_name):
            raise CredentialsInvalid(
                f"{self.server_name!a} is not a valid server name; expected a host name without spaces"
            )
        if not all(" " < letter <= "~" for letter in self.token):
            raise CredentialsInvalid("the token has spaces or letters that cannot be sent; expected visible ASCII")

    @property
    def secure(self) -> bool:
        """Whether TLS is spoken."""
        return bool(self.tls or self.ca is not None or self.certificate is not None or self.server_name)

    def channel(self, address: str, options: ChannelOptions = ()) -> grpc.Channel:
        """Return a channel; it connects with the first call. Files are read now.

        Args:
            address: ``HOST:PORT``, or another target of gRPC's.
            options: Of gRPC.

        Raises:
            CredentialsInvalid: A file cannot be read or used.
        """
        credentials = self._of_grpc()
        if credentials is None:
            channel = grpc.insecure_channel(address, options=options)
        else:
            channel = grpc.secure_channel(address, credentials, options=[*options, *self._named()])
        return grpc.intercept_channel(channel, interceptor(self.token)) if self.token else channel

    def aio_channel(self, address: str, options: ChannelOptions = ()) -> grpc.aio.Channel:
        """Return a channel for asyncio, like :meth:`channel`."""
        credentials = self._of_grpc()
        interceptors = aio_interceptors(self.token) if self.token else None
        if credentials is None:
            return grpc.aio.insecure_channel(address, options=options, interceptors=interceptors)
        options = [*options, *self._named()]
        return grpc.aio.secure_channel(address, credentials, options=options, interceptors=interceptors)

    def ssl_context(self) -> ssl.SSLContext | None:
        """Return the context for Python's own TLS, with HTTP/2 by ALPN; None without TLS.

        Raises:
            CredentialsInvalid: A file cannot be read or used.
        """
        if not self.secure:
            return None
        try:
            context = ssl.create_default_context(cafile=self.ca)
        except OSError as error:  # ssl's own errors as well
            raise CredentialsInvalid(_unusable(self.ca, error, "certificates of authorities in PEM format")) from None
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # Python's default from 3.13 on; gRPC asks for less
        context.set_alpn_protocols(["h2"])
        if self.certificate and self.key:
            _refuse_passphrase(Path(self.key))
            try:
                context.load_cert_chain(self.certificate, self.key)
            except OSError as error:
                about = f"{self.certificate} and {self.key}"
                raise CredentialsInvalid(
                    _unusable(about, error, "a certificate and its private key in PEM format")
                ) from None
        return context

    def _of_grpc(self) -> grpc.ChannelCredentials | None:
        if self.ssl_context() is None:  # gRPC would only log what is wrong with a file, at the first call
            return None
        authorities = self.ca or ssl.get_default_verify_paths().cafile  # else those that come with gRPC
        roots = Path(authorities).read_bytes() if authorities else None
        key = Path(self.key).read_bytes() if self.key else None
        chain = Path(self.certificate).read_bytes() if self.certificate else None
        return grpc.ssl_channel_credentials(roots, key, chain)

    def _named(self) -> ChannelOptions:
        return [("grpc.ssl_target_name_override", self.server_name)] if self.server_name else []


def _refuse_passphrase(key: Path) -> None:
    try:
        encrypted = b"ENCRYPTED" in key.read_bytes()
    except OSError as error:
        raise CredentialsInvalid(f"{key}: {error.strerror}") from None
    if encrypted:
        raise CredentialsInvalid(f"{key}: the key has a passphrase; expected one without")


def _is_name(text: str) -> bool:
    try:
        return text.isprintable() and " " not in text and bool(text.encode("idna") or not text)
    except UnicodeError:
        return False


def _unusable(about: object, error: OSError, expected: str) -> str:
    """Say what is wrong; ssl names a missing file nowhere in its errors."""
    if isinstance(error, ssl.SSLError):
        return f"{about}: expected {expected} ({error.reason or error})"
    return f"{about}: {error.strerror}"
