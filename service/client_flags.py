"""Command-line arguments for a client's TLS and token. Kept apart from the client, since they need no gRPC."""

from __future__ import annotations

import argparse

CLIENT_PREFIX = "CONVSERVE_CLIENT_"  # no setting of the server begins so
CREDENTIAL_FLAGS = ("tls", "tls_ca", "tls_certificate", "tls_key", "tls_server_name", "token_file")
TOKEN_VARIABLE = CLIENT_PREFIX + "TOKEN"


def add_credential_flags(parser: argparse.ArgumentParser) -> None:
    """Add the arguments; :func:`service.client.flags.credentials_of` reads them."""
    group = parser.add_argument_group(
        "TLS and token",
        f"Each is also a variable, such as {CLIENT_PREFIX}TLS_CA; the token itself may stand in {TOKEN_VARIABLE}.",
    )
    group.add_argument(
        "--tls", action="store_true", default=None, help="speak TLS; the flags below that begin so imply it"
    )
    group.add_argument("--tls-ca", metavar="FILE", help="PEM of who vouches for the server; default: the machine's")
    group.add_argument("--tls-certificate", metavar="FILE", help="PEM of the caller's certificate chain (mutual TLS)")
    group.add_argument("--tls-key", metavar="FILE", help="PEM of its private key")
    group.add_argument("--tls-server-name", metavar="NAME", help="the name in the server's certificate, if another")
    group.add_argument("--token-file", metavar="FILE", help="its first line is sent as a bearer token")
