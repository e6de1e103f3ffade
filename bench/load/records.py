"""The outcome of every request, and their summary. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from bench.load.codes import DEADLINE_EXCEEDED, NAMES, OK, RESOURCE_EXHAUSTED, UNAVAILABLE
from bench.load.histogram import Histogram


@dataclass(frozen=True, eq=False)
class Records:
    """One entry a request in each array; instants are seconds from the start of the run.

    Attributes:
        intended: When it should have been sent.
        sent: When it was.
        ended: When its answer was complete or its deadline came; if neither happened, when the run ended.
        code: A status code of :mod:`bench.load.codes`.
        wrong: Whether its answer differs from the reference.
    """

    intended: np.ndarray
    sent: np.ndarray
    ended: np.ndarray
    code: np.ndarray
    wrong: np.ndarray

    @classmethod
    def merged(cls, parts: Sequence[Records]) -> Records:
        """Join the records of several processes in the order of intended instants."""
        joined = {
            field.name: np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Records)
        }
        order = np.argsort(joined["intended"], kind="stable")
        return cls(**{name: array[order] for name, array in joined.items()})

    def between(self, start: float, end: float) -> Records:
        """Return those that should have been sent in [start, end)."""
        chosen = (self.intended >= start) & (self.intended < end)
        return Records(**{field.name: getattr(self, field.name)[chosen] for field in fields(Records)})


@dataclass(frozen=True, eq=False)
class Run:
    """What one process saw of a run, or all together.

    Attributes:
        records: In the order of intended instants.
        cpu_share: What the process used of one core while it had requests to send; of several, the busiest.
        steal: What the hypervisor took meanwhile of this machine's core that lost most, from 0 to 1; None if unknown.
    """

    records: Records
    cpu_share: float
    steal: float | None = None


@dataclass(frozen=True, eq=False)
class Summary:
    """The summary of a run. Each request of the window is in exactly one of the counts from ``on_time`` to ``wrong``.

    Attributes:
        seconds: Length of the window, which follows the warm-up.
        offered: Requests in it.
        on_time: Answered OK, rightly, within the objective.
        late: Answered OK, rightly, after it.
        refused: RESOURCE_EXHAUSTED or UNAVAILABLE, said by the server.
        expired: DEADLINE_EXCEEDED.
        failed: Every other status, no connection, and no answer at all.
        wrong: Answered OK with another answer than the reference.
        codes: Count of each status by name.
        latency: Of all OK answers, from the intended instant.
        refusal_latency: Of the refused, likewise.
        lag: How long after its intended instant each was sent.
    """

    seconds: float
    offered: int
    on_time: int
    late: int
    refused: int
    expired: int
    failed: int
    wrong: int
    codes: dict[str, int]
    latency: Histogram
    refusal_latency: Histogram
    lag: Histogram

    @classmethod
    def of(cls, records: Records, seconds: float, objective_seconds: float | None) -> Summary:
        """Sum up.

        Args:
            records: Those of the window.
            seconds: Length of the window.
            objective_seconds: Longest time of an answer that is not late; None: nothing is late.
        """
        code, took = records.code, records.ended - records.intended
        ok, refused = code == OK, np.isin(code, (RESOURCE_EXHAUSTED, UNAVAILABLE))
        wrong = ok & records.wrong
        late = ok & ~wrong & (took > (np.inf if objective_seconds is None else objective_seconds))
        expired = code == DEADLINE_EXCEEDED
        counts = Counter(code.tolist())
        return cls(
            seconds=seconds,
            offered=len(code),
            on_time=int((ok & ~wrong & ~late).sum()),
            late=int(late.sum()),
            refused=int(refused.sum()),
            expired=int(expired.sum()),
            failed=int((~ok & ~refused & ~expired).sum()),
            wrong=int(wrong.sum()),
            codes={NAMES.get(number, str(number)): count for number, count in sorted(counts.items())},
            latency=Histogram.of(took[ok]),
            refusal_latency=Histogram.of(took[refused]),
            lag=Histogram.of(records.sent - records.intended),
        )

    def __add__(self, other: Summary) -> Summary:
        """Join two runs end to end."""
        return Summary(
            **{
                field.name: getattr(self, field.name) + getattr(other, field.name)
                for field in fields(Summary)
                if field.name != "codes"
            },
            codes=dict(Counter(self.codes) + Counter(other.codes)),
        )

    @property
    def offered_rate(self) -> float:
        """Requests a second."""
        return self.offered / self.seconds

    @property
    def goodput(self) -> float:
        """Right answers within the objective, per second of the window; refusals and late answers do not count."""
        return self.on_time / self.seconds

    @property
    def missed(self) -> int:
        """Requests that do not count for the goodput."""
        return self.offered - self.on_time

    def as_json(self) -> dict[str, Any]:
        """Return everything, histograms in HdrHistogram's own text form, whose unit is a microsecond."""
        plain = {
            field.name: getattr(self, field.name)
            for field in fields(Summary)
            if not isinstance(getattr(self, field.name), Histogram)
        }
        histograms = {"latency": self.latency, "refusal_latency": self.refusal_latency, "lag": self.lag}
        return {
            **plain,
            "offered_per_second": self.offered_rate,
            "goodput_per_second": self.goodput,
            **{f"{name}_seconds": histogram.percentiles() for name, histogram in histograms.items()},
            "histograms_microseconds": {name: histogram.encoded() for name, histogram in histograms.items()},
        }


def generator_limit(summary: Summary, cpu_share: float, max_lag_seconds: float) -> str | None:
    """Say why the generator, not the server, was the limit; None if it was not.

    Args:
        summary: Of the run.
        cpu_share: What the busiest client process used of one core.
        max_lag_seconds: Greatest acceptable p99 of the lag.
    """
    lag = summary.lag.percentile(99)
    if lag > max_lag_seconds:
        return (
            f"the generator was the limit, not the server: p99 of its lag is {lag * 1e3:.2f} ms, expected at most "
            f"{max_lag_seconds * 1e3:.2f} ms; use more --processes, give it its own cores, or lower the rate"
        )
    if cpu_share > 0.95:
        return (
            f"the generator was the limit, not the server: a client process used {cpu_share:.0%} of a core; "
            "use more --processes"
        )
    return None
