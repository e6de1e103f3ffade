"""What one client process is told to do."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bench.load.arrivals import Arrivals, schedule, share
from bench.load.options import OptionsInvalid

_MOST_REQUESTS = 20_000_000  # of one run: their instants, inputs and records fill 1 GB or so


@dataclass(frozen=True, eq=False)
class Plan:
    """The work of one process for one run.

    Attributes:
        picks: Which input each request carries.
        instants: When to send each, in seconds from the start; None for a closed loop.
        concurrency: Closed loop: calls in flight.
        seconds: How long it is; a closed loop stops sending then.
        deadline_seconds: Of every call, from its intended instant; None or 0 for none.
        drain_seconds: How long to wait for answers after the last was sent.
    """

    picks: np.ndarray
    instants: np.ndarray | None
    concurrency: int
    seconds: float
    deadline_seconds: float | None
    drain_seconds: float


def open_loop(
    arrivals: Arrivals,
    rate: float,
    seconds: float,
    *,
    seed: int,
    inputs: int,
    processes: int,
    deadline_seconds: float | None,
    drain_seconds: float,
) -> list[Plan]:
    """Fix every instant and every input in advance; return each process's part.

    Raises:
        OptionsInvalid: They are more than one run can hold.
    """
    if rate * seconds > _MOST_REQUESTS:
        raise OptionsInvalid(
            f"{rate:g} requests a second for {seconds:g} s are more than {_MOST_REQUESTS:,}, which one run can hold: "
            "a lower rate or fewer seconds"
        )
    instants = schedule(arrivals, rate, seconds, seed)
    picks = np.random.default_rng([seed, 1]).integers(0, inputs, len(instants))
    return [
        Plan(
            picks=share(picks, part, processes),
            instants=share(instants, part, processes),
            concurrency=0,
            seconds=seconds,
            deadline_seconds=deadline_seconds,
            drain_seconds=drain_seconds,
        )
        for part in range(processes)
    ]


def closed_loop(
    concurrency: int,
    seconds: float,
    *,
    seed: int,
    inputs: int,
    processes: int,
    deadline_seconds: float | None,
    drain_seconds: float,
) -> list[Plan]:
    """Share the calls in flight out; each process repeats its list of inputs."""
    return [
        Plan(
            picks=np.random.default_rng([seed, part]).integers(0, inputs, 4096),
            instants=None,
            concurrency=concurrency // processes + (part < concurrency % processes),
            seconds=seconds,
            deadline_seconds=deadline_seconds,
            drain_seconds=drain_seconds,
        )
        for part in range(processes)
    ]
