"""``convserve-bench load``: its arguments, and what it prints."""

from __future__ import annotations

import argparse
import contextlib
from typing import Any

from bench.errors import OptionsInvalid
from bench.load import plan, report, steal
from bench.load.arrivals import Arrivals, Trace
from bench.load.fleet import Fleet
from bench.load.options import add_shared, arrivals_of, count, max_lag_seconds, positive
from bench.load.plot import draw_latencies
from bench.load.records import Run, Summary, generator_limit
from bench.load.session import Session, open_session
from bench.output import check_outputs, require_matplotlib, write_json

GENERATOR_LIMITED = 3
_EMPTY_OPEN = "nothing was sent in the window, because it contains no arrival; give more --seconds or a higher --rate"
_EMPTY_CLOSED = "nothing was sent in the window: there was no connection, or no answer to the calls of the warm-up"
_ABOUT = """Send load to any Open Inference Protocol server. Open loop (--rate): send times are fixed in advance, the
generator does not wait for answers, and latency counts from the intended send time. Closed loop (--concurrency): each
answer triggers the next request. Exit code: 0; 1 if a request failed or got a wrong answer (refusals are not failures),
or none was sent; 2 for invalid arguments; 3 if the generator was the limit and not the server."""


def add_command(commands: Any) -> None:
    """Add the command to those of ``convserve-bench``."""
    parser = commands.add_parser("load", help="send load and report latencies and goodput", description=_ABOUT)
    add_shared(parser)
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--rate", type=positive, metavar="R", help="open loop: requests per second")
    kinds.add_argument("--concurrency", type=count, metavar="N", help="closed loop: calls in flight")
    parser.add_argument(
        "--seconds", type=positive, default=30.0, metavar="S", help="length of the window; default: %(default)s"
    )
    parser.add_argument("--objective-seconds", type=positive, metavar="S", help="later answers do not count as goodput")
    parser.set_defaults(run=run)


def run(flags: argparse.Namespace) -> int:
    """Do what the command says; return the exit code."""
    arrivals = arrivals_of(flags)
    rate = _rate(flags, arrivals)
    check_outputs(flags.json, flags.plot)
    if flags.plot:
        require_matplotlib()
    session = open_session(flags)
    ran = _sent(flags, session, arrivals, rate)
    window = ran.records.between(flags.warm_up_seconds, flags.warm_up_seconds + flags.seconds)
    summary = Summary.of(window, flags.seconds, flags.objective_seconds)
    limit = generator_limit(summary, ran.cpu_share, max_lag_seconds(flags))
    load = f"{flags.concurrency} in flight" if rate is None else str(arrivals)
    with contextlib.ExitStack() as results:  # each is written whatever becomes of the others, or of what is printed
        if flags.plot:
            results.callback(draw_latencies, summary, flags.objective_seconds, flags.plot)
        if flags.json:
            result = {
                "summary": summary.as_json(),
                "cpu_share": ran.cpu_share,
                "generator_limit": limit,
                "steal": ran.steal,
            }
            results.callback(write_json, flags.json, {**session.facts, **result})
        print(f"{session.server}, model {flags.model}: {load}\n")
        print(report.table(summary, ran, flags.objective_seconds, open_loop=rate is not None))
        for doubt in (limit, steal.warning(ran.steal)):
            if doubt:
                print(f"\n{doubt}")
        if not summary.offered:
            print(f"\n{_EMPTY_OPEN if rate is not None else _EMPTY_CLOSED}")
    if limit:
        return GENERATOR_LIMITED
    return 1 if summary.failed or summary.wrong or not summary.offered else 0


def _rate(flags: argparse.Namespace, arrivals: Arrivals) -> float | None:
    """Return the rate of an open loop, None for a closed one."""
    if flags.concurrency is not None:
        if flags.arrivals or flags.trace:
            raise OptionsInvalid("--concurrency has no arrival times: leave --arrivals and --trace out")
        if flags.concurrency < flags.processes:
            raise OptionsInvalid(f"--concurrency {flags.concurrency} is less than --processes {flags.processes}")
        return None
    if flags.rate is not None:
        return float(flags.rate)
    if isinstance(arrivals, Trace):
        return arrivals.rate
    raise OptionsInvalid("give --rate R for an open loop, or --concurrency N for a closed one")


def _sent(flags: argparse.Namespace, session: Session, arrivals: Arrivals, rate: float | None) -> Run:
    seconds = flags.warm_up_seconds + flags.seconds
    if rate is None:
        plans = plan.closed_loop(flags.concurrency, seconds, flags.seed, session.terms)
    else:
        plans = plan.open_loop(arrivals, rate, seconds, flags.seed, session.terms)
    with Fleet(session.work, flags.processes) as fleet:
        return fleet.run(plans, f"load on {flags.model}")
