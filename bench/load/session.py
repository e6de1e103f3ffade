"""From a command line to a fleet: ask the server what the model takes, build the requests, try them first."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import os
import platform
from collections.abc import Sequence
from typing import Any

from bench.conformance.model import Model, learn
from bench.conformance.outcome import CallFailed
from bench.conformance.target import Target
from bench.errors import OptionsInvalid
from bench.load.answers import Reference, encoded_requests, generated_requests, read_encoded
from bench.load.fleet import Work
from bench.load.http2 import framed
from bench.load.plan import Terms
from service.client import Credentials, credentials_of, explained
from service.client.address import NO_ADDRESS, host_and_port

_TIMEOUT_SECONDS = 20.0


@dataclasses.dataclass(frozen=True, slots=True)
class Session:
    """What a command works with.

    Attributes:
        work: For the fleet.
        terms: For its plans.
        server: Name and version, as the server says.
        facts: What a reader of the results needs to know, for JSON.
    """

    work: Work
    terms: Terms
    server: str
    facts: dict[str, Any]


def open_session(flags: argparse.Namespace) -> Session:
    """Prepare what is sent, so that every kind of mistake shows here rather than under load.

    Raises:
        CallFailed: The server does not know the model, or refuses the first request.
        CredentialsInvalid: TLS files or tokens cannot be used.
        CheckFailed: The server's description of the model makes no sense.
        OptionsInvalid: There is nothing to send, the model does not take what was given, the address is invalid, or no
            call can be made to it.
    """
    host, port = _address(flags.server)
    encoded = read_encoded(flags.input) if flags.input else {}
    credentials = credentials_of(flags)
    with Target(flags.server, _TIMEOUT_SECONDS, credentials) as target:
        about = _server(target, flags.server, credentials)
        # Which output gives an input back is of no use here: the empty answer keeps `learn` from trying.
        model = dataclasses.replace(learn(target, flags.model, {}), mirrors={}, free_axis=flags.length)
        requests = _requests(model, encoded, flags)
        alone = _alone(target, requests if flags.check else requests[:1], [*encoded])
    reference = Reference(tuple(answer.SerializeToString() for answer in alone)) if flags.check else None
    work = Work(host, port, tuple(framed(request) for request in requests), reference, credentials)
    terms = Terms(len(requests), flags.processes, flags.deadline_seconds, flags.drain_seconds)
    return Session(work, terms, f"{about.name} {about.version}", _facts(flags, about))


def require_server(flags: argparse.Namespace) -> None:
    """Require that the server is still there.

    Raises:
        OptionsInvalid: It is not; says the remedy.
    """
    credentials = credentials_of(flags)
    with Target(flags.server, _TIMEOUT_SECONDS, credentials) as target:
        _server(target, flags.server, credentials)


def _server(target: Target, address: str, credentials: Credentials) -> Any:
    """Return what the server says of itself.

    Raises:
        OptionsInvalid: It does not answer; says the remedy.
    """
    try:
        return target.call("ServerMetadata")
    except CallFailed as failed:
        raise OptionsInvalid(explained(failed.code, failed.details, address, credentials)) from None


def _alone(target: Target, requests: Sequence[bytes], origins: Sequence[str]) -> list[Any]:
    """Return the answers to requests, one after the other.

    Raises:
        CallFailed: A request failed that was made up here.
        OptionsInvalid: A request failed that was given; names it.
    """
    answers = []
    for place, request in enumerate(requests):
        try:
            answers.append(target.call("ModelInfer", request))
        except CallFailed as failed:
            if not origins:
                raise
            raise OptionsInvalid(f"--input {origins[place]}: {failed}") from None
    return answers


def _requests(model: Model, encoded: dict[str, bytes], flags: argparse.Namespace) -> list[bytes]:
    if flags.rows > 1 and (not model.batched or (model.limit_known and flags.rows > model.max_rows)):
        raise OptionsInvalid(f"--rows {flags.rows}: '{model.name}' takes at most {model.max_rows}")
    if encoded:
        return encoded_requests(model, [*encoded.values()], flags.rows, flags.model_version)
    return generated_requests(model, flags.distinct, flags.rows, flags.model_version)


def _address(server: str) -> tuple[str, int]:
    address = host_and_port(server)
    if address is None:
        raise OptionsInvalid(f"{NO_ADDRESS}, got '{server}'")
    return address


def _facts(flags: argparse.Namespace, about: Any) -> dict[str, Any]:
    plain = (int, float, str, list, tuple, type(None))
    settings = {name: value if isinstance(value, plain) else str(value) for name, value in vars(flags).items()}
    settings.pop("run", None)
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "server": {"name": about.name, "version": about.version},
        "client": {
            "machine": platform.machine(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "python": platform.python_version(),
        },
        "settings": settings,
    }
