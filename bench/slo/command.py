"""``convserve-bench slo``: its arguments, and what it prints."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.errors import OptionsInvalid
from bench.load.command import GENERATOR_LIMITED
from bench.load.fleet import Fleet
from bench.load.options import add_shared, arrivals_of, count, not_negative, positive
from bench.load.session import open_session
from bench.load.steal import warning
from bench.output import check_outputs, require_matplotlib, write_json
from bench.slo.curve import FACTORS, HEADING, Point, draw_curve, failed, row
from bench.slo.optimum import BatchCosts
from bench.slo.search import Found, RateSearch
from bench.slo.trials import Trials

_MAX_TRIAL_SECONDS = 600.0  # of a rate that is tried only since greater ones failed
_ABOUT = """Find the highest rate at which a percentile of the latency is within the objective, by bisection, with a
given confidence (the rule of MLPerf's server scenario). With --curve, then measure goodput against offered load, as
multiples of that rate. A request without a correct answer within the objective is missed. The gRPC deadline of each
call is the objective unless --deadline-seconds says otherwise (0: none). Exit code: 0; 1 if no rate passed, the
result is less precise than requested, or a request of the curve failed or got a wrong answer (refusals are not
failures); 2 for invalid arguments or a server that is gone; 3 if the generator was the limit."""


def add_command(commands: Any) -> None:
    """Add the command to those of ``convserve-bench``."""
    parser = commands.add_parser("slo", help="find the highest rate within an objective", description=_ABOUT)
    add_shared(parser)

    def number(name: str, default: float, text: str, metavar: str = "X") -> None:
        parser.add_argument(name, type=positive, default=default, metavar=metavar, help=f"{text}; default: %(default)s")

    parser.add_argument("--objective-seconds", type=positive, required=True, metavar="S", help="latency objective")
    number("--percentile", 99.0, "percentile of the latency that must be within the objective")
    number("--confidence", 0.99, "confidence of the result")
    number("--precision", 0.05, "stop when failed rate / passed rate - 1 is at most this")
    number("--start-rate", 50.0, "first rate to try", "R")
    number("--trial-seconds", 10.0, "minimum length of a trial", "S")
    parser.add_argument(
        "--max-steal",
        type=not_negative,
        metavar="X",
        help="repeat a run, up to 20 times, if the hypervisor took more than this share of a core meanwhile (of the "
        "generator's machine); the run that lost least is kept; default: never",
    )
    parser.add_argument("--curve", action="store_true", help="also measure goodput against offered load")
    parser.add_argument("--capacity", type=positive, metavar="R", help="--curve: do not search, use this rate as 1.0")
    parser.add_argument(
        "--factors",
        type=_factors,
        default=FACTORS,
        metavar="X,…",
        help="--curve: offered loads; default: " + ",".join(f"{factor:g}" for factor in FACTORS),
    )
    number("--seconds", 60.0, "--curve: length of each run", "S")
    parser.add_argument("--repeats", type=count, default=1, metavar="N", help="--curve: runs per load; default: 1")
    parser.add_argument(
        "--costs",
        type=BatchCosts.parse,
        metavar="SIZE:S,…",
        help="--curve: time of a batch by number of rows, as `convserve inspect` prints it: goodput is "
        "compared with the most that one instance could answer in time if it knew the future",
    )
    parser.set_defaults(run=run)


def run(flags: argparse.Namespace) -> int:
    """Do what the command says; return the exit code."""
    _check(flags)
    arrivals = arrivals_of(flags)
    costs = flags.costs.of_requests(flags.rows) if flags.costs else None
    session = open_session(flags)
    print(
        f"{session.server}, model {flags.model}: {arrivals}, "
        f"objective {flags.objective_seconds * 1e3:g} ms at p{flags.percentile:g}\n",
        flush=True,
    )
    result: dict[str, Any] = {}
    code, capacity, points = 0, flags.capacity, []
    with _kept(flags.json, session.facts, result):
        with Fleet(session.work, flags.processes) as fleet:
            trials = Trials(flags, session, fleet, arrivals, costs)
            if capacity is None:
                found, limit = _searched(flags, trials)
                code, capacity = 0 if found.narrow else 1, found.passed
                result["search"] = {**dataclasses.asdict(found), "limit": limit}
                print(f"\n{_sentence(found, flags)}")
                if limit:
                    print(limit)
                    code = GENERATOR_LIMITED
            if flags.curve and capacity is not None:
                points = _curve(flags, trials, capacity, result)
                if failures := failed(points):
                    print(f"\n{failures}")
                    code = max(code, 1)
                code = GENERATOR_LIMITED if any(point.limit for point in points) else code
        if flags.plot and capacity is not None:
            title = (
                f"{session.server}, {flags.model}: capacity {capacity:.0f}/s at {flags.objective_seconds * 1e3:g} ms"
            )
            bound = costs.fluid_bound(flags.objective_seconds) if costs else None
            draw_curve(points, capacity, flags.objective_seconds, title, flags.plot, bound)
    return code


@contextlib.contextmanager
def _kept(file: Path | None, facts: dict[str, Any], result: dict[str, Any]) -> Iterator[None]:
    """Write the result at the end; where the end comes early, what there is of it.

    Raises:
        OptionsInvalid: It cannot be written.
    """
    try:
        yield
    except BaseException:
        if file and (result.get("search") or result.get("curve")):
            write_json(file, {**facts, **result})
            print(f"\n{file} holds what was measured until here", flush=True)
        raise
    if file:
        write_json(file, {**facts, **result})


def _check(flags: argparse.Namespace) -> None:
    if not 50 <= flags.percentile < 100:
        raise OptionsInvalid(f"--percentile {flags.percentile:g}: expected 50 or more and less than 100")
    if not 0.5 <= flags.confidence < 1:
        raise OptionsInvalid(f"--confidence {flags.confidence:g}: expected 0.5 or more and less than 1")
    if (flags.capacity is not None or flags.plot or flags.costs) and not flags.curve:
        raise OptionsInvalid("--capacity, --costs and --plot are for the curve: add --curve")
    check_outputs(flags.json, flags.plot)
    if flags.plot:
        require_matplotlib()
    if flags.deadline_seconds is None:
        flags.deadline_seconds = flags.objective_seconds


def _searched(flags: argparse.Namespace, trials: Trials) -> tuple[Found, str | None]:
    search = RateSearch(
        flags.start_rate,
        allowed=1 - flags.percentile / 100,
        confidence=flags.confidence,
        precision=flags.precision,
        max_seconds=_MAX_TRIAL_SECONDS,
    )
    return trials.search(search, lambda line: print(line, flush=True))


def _curve(flags: argparse.Namespace, trials: Trials, capacity: float, result: dict[str, Any]) -> list[Point]:
    """Measure the curve; each point is added to ``result`` as soon as it is there."""
    print(f"\n{HEADING}", flush=True)
    points: list[Point] = []
    result |= {"capacity": capacity, "curve": []}
    for factor in flags.factors:
        points.append(trials.point(factor, capacity))
        result["curve"].append(points[-1].as_json())
        print(row(points[-1], capacity), flush=True)
    limit = next((point.limit for point in points if point.limit), None)
    stolen = warning(max((point.steal for point in points if point.steal is not None), default=None))
    for doubt in (limit, stolen):
        if doubt:
            print(f"\n{doubt}")
    return points


def _sentence(found: Found, flags: argparse.Namespace) -> str:
    if found.passed is None:
        line = f"no rate passed; the lowest that was tried was {found.failed:.2f} /s"
        return f"{line}: {found.why}" if found.why else line
    line = f"p{flags.percentile:g} is within the objective at {found.passed:.1f} /s (confidence {flags.confidence:g})"
    if found.failed is None:
        return f"{line}; no rate failed: give a higher --start-rate"
    line += f"; it could not be shown at {found.failed:.1f} /s"
    return line if found.narrow else f"{line}; the search ended before it reached --precision"


def _factors(text: str) -> tuple[float, ...]:
    return tuple(sorted(positive(factor) for factor in text.split(",")))
