"""From arguments and variables to credentials."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from service.client.credentials import Credentials, CredentialsInvalid
from service.client_flags import CLIENT_PREFIX, CREDENTIAL_FLAGS, TOKEN_VARIABLE
from service.service_links import without_service_links

_TRUTH = {"1": True, "true": True, "0": False, "false": False}


def credentials_of(
    flags: argparse.Namespace | None = None, environment: Mapping[str, str] | None = None
) -> Credentials:
    """Combine flags (:func:`service.client_flags.add_credential_flags`) and environment; a flag wins.

    Args:
        flags: Parsed; None where there are none.
        environment: Names and values; None for those of this process.

    Raises:
        CredentialsInvalid: One line that names the flag, variable or file, and what is wrong with it.
    """
    given = _from(os.environ if environment is None else environment)
    for name in CREDENTIAL_FLAGS:
        if (flag := getattr(flags, name, None)) is not None:
            given[name] = _some(f"--{name.replace('_', '-')}", flag)
            if name == "token_file":
                given.pop("token", None)
    if "token" in given and "token_file" in given:
        raise CredentialsInvalid(f"{TOKEN_VARIABLE} and {CLIENT_PREFIX}TOKEN_FILE are both set: leave one out")
    tls = given.get("tls", False)
    if isinstance(tls, str):
        if tls.lower() not in _TRUTH:
            raise CredentialsInvalid(f"{CLIENT_PREFIX}TLS: expected true or false, got {tls!r}")
        tls = _TRUTH[tls.lower()]
    return Credentials(
        tls=tls,
        ca=given.get("tls_ca"),
        certificate=given.get("tls_certificate"),
        key=given.get("tls_key"),
        server_name=given.get("tls_server_name", ""),
        token=_first_line(Path(given["token_file"])) if "token_file" in given else given.get("token", "").strip(),
    )


def _from(environment: Mapping[str, str]) -> dict[str, Any]:
    given = {}
    for variable, value in without_service_links(environment, CLIENT_PREFIX).items():
        if variable.startswith(CLIENT_PREFIX):
            name = variable.removeprefix(CLIENT_PREFIX).lower()
            if name not in (*CREDENTIAL_FLAGS, "token") or variable != variable.upper():
                raise CredentialsInvalid(f"environment variable {variable}: there is no such client setting")
            given[name] = _some(variable, value)
    return given


def _some(name: str, value: Any) -> Any:
    if value == "":  # as of a variable of the shell that is not set: to go on without would be in the clear
        raise CredentialsInvalid(f"{name}: expected a value, got none")
    return value


def _first_line(path: Path) -> str:
    try:
        token = path.read_text(encoding="utf-8").partition("\n")[0].strip()
    except OSError as error:
        raise CredentialsInvalid(f"token file {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise CredentialsInvalid(f"token file {path}: is not UTF-8") from None
    if not token:
        raise CredentialsInvalid(f"token file {path}: holds no token on its first line")
    return token
