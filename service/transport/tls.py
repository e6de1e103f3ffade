"""TLS for the grpcio door: certificates from files, read again at the first handshake after they changed."""

from __future__ import annotations

import logging
import ssl
import threading
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc

from service.errors import SettingsError

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files.

    Attributes:
        certificate: The server's certificate and those between it and the root.
        key: Its private key.
        client_ca: Roots of the callers' certificates, which are then required (mutual TLS); None for none.
    """

    certificate: Path
    key: Path
    client_ca: Path | None

    def read(self) -> tuple[bytes, bytes, bytes | None]:
        """Return the files' contents.

        Raises:
            OSError: One cannot be read.
        """
        roots = self.client_ca.read_bytes() if self.client_ca else None
        return self.certificate.read_bytes(), self.key.read_bytes(), roots

    def stamp(self) -> tuple[tuple[int, int], ...]:
        """Return what changes when a file does."""
        files = [file for file in (self.certificate, self.key, self.client_ca) if file is not None]
        return tuple((about.st_mtime_ns, about.st_ino) for about in (file.stat() for file in files))


def server_credentials(files: TlsFiles) -> grpc.ServerCredentials:
    """Return credentials that follow the files; a change that cannot be read keeps the last good ones.

    Raises:
        SettingsError: The files cannot be read now, are not PEM, or do not belong together.
    """
    try:
        stamp = files.stamp()  # before, so that what changes meanwhile is read again
        contents = files.read()
    except OSError as error:
        raise SettingsError(f"TLS: {error.filename}: {error.strerror}") from None
    paths = (files.certificate, files.key, files.client_ca)
    for name, path, data in zip(("certificate", "key", "client-ca"), paths, contents, strict=True):
        if data is not None and b"-----BEGIN" not in data:
            raise SettingsError(f"TLS: --tls-{name} {path}: it is not a PEM file")
    if (fault := _fault(files)) is not None:
        raise SettingsError(f"TLS: {fault}")
    first = _configuration(contents)
    # The stubs know no None, which grpc documents as "no change".
    follower = typing.cast(Callable[[], grpc.ServerCertificateConfiguration], _Follower(files, stamp))
    return grpc.dynamic_ssl_server_credentials(
        first, follower, require_client_authentication=files.client_ca is not None
    )


def _fault(files: TlsFiles) -> str | None:
    """Try the files as gRPC will, which says of them only that it cannot listen; return what is wrong with them."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers("DEFAULT:@SECLEVEL=0")  # short keys are not refused here that gRPC takes
    try:
        context.load_cert_chain(files.certificate, files.key, password=_no_passphrase)
    except (OSError, ValueError) as error:  # ssl's own errors are OSErrors; ValueError: a passphrase is needed
        why = getattr(error, "reason", None) or error
        return (
            f"--tls-certificate {files.certificate} and --tls-key {files.key}: expected a certificate and its "
            f"private key, which has no passphrase ({why})"
        )
    try:
        if files.client_ca is not None:
            context.load_verify_locations(files.client_ca)
    except OSError as error:
        why = getattr(error, "reason", None) or error
        return f"--tls-client-ca {files.client_ca}: expected certificates ({why})"
    return None


def _no_passphrase() -> bytes:
    raise ValueError("it has one")  # rather than ask at the terminal


def _configuration(contents: tuple[bytes, bytes, bytes | None]) -> grpc.ServerCertificateConfiguration:
    certificate, key, roots = contents
    return grpc.ssl_server_certificate_configuration([(key, certificate)], root_certificates=roots)


class _Follower:
    """Called by gRPC at each handshake, from its threads; None keeps the present certificates."""

    def __init__(self, files: TlsFiles, stamp: tuple[tuple[int, int], ...]) -> None:
        self._files = files
        self._stamp = stamp
        self._said = ""
        self._lock = threading.Lock()

    def __call__(self) -> grpc.ServerCertificateConfiguration | None:
        with self._lock:
            try:
                stamp = self._files.stamp()
                if stamp == self._stamp:
                    return None
                configuration = _configuration(self._files.read())
                self._stamp, self._said = stamp, ""  # only now: what could not be read is tried again
                if (fault := _fault(self._files)) is not None:  # as while one file is new and the other not yet
                    _LOG.error("TLS files cannot be used, the current certificates stay in use: %s", fault)
                    return None
            except OSError as error:
                if str(error) != self._said:  # not at each handshake, which anybody may begin
                    self._said = str(error)
                    _LOG.error("TLS files cannot be read, the current certificates stay in use: %s", error)
                return None
        _LOG.info("TLS certificates reloaded")
        return configuration
