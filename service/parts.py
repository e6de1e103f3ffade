"""Parts of the server that depend on settings: access, TLS, traces, the transport."""

from __future__ import annotations

import logging
import random
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from service.dataplane import DataPlane
from service.errors import SettingsError
from service.settings import Settings
from service.transport.access import Access, TokenFile
from service.transport.address import is_loopback
from service.transport.tls import TlsFiles, server_credentials

if TYPE_CHECKING:
    from service.transport.tracing import Tracing

_LOG = logging.getLogger(__name__)


def access(settings: Settings) -> Access:
    """Return who may call what.

    Raises:
        SettingsError: A token file cannot be read or holds no token.
    """
    infer, admin = (
        TokenFile(Path(name)) if name else None for name in (settings.infer_tokens_file, settings.admin_tokens_file)
    )
    return Access(infer, admin, local=is_loopback(settings.host))


def tracing(settings: Settings, dataplane: DataPlane) -> Tracing | None:
    """Set up traces, if they are wanted.

    Raises:
        SettingsError: They are, and the extra ``otel`` is not installed.
    """
    if not settings.otlp_endpoint:
        return None
    try:
        # The extra `otel` may be absent.
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter  # noqa: PLC0415

        from service.transport.tracing import Tracing  # noqa: PLC0415
    except ImportError:
        raise SettingsError("--otlp-endpoint needs the extra: pip install '.[otel]' in the checkout") from None
    return Tracing(
        # http://HOST:PORT without TLS, https:// with; OTEL_EXPORTER_OTLP_… gives headers, certificates and timeout.
        OTLPSpanExporter(endpoint=settings.otlp_endpoint),
        settings.trace_sample_rate,
        clock=dataplane.clock,
        wall_clock_ns=time.time_ns,
        random=random.random,
    )


def credentials(settings: Settings) -> grpc.ServerCredentials | None:
    """Return what TLS needs; None without TLS.

    Raises:
        SettingsError: A file is missing or damaged, or the transport has no TLS.
    """
    if bool(settings.tls_certificate) != bool(settings.tls_key) or (settings.tls_client_ca and not settings.tls_key):
        raise SettingsError("--tls-certificate and --tls-key belong together, and --tls-client-ca needs both")
    if not settings.tls_key:
        return None
    if settings.transport == "native":
        raise SettingsError("the native transport does not support TLS: use --transport grpcio or auto")
    client_ca = Path(settings.tls_client_ca) if settings.tls_client_ca else None
    return server_credentials(TlsFiles(Path(settings.tls_certificate), Path(settings.tls_key), client_ca))


def choose_transport(settings: Settings) -> str:
    """Decide who speaks HTTP/2, and log why.

    Raises:
        SettingsError: ``native`` was asked for where it cannot be had.
    """
    if settings.transport == "native" and sys.platform != "linux":
        raise SettingsError("--transport native needs Linux: use --transport grpcio or auto")
    try:
        import pygrpc_native  # noqa: F401, PLC0415 - the extra `fast` may be absent
    except ImportError:
        if settings.transport == "native":
            raise SettingsError("--transport native needs the extra: pip install '.[fast]' in the checkout") from None
        chosen, why = "grpcio", "the extra 'fast' is not installed"
    else:
        chosen, why = _suitable_transport(settings)
    if settings.transport != "auto":
        suitable, chosen, why = chosen, settings.transport, "asked for"
        if (suitable, chosen) == ("grpcio", "native"):
            _LOG.warning("the native transport faces a network but bounds neither messages nor connections")
    _LOG.info("transport %s: %s", chosen, why)
    if chosen == "native" and settings.max_connection_age_seconds:
        _LOG.warning(
            "--max-connection-age-seconds has no effect: the native transport cannot tell clients to reconnect"
        )
    return chosen


def _suitable_transport(settings: Settings) -> tuple[str, str]:
    """Return the transport that suits where the server listens, and why."""
    if sys.platform != "linux":
        return "grpcio", f"{sys.platform} has no abstract sockets"  # by which the native door reaches grpcio
    if settings.tls_key:
        return "grpcio", "TLS is on"
    if is_loopback(settings.host):
        return "native", "loopback"
    if settings.trust_clients:
        return "native", "trusted clients"
    return "grpcio", f"{settings.host} faces a network"
