"""The command line of ``convserve-bench``: parse, call. No logic."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from bench.compare import command as compare
from bench.conformance import command as conformance
from bench.load import command as load
from bench.profile import command as profile
from bench.slo import command as slo


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``convserve-bench``; return the exit code.

    0 means success, 1 a shortfall, 2 a wrong argument, 3 that the load generator was the limit.
    """
    flags = _parser().parse_args(arguments)
    try:
        code = int(flags.run(flags))
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads has left, as `head` does; nor may Python's last flush complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="convserve-bench", allow_abbrev=False, description="Ask any Open Inference Protocol server."
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
