"""The arguments that all commands which send load share, and how they are read."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from bench.conformance.model import FREE_AXIS
from bench.errors import OptionsInvalid
from bench.load.arrivals import Arrivals, Bursts, Constant, Gamma, read_trace
from service.client import add_credential_flags

PROCESSES = ("constant", "poisson", "gamma", "bursts", "trace")
_LEAST_LAG_SECONDS = 0.001
_LAG_OF_OBJECTIVE = 0.05
_N = TypeVar("_N", int, float)


def _reader(kind: type[_N], expected: str, fits: Callable[[_N], bool]) -> Callable[[str], _N]:
    """Return a reader that says what it expects, where argparse would tell the name of a function."""

    def read(text: str) -> _N:
        try:
            number = kind(text)
        except ValueError:
            number = None
        if number is None or not fits(number):
            raise argparse.ArgumentTypeError(f"expected {expected}, got {text}")
        return number

    return read


positive = _reader(float, "a number above 0", lambda number: 0 < number < math.inf)
not_negative = _reader(float, "a number from 0 on", lambda number: 0 <= number < math.inf)
seed = _reader(int, "a whole number from 0 on", lambda number: number >= 0)  # as NumPy's generators take it
count = _reader(int, "a whole number from 1 on", lambda number: number >= 1)


def counts(text: str) -> tuple[int, ...]:
    """Read whole numbers from 1 on, separated by commas."""
    return tuple(count(part) for part in text.split(","))


def names(known: Iterable[str]) -> Callable[[str], list[str]]:
    """Return a reader of known names, separated by commas, or ``all``."""
    there = [*known]

    def read(text: str) -> list[str]:
        wanted = there if text == "all" else text.split(",")
        unknown = [name for name in wanted if name not in there]
        if unknown:
            raise argparse.ArgumentTypeError(f"unknown '{unknown[0]}'; expected {', '.join(there)}")
        return [*dict.fromkeys(wanted)]

    return read


def add_shared(parser: argparse.ArgumentParser) -> None:
    """Add the shared arguments to a command's."""
    parser.add_argument("server", metavar="HOST:PORT")
    parser.add_argument("--model", required=True, metavar="NAME")
    parser.add_argument("--model-version", default="", metavar="V", help="default: the server's choice")

    def option(name: str, kind: Callable[[str], Any] | type, default: Any, text: str, metavar: str = "S") -> None:
        shown = "" if default is None else "; default: %(default)s"
        parser.add_argument(name, type=kind, default=default, metavar=metavar, help=text + shown)

    parser.add_argument("--arrivals", choices=PROCESSES, help="default: poisson, or trace if --trace is given")
    option("--variation", positive, 3.0, "gamma: standard deviation of the gaps divided by their mean", "CV")
    option("--on-seconds", positive, 0.5, "bursts: length of a burst")
    option("--off-seconds", positive, 0.5, "bursts: length of the pause between bursts")
    option("--trace", Path, None, "recorded arrival times in seconds, one per line", "FILE")
    option("--input", Path, None, "send encoded pictures (a folder or a file) or sentences (a .txt file)", "DIR|FILE")
    option("--rows", count, 1, "rows per request", "N")
    option("--length", count, FREE_AXIS, "size of free axes in generated requests, such as tokens of a sentence", "N")
    option("--distinct", count, 16, "number of different requests to generate, without --input", "N")
    option("--warm-up-seconds", not_negative, 2.0, "load before the window, which is not counted")
    option("--deadline-seconds", not_negative, None, "gRPC deadline of each call, from its intended send time; 0: none")
    option("--drain-seconds", positive, 10.0, "time limit for the last answers")
    option("--seed", seed, 0, "determines send times and inputs", "N")
    option("--processes", count, 1, "client processes", "N")
    option("--max-lag-seconds", positive, None, "maximum p99 of the generator's own lag; default: 1 ms or 5 %% of the "
           "objective, whichever is more")  # fmt: skip
    parser.add_argument(
        "--check", action="store_true", help="compare each answer with one that was requested alone before"
    )
    add_credential_flags(parser)
    option("--json", Path, None, "write all results, including raw histograms", "FILE")
    option("--plot", Path, None, "draw the results", "FILE.png")


def arrivals_of(flags: argparse.Namespace) -> Arrivals:
    """Return the arrival process that was asked for.

    Raises:
        OptionsInvalid: The trace is missing, not wanted, or none.
    """
    name = flags.arrivals or ("trace" if flags.trace else "poisson")
    if (name == "trace") != (flags.trace is not None):
        raise OptionsInvalid("--arrivals trace and --trace FILE go together: give both, or only the file")
    if name == "trace":
        return read_trace(flags.trace)
    if name == "constant":
        return Constant()
    if name == "bursts":
        return Bursts(flags.on_seconds, flags.off_seconds)
    return Gamma(flags.variation if name == "gamma" else 1.0)


def max_lag_seconds(flags: argparse.Namespace) -> float:
    """Return the greatest acceptable p99 of the generator's lag."""
    if flags.max_lag_seconds is not None:
        return float(flags.max_lag_seconds)
    return max(_LEAST_LAG_SECONDS, _LAG_OF_OBJECTIVE * (flags.objective_seconds or 0.0))
