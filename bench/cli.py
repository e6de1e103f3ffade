"""The command line of ``convserve-bench``: parse, call. No logic."""

from __future__ import annotations

import argparse
import errno
import io
import os
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

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)  # what writing to standard output can end with


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``convserve-bench``; return the exit code.

    0 means success, 1 a shortfall, 2 a wrong argument, 3 that the load generator was the limit.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal that cannot show a letter shows its number
    flags = _parser().parse_args(arguments)
    try:
        try:
            code = int(flags.run(flags))
        finally:
            show("")
        if sys.stdout is not None:  # as where a shell has closed it
            sys.stdout.flush()
    except (BenchError, CredentialsInvalid) as error:
        sys.stderr.write(f"convserve-bench: {error}\n")
        return 2
    except BrokenPipeError:  # whoever reads has left, as `head` does
        _drop_output()
        return 1
    except OSError as error:
        if error.errno not in _NO_ROOM or error.filename is not None:
            raise
        _drop_output()
        sys.stderr.write(f"convserve-bench: the output cannot be written: {error.strerror}\n")
        return 1
    return code


def _drop_output() -> None:
    """Let Python's last flush not complain of what could not be written."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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
