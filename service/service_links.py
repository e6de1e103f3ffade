"""What Kubernetes writes into every container's environment for each Service beside it."""

from __future__ import annotations

import re
from collections.abc import Mapping

_HOST_OR_PORT = r"SERVICE_(HOST|PORT(_\w+)?)"
_DOCKERS = r"PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?"
_CERTAIN = re.compile(rf"(\w+_)?({_HOST_OR_PORT}|{_DOCKERS})")
_PORT = re.compile(r"(\w+_)?PORT")
_ADDRESS = re.compile(r"(tcp|udp|sctp)://")


def without_service_links(environment: Mapping[str, str], prefix: str) -> dict[str, str]:
    """Leave out the links to Services whose names begin like our variables.

    ``NAME_PORT`` may also be a setting, or a misspelt one: it is a link only if its value is an address.

    Args:
        environment: Names and values.
        prefix: Of our variables, with which a link to a Service ``convserve`` or ``convserve-…`` begins too.
    """
    return {name: value for name, value in environment.items() if not _is_link(name, value, prefix)}


def _is_link(name: str, value: str, prefix: str) -> bool:
    if not name.startswith(prefix):
        return False
    rest = name.removeprefix(prefix)
    return bool(_CERTAIN.fullmatch(rest) or (_PORT.fullmatch(rest) and _ADDRESS.match(value)))
