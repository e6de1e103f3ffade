"""The command line of ``convserve-bench``: parse, call. No logic."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence

from bench.compare import command as compare
from bench.conformance import command as conformance
from bench.errors import BenchError
from bench.load import command as load
from bench.profile import command as profile
from bench.progress import show
from bench.slo import command as slo
from service.client import CredentialsInvalid
from service.ending import printing


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``convserve-bench``; return the exit code.

    0 means success, 1 a shortfall, 2 a wrong argument, 3 that the load generator was the limit.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that cannot show a letter shows its number
    flags = _parser().parse_args(arguments)
    try:
        return printing("convserve-bench", lambda: _run(flags))
    except (BenchError, CredentialsInvalid) as error:
        sys.stderr.write(f"convserve-bench: {error}\n")
        return 2


def _run(flags: argparse.Namespace) -> int:
    try:
        return int(flags.run(flags))
    finally:
        show("")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="convserve-bench", allow_abbrev=False, description="Test and measure any Open Inference Protocol server."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    conformance.add_command(commands)
    load.add_command(commands)
    slo.add_command(commands)
    compare.add_command(commands)
    profile.add_command(commands)
    for command in commands.choices.values():
        command.allow_abbrev = False
    return parser
