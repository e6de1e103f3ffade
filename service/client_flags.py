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
        f"Each is also an environment variable, such as {CLIENT_PREFIX}TLS_CA. {TOKEN_VARIABLE} holds the token.",
    )
    group.add_argument("--tls", action="store_true", default=None, help="use TLS; the --tls-… flags below imply it")
    group.add_argument("--tls-ca", metavar="FILE", help="PEM file with trusted authorities; default: this machine's")
    group.add_argument(
        "--tls-certificate", metavar="FILE", help="PEM file with the client's certificate chain (mutual TLS)"
    )
    group.add_argument("--tls-key", metavar="FILE", help="PEM file with the private key of that certificate")
    group.add_argument("--tls-server-name", metavar="NAME", help="name in the server's certificate, if not the host's")
    group.add_argument("--token-file", metavar="FILE", help="file whose first line is sent as bearer token")
