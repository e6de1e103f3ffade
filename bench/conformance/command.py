"""``convserve-bench conformance``: its arguments, and what it prints."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc

from bench.conformance import report
from bench.conformance.outcome import CallFailed, Outcome
from bench.conformance.registry import SECTIONS
from bench.conformance.runner import Suite
from bench.conformance.target import Target
from bench.errors import OptionsInvalid
from bench.output import check_outputs, write_json
from service.client import add_credential_flags, credentials_of, explained
from service.pb.inference import grpc_service_pb2 as pb

_ABOUT = """Check whether a server conforms to the Open Inference Protocol v2 and to Triton's extensions of it. No other
client should send requests to the models meanwhile, because statistics are compared exactly. Exit code: 0 if no check
failed; 1 if one failed; 2 if the server cannot be reached or does not have a model."""


def add_command(commands: Any) -> None:
    """Add the command to those of ``convserve-bench``."""
    parser = commands.add_parser("conformance", help="check any server against the protocol", description=_ABOUT)
    parser.add_argument("server", metavar="HOST:PORT")
    parser.add_argument("--model", action="append", required=True, metavar="NAME", help="a model to check; repeatable")
    parser.add_argument(
        "--section", action="append", default=[], choices=SECTIONS, help="check only this section; repeatable"
    )
    parser.add_argument(
        "--identity",
        action="append",
        default=[],
        metavar="NAME[=OUTPUT:INPUT,…]",
        help="outputs of this model return its inputs, in order if no pairs are given; else found by trial",
    )
    parser.add_argument(
        "--load-unload",
        action="store_true",
        help="also load and unload these models and invalid names; not for servers that others use",
    )
    parser.add_argument("--timeout-seconds", type=float, default=20.0, metavar="S", help="default: %(default)s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all results to this file")
    parser.add_argument("--verbose", action="store_true", help="list every check, not only failures")
    add_credential_flags(parser)
    parser.set_defaults(run=run)


def run(flags: argparse.Namespace) -> int:
    """Do what the command says; return the exit code."""
    mirrors = _mirrors(flags.identity, flags.model)
    check_outputs(flags.json)
    credentials = credentials_of(flags)
    with Target(flags.server, flags.timeout_seconds, credentials) as target:
        try:
            about = target.call("ServerMetadata")
            _check_known(target, flags.model)
        except CallFailed as error:
            raise OptionsInvalid(explained(error.code, error.details, flags.server, credentials)) from None
        suite = Suite(target, flags.model, mirrors, may_unload=flags.load_unload)
        results = suite.run(flags.section, progress=_print_verbosely if flags.verbose else _print_failure)
    try:
        print(f"\n{about.name} {about.version}: {', '.join(flags.model)}\n\n{report.table(results)}")
    finally:  # the output may be full, or its reader gone
        if flags.json:
            facts = {"server": about.name, "version": about.version, "models": flags.model}
            write_json(flags.json, report.as_json(results, facts), indent=2)
    return 1 if any(result.outcome is Outcome.FAIL for result in results) else 0


def _check_known(target: Target, names: Sequence[str]) -> None:
    """See that the server does not call a model unknown; any other failure is left to the checks.

    Raises:
        CallFailed: It does.
    """
    for name in names:
        try:
            target.call("ModelMetadata", pb.ModelMetadataRequest(name=name))
        except CallFailed as error:
            if error.code is grpc.StatusCode.NOT_FOUND:
                raise


def _print_verbosely(result: Any) -> None:
    print(report.lines(result), flush=True)


def _print_failure(result: Any) -> None:
    if result.outcome is Outcome.FAIL:
        _print_verbosely(result)


def _mirrors(hints: Sequence[str], models: Sequence[str]) -> dict[str, dict[str, str]]:
    """Read ``NAME`` and ``NAME=OUTPUT:INPUT,OUTPUT:INPUT``.

    Raises:
        OptionsInvalid: One would have no effect.
    """
    mirrors: dict[str, dict[str, str]] = {}
    for hint in hints:
        name, _, pairs = hint.partition("=")
        if name not in models:
            raise OptionsInvalid(f"--identity {hint}: no --model {name} is asked, so it would have no effect")
        mirrors[name] = {}
        for pair in pairs.split(",") if pairs else ():
            output, separator, given = pair.partition(":")
            if not separator:
                raise OptionsInvalid(f"--identity {hint}: expected OUTPUT:INPUT, got {pair!r}")
            mirrors[name][output] = given
    return mirrors
