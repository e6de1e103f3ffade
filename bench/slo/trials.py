"""Runs at the rates that the search and the curve ask for, with one fleet."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import replace

from bench.load import plan
from bench.load.arrivals import Arrivals, Constant, Gamma
from bench.load.codes import NO_CONNECTION
from bench.load.fleet import Fleet
from bench.load.options import max_lag_seconds
from bench.load.records import Records, Summary, generator_limit
from bench.load.session import Session, require_server
from bench.slo.curve import Point
from bench.slo.optimum import BatchCosts, most_in_time
from bench.slo.outlook import Outlook, seen
from bench.slo.search import Found, RateSearch

Say = Callable[[str], None]


class Trials:
    """Sends at one rate after the other, each time with a seed of its own."""

    def __init__(
        self,
        flags: argparse.Namespace,
        session: Session,
        fleet: Fleet,
        arrivals: Arrivals,
        costs: BatchCosts | None = None,
    ) -> None:
        """Keep what every run shares; ``costs`` are those of batches, by their number of requests."""
        self._flags = flags
        self._terms = session.terms
        self._fleet = fleet
        self._arrivals = arrivals
        self._costs = costs
        self._seed = flags.seed

    def run(self, rate: float, seconds: float) -> tuple[Summary, str | None, Records]:
        """Send; return the window's summary, why the generator was the limit, if it was, and the window's records.

        Raises:
            OptionsInvalid: The server is gone.
        """
        flags = self._flags
        self._seed += 1
        whole = flags.warm_up_seconds + seconds
        plans = plan.open_loop(self._arrivals, rate, whole, self._seed, self._terms)
        ran = self._fleet.run(plans, f"{rate:.1f}/s, {self._arrivals}")
        window = ran.records.between(flags.warm_up_seconds, whole)
        if (window.code == NO_CONNECTION).any():
            require_server(flags)  # nothing is found out by trying other rates of a server that is gone
        summary = Summary.of(window, seconds, flags.objective_seconds)
        return summary, generator_limit(summary, ran.cpu_share, max_lag_seconds(flags)), window

    def point(self, factor: float, capacity: float) -> Point:
        """Send ``factor`` times the capacity, once per seed."""
        flags = self._flags
        ran = [self.run(factor * capacity, flags.seconds) for _ in range(flags.repeats)]
        limit = next((limit for _, limit, _ in ran if limit), None)
        optimum = None
        if self._costs is not None:
            optimum = sum(most_in_time(sent.intended, flags.objective_seconds, self._costs) for _, _, sent in ran)
        return Point(factor, tuple(summary for summary, _, _ in ran), limit, optimum)

    def search(self, search: RateSearch, say: Say) -> tuple[Found, str | None]:
        """Run what a search asks for until it has its result.

        A rate at which the generator was the limit counts as not passed, since it says nothing about the server. The
        search ends early if no lower rate can pass.

        Returns:
            The result, and, if the generator bounded it, why.
        """
        limits: dict[float, str] = {}
        steady = self._arrivals in (Constant(), Gamma())
        outlook, last = Outlook(self._flags.objective_seconds, bunched=not steady), ""
        while not isinstance(probe := search.next(), Found):
            seconds = max(self._flags.trial_seconds, 1.05 * probe.requests / probe.rate)
            summary, limit, _ = self.run(probe.rate, seconds)
            last = seen(probe.rate, summary)
            if limit:
                search.give_up_rate()
                say(_line(probe.rate, summary, "generator was the limit"))
                if not limits:
                    say(limit)  # now: a search is long, and may end at a lower rate
                limits[probe.rate] = f"at {probe.rate:.1f} /s {limit}"
            else:
                verdict = search.tell(summary.offered, summary.missed)
                say(_line(probe.rate, summary, verdict.value))
                if why := outlook.hopeless(probe.rate, summary, verdict):
                    search.stop(why)
        limit = limits.get(probe.failed) if probe.failed else None
        return (replace(probe, why=f"{last}; {probe.why}") if probe.why else probe), limit


def _line(rate: float, summary: Summary, verdict: str) -> str:
    seconds = summary.latency.percentile(99)
    p99 = "-" if math.isnan(seconds) else f"{seconds * 1e3:.2f}"  # nothing was OK
    return f"{rate:10.1f} /s  {summary.missed:6d} of {summary.offered:7d} missed  p99 of OK {p99:>9} ms  {verdict}"
