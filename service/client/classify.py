"""``convserve classify``: its arguments, and what it prints."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import grpc

from service.client.address import NO_ADDRESS, is_target
from service.client.blocking import Client
from service.client.credentials import Credentials
from service.client.failure import CallFailed
from service.client.flags import credentials_of
from service.client.remedy import explained
from service.client.requests import Options
from service.errors import SettingsError
from service.pb.convserve.classification.v1 import classification_pb2 as pb

_MAX_TOP_K = 2**31 - 1  # of the field
_MAX_SECONDS = 86400

Response = pb.ClassifyImagesResponse | pb.ClassifySentencesResponse


class NotClassified(Exception):
    """A call failed; one line with the remedy."""


def classify_and_print(flags: argparse.Namespace) -> int:
    """Do what ``convserve classify`` says; return the exit code.

    Args:
        flags: ``server``, ``model``, ``model_version``, ``top_k``, ``timeout_seconds``, ``explain``, either ``text`` or
            ``pictures``, and those of :mod:`service.client.flags`.

    Raises:
        NotClassified: A call failed.
        SettingsError: An argument is wrong, or a file cannot be used.
    """
    _check(flags)
    credentials = credentials_of(flags)
    try:
        return _classified(flags, credentials)
    except CallFailed as failed:
        raise NotClassified(explained(failed.code, failed.details, flags.server, credentials)) from None


def _check(flags: argparse.Namespace) -> None:
    if bool(flags.text) == bool(flags.pictures):
        raise SettingsError("classify: give either PICTURE files or --text SENTENCE")
    if not 0 <= flags.top_k <= _MAX_TOP_K:
        raise SettingsError(f"classify: --top-k: expected 0 to {_MAX_TOP_K}, got {flags.top_k}")
    if not 0 < flags.timeout_seconds <= _MAX_SECONDS:
        raise SettingsError(
            f"classify: --timeout-seconds: expected more than 0, at most {_MAX_SECONDS}, got {flags.timeout_seconds}"
        )
    strings = (flags.server, flags.model, flags.model_version, flags.tls_server_name or "", *(flags.text or ()))
    for text in strings:
        try:
            text.encode()
        except UnicodeEncodeError:  # bytes that are no UTF-8 come from a command line as lone surrogates
            raise SettingsError(f"classify: {text!a} is not UTF-8") from None
    if not is_target(flags.server):
        raise SettingsError(f"--server: {NO_ADDRESS}, got {flags.server!r}")


def _classified(flags: argparse.Namespace, credentials: Credentials) -> int:
    options: Options = {"model_version": flags.model_version, "top_k": flags.top_k, "explain": flags.explain}
    with Client(flags.server, credentials, timeout_seconds=flags.timeout_seconds) as client:
        response: Response
        if flags.text:
            names = list(flags.text)
            response = client.classify_sentences(flags.model, names, **options)
        else:
            names = list(flags.pictures)
            response = client.classify_images(flags.model, [_read(name) for name in names], **options)
        failed = _print_what_ran_it(client, response, flags.server, credentials)
    for name, result in zip(names, response.results, strict=True):
        print(name)
        if result.HasField("error"):
            failed = True
            print(f"  {_status_name(result.error.code)}: {result.error.message}")
        for scored in result.classification.scored_labels:
            print(f"  {scored.probability:8.4f}  {scored.label or scored.index}")
    if response.HasField("explanation"):
        print(str(response.explanation).rstrip())
    return 1 if failed else 0


def _print_what_ran_it(client: Client, response: Response, server: str, credentials: Credentials) -> bool:
    """Print the model, and what it says of itself; tell whether it says nothing, which costs nobody the answers."""
    line = f"{response.model_name} version {response.model_version}"
    try:
        about = client.describe(response.model_name, response.model_version)
    except CallFailed as failed:
        print(line)
        why = explained(failed.code, failed.details, server, credentials)
        print(f"convserve: {why}; so its execution provider, and whether it is verified, are unknown", file=sys.stderr)
        return True
    verified = "verified" if about.verified else "not verified"
    ran_on = about.actual_execution_provider  # of a version that is READY, and of no other
    print(f"{line} on {ran_on}, {verified}" if ran_on else f"{line}, no longer ready")
    return False


def _status_name(code: int) -> str:
    return next((status.name for status in grpc.StatusCode if status.value[0] == code), f"status {code}")


def _read(name: str) -> bytes:
    try:
        return Path(name).read_bytes()
    except OSError as error:
        raise SettingsError(f"{name}: {error.strerror}") from None
