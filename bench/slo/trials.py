"""Runs at the rates that the search and the curve ask for, with one fleet."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from bench.load import plan
from bench.load.arrivals import Arrivals, Constant, Gamma
from bench.load.codes import NO_CONNECTION
from bench.load.fleet import Fleet
from bench.load.options import max_lag_seconds
from bench.load.records import Records, Summary, generator_limit
from bench.load.session import Session, require_server
from bench.load.steal import MUCH_STEAL
from bench.slo.curve import Point
from bench.slo.optimum import BatchCosts, most_in_time
from bench.slo.outlook import Outlook, seen
from bench.slo.search import Found, RateSearch

Say = Callable[[str], None]
_MAX_RUNS = 20  # of one trial, under --max-steal


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """A run at one rate.

    Attributes:
        summary: Of its window.
        limit: Why the generator was the limit; None if it was not.
        steal: What the hypervisor took of the core that lost most; None if that is not known.
        sent: The records of the window.
    """

    summary: Summary
    limit: str | None
    steal: float | None
    sent: Records


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

    def run(self, rate: float, seconds: float) -> Trial:
        """Send; under --max-steal once more while the hypervisor takes too much, whatever came of it.

        Raises:
            OptionsInvalid: The server is gone.
        """
        self._seed += 1
        best = self._run(rate, seconds)
        most = self._flags.max_steal
        for _ in range(_MAX_RUNS - 1):
            if most is None or (best.steal or 0.0) <= most:
                break
            best = min(best, self._run(rate, seconds), key=lambda trial: trial.steal or 0.0)
        return best

    def _run(self, rate: float, seconds: float) -> Trial:
        flags = self._flags
        whole = flags.warm_up_seconds + seconds
        plans = plan.open_loop(self._arrivals, rate, whole, self._seed, self._terms)
        ran = self._fleet.run(plans, f"{rate:.1f}/s, {self._arrivals}")
        window = ran.records.between(flags.warm_up_seconds, whole)
        if (window.code == NO_CONNECTION).any():
            require_server(flags)  # nothing is found out by trying other rates of a server that is gone
        summary = Summary.of(window, seconds, flags.objective_seconds)
        return Trial(summary, generator_limit(summary, ran.cpu_share, max_lag_seconds(flags)), ran.steal, window)

    def point(self, factor: float, capacity: float) -> Point:
        """Send ``factor`` times the capacity, once per seed."""
        flags = self._flags
        ran = [self.run(factor * capacity, flags.seconds) for _ in range(flags.repeats)]
        limit = next((trial.limit for trial in ran if trial.limit), None)
        steal = max((trial.steal for trial in ran if trial.steal is not None), default=None)
        optimum = None
        if self._costs is not None:
            objective, costs = flags.objective_seconds, self._costs
            optimum = sum(most_in_time(trial.sent.intended, objective, costs) for trial in ran)
        return Point(factor, tuple(trial.summary for trial in ran), limit, optimum, steal)

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
            trial = self.run(probe.rate, seconds)
            summary, limit = trial.summary, trial.limit
            last = seen(probe.rate, summary)
            if limit:
                search.give_up_rate()
                say(_line(probe.rate, summary, "generator was the limit"))
                if not limits:
                    say(limit)  # now: a search is long, and may end at a lower rate
                limits[probe.rate] = f"at {probe.rate:.1f} /s {limit}"
            else:
                verdict = search.tell(summary.offered, summary.missed)
                say(_line(probe.rate, summary, verdict.value + _stolen(trial.steal)))
                if why := outlook.hopeless(probe.rate, summary, verdict):
                    search.stop(why)
        limit = limits.get(probe.failed) if probe.failed else None
        return (replace(probe, why=f"{last}; {probe.why}") if probe.why else probe), limit


def _stolen(steal: float | None) -> str:
    return "" if steal is None or steal <= MUCH_STEAL else f"  steal {steal:.0%}"


def _line(rate: float, summary: Summary, verdict: str) -> str:
    seconds = summary.latency.percentile(99)
    p99 = "-" if math.isnan(seconds) else f"{seconds * 1e3:.2f}"  # nothing was OK
    return f"{rate:10.1f} /s  {summary.missed:6d} of {summary.offered:7d} missed  p99 of OK {p99:>9} ms  {verdict}"
