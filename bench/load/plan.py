"""The work of one client process."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bench.errors import OptionsInvalid
from bench.load.arrivals import Arrivals, schedule

_MOST_REQUESTS = 20_000_000  # of one run: their instants, inputs and records fill 1 GB or so


@dataclass(frozen=True, eq=False)
class Plan:
    """The work of one process for one run.

    Attributes:
        picks: Which input each request carries.
        instants: When to send each, in seconds from the start; None for a closed loop.
        concurrency: Closed loop: calls in flight.
        seconds: Length of the run; a closed loop stops sending then.
        deadline_seconds: Of every call, from its intended instant; None or 0 for none.
        drain_seconds: How long to wait for answers after the last was sent.
    """

    picks: np.ndarray
    instants: np.ndarray | None
    concurrency: int
    seconds: float
    deadline_seconds: float | None
    drain_seconds: float


@dataclass(frozen=True, slots=True)
class Terms:
    """What all runs of a command have in common.

    Attributes:
        inputs: Number of inputs to pick from.
        processes: Client processes.
        deadline_seconds: See :class:`Plan`.
        drain_seconds: See :class:`Plan`.
    """

    inputs: int
    processes: int
    deadline_seconds: float | None
    drain_seconds: float


def open_loop(arrivals: Arrivals, rate: float, seconds: float, seed: int, terms: Terms) -> list[Plan]:
    """Fix every instant and every input in advance; return each process's part.

    Raises:
        OptionsInvalid: One run cannot hold so many requests.
    """
    if rate * seconds > _MOST_REQUESTS:
        raise OptionsInvalid(
            f"{rate:g} requests a second for {seconds:g} s are more than {_MOST_REQUESTS:,}, the most for one run: "
            "give a lower rate or fewer seconds"
        )
    count, instants = terms.processes, schedule(arrivals, rate, seconds, seed)
    picks = np.random.default_rng([seed, 1]).integers(0, terms.inputs, len(instants))
    return [
        Plan(picks[part::count], instants[part::count], 0, seconds, terms.deadline_seconds, terms.drain_seconds)
        for part in range(count)
    ]


def closed_loop(concurrency: int, seconds: float, seed: int, terms: Terms) -> list[Plan]:
    """Divide the calls in flight among the processes; each repeats its own list of inputs."""
    return [
        Plan(
            picks=np.random.default_rng([seed, part]).integers(0, terms.inputs, 4096),
            instants=None,
            concurrency=concurrency // terms.processes + (part < concurrency % terms.processes),
            seconds=seconds,
            deadline_seconds=terms.deadline_seconds,
            drain_seconds=terms.drain_seconds,
        )
        for part in range(terms.processes)
    ]
