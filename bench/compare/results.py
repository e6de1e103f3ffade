"""Measurements as they are kept: plain rows, to which rounds can be added, with their medians and spread."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.run_folder import RunFolder


@dataclass(frozen=True, slots=True)
class Turn:
    """One peer's go at one model.

    Attributes:
        peer: Name.
        model: Name.
        round: From 0 on.
    """

    peer: str
    model: str
    round: int

    def __str__(self) -> str:
        return f"{self.model}, {self.peer}, round {self.round + 1}"


@dataclass(frozen=True, slots=True)
class LoadRow(Turn):
    """One measurement under load.

    Attributes:
        in_flight: Calls.
        client: What sent them.
        commit: Of the tree that measured, and that convserve was taken from.
        answers: In the window.
        per_second: Answers a second.
        p50_ms: Median latency.
        p99_ms: 99th percentile.
        cpu_us: CPU of all the server's processes for an answer, user and system.
        rss_bytes: Memory of all its processes halfway through.
        pss_bytes: The same, with shared pages divided among the processes that share them.
        note: What was chosen, such as the batch of the bare loop.
    """

    in_flight: int
    client: str
    commit: str
    answers: int
    per_second: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    rss_bytes: int
    pss_bytes: int
    note: str = ""


@dataclass(frozen=True, slots=True)
class StartRow(Turn):
    """One start.

    Attributes:
        commit: As in :class:`LoadRow`.
        seconds: From the start of the process to its first right answer.
        rss_bytes: Memory of all its processes then.
        pss_bytes: The same, shared pages divided.
    """

    commit: str
    seconds: float
    rss_bytes: int
    pss_bytes: int


@dataclass(frozen=True, slots=True)
class FailureRow(Turn):
    """A turn that gave nothing.

    Attributes:
        reason: On one line.
    """

    reason: str


@dataclass(frozen=True, slots=True)
class About:
    """What is known of a peer for every model.

    Attributes:
        tuning: How it was tuned to its best.
        versions: By distribution.
        installed_bytes: Of its packages; None where it has no environment of its own.
    """

    tuning: str
    versions: dict[str, str]
    installed_bytes: int | None


@dataclass(slots=True)
class Results:
    """All rounds.

    Attributes:
        machine: Model of the CPU, cores, kernel, memory.
        runs: Date, commit and arguments of each run that added rounds.
        peers: By name.
        loads: Under load.
        starts: At the start.
        failures: What gave nothing.
    """

    machine: dict[str, Any] = field(default_factory=dict)
    runs: list[dict[str, Any]] = field(default_factory=list)
    peers: dict[str, About] = field(default_factory=dict)
    loads: list[LoadRow] = field(default_factory=list)
    starts: list[StartRow] = field(default_factory=list)
    failures: list[FailureRow] = field(default_factory=list)

    def next_round(self, models: Iterable[str], peers: Iterable[str]) -> int:
        """Return the number of the first round that none of these has had."""
        models, peers = {*models}, {*peers}
        rows: list[Turn] = [*self.loads, *self.starts, *self.failures]
        had = [row.round for row in rows if row.peer in peers and row.model in models]
        return max(had, default=-1) + 1

    def forget(self, models: Iterable[str], peers: Iterable[str]) -> None:
        """Drop the rows of these peers for these models."""
        models, peers = {*models}, {*peers}
        kept: tuple[list[Any], ...] = (self.loads, self.starts, self.failures)
        for rows in kept:
            rows[:] = [row for row in rows if row.peer not in peers or row.model not in models]

    def write(self, run: RunFolder) -> None:
        """Write them, one row a line."""
        run.write_results(
            {"machine": self.machine, "runs": self.runs, "peers": self.peers},
            {"loads": self.loads, "starts": self.starts, "failures": self.failures},
        )

    @classmethod
    def read(cls, run: RunFolder) -> Results:
        """Read them.

        Raises:
            OptionsInvalid: There are none.
        """
        return run.read(
            lambda found: cls(
                machine=found["machine"],
                runs=found["runs"],
                peers={name: About(**about) for name, about in found["peers"].items()},
                loads=[LoadRow(**row) for row in found["loads"]],
                starts=[StartRow(**row) for row in found["starts"]],
                failures=[FailureRow(**row) for row in found["failures"]],
            )
        )


@dataclass(frozen=True, slots=True)
class Spread:
    """Several measurements of one thing.

    Attributes:
        median: Of them.
        low: The least.
        high: The greatest.
        count: How many.
    """

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Sum up; there is at least one."""
        return cls(statistics.median(values), min(values), max(values), len(values))


@dataclass(frozen=True, slots=True)
class LoadSummary:
    """The rounds of one peer at one load.

    Attributes:
        peer: Name.
        model: Name.
        in_flight: Calls.
        clients: What sent them.
        notes: What was chosen.
        values: By the name of a :class:`LoadRow`'s number.
    """

    peer: str
    model: str
    in_flight: int
    clients: tuple[str, ...]
    notes: tuple[str, ...]
    values: dict[str, Spread]

    def __getitem__(self, name: str) -> Spread:
        """Return one of the numbers."""
        return self.values[name]


NUMBERS = ("per_second", "p50_ms", "p99_ms", "cpu_us", "rss_bytes", "pss_bytes")


def summaries(loads: Sequence[LoadRow]) -> list[LoadSummary]:
    """Sum rounds up, in the order in which things were first measured."""
    groups: dict[tuple[str, int, str], list[LoadRow]] = {}
    for row in loads:
        groups.setdefault((row.model, row.in_flight, row.peer), []).append(row)
    return [
        LoadSummary(
            peer,
            model,
            in_flight,
            tuple(sorted({row.client for row in rows})),
            tuple(sorted({row.note for row in rows if row.note})),
            {name: Spread.of([getattr(row, name) for row in rows]) for name in NUMBERS},
        )
        for (model, in_flight, peer), rows in groups.items()
    ]
