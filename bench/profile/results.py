"""Profiles as they are kept: one for each model, load and transport."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from bench.profile.phases import Phase
from bench.run_folder import RunFolder


@dataclass(frozen=True, slots=True)
class Profile:
    """Where the CPU of a server went under one load.

    Attributes:
        model: Name.
        in_flight: Calls.
        transport: The server's transport.
        client: What sent them.
        commit: Of the tree.
        answers: In the window without samplers, from which all times are.
        per_second: Answers a second.
        p50_ms: Median latency.
        rows_a_batch: Mean.
        padding: Share of padding in a batch, mean.
        cpu_us: CPU of the server for an answer, user and system; the phases add up to it, and so do the threads.
        phases: CPU in microseconds for an answer, by phase.
        threads: Likewise, by kind of thread.
        bare_us: CPU of ONNX Runtime alone for a row, on one thread, in batches of the same size.
        sampled_us: CPU for an answer while perf sampled, and while py-spy did: what sampling costs.
        samples: How often perf found the server on a core, and py-spy a thread with the interpreter lock.
    """

    model: str
    in_flight: int
    transport: str
    client: str
    commit: str
    answers: int
    per_second: float
    p50_ms: float
    rows_a_batch: float
    padding: float
    cpu_us: float
    phases: dict[str, float]
    threads: dict[str, float]
    bare_us: float
    sampled_us: tuple[float, float]
    samples: tuple[int, int]


@dataclass(slots=True)
class Profiles:
    """All of them.

    Attributes:
        machine: As :func:`bench.compare.machine.machine` tells.
        date: Of the last run.
        profiles: In order.
    """

    machine: dict[str, Any] = field(default_factory=dict)
    date: str = ""
    profiles: list[Profile] = field(default_factory=list)

    def put(self, profile: Profile) -> None:
        """Add one, in place of an earlier one of the same load."""
        load = (profile.model, profile.in_flight, profile.transport)
        places = {(it.model, it.in_flight, it.transport): place for place, it in enumerate(self.profiles)}
        place = places.get(load, len(self.profiles))
        self.profiles[place : place + 1] = [profile]

    def write(self, run: RunFolder) -> None:
        """Write them, one profile a line."""
        rows = [_rounded(dataclasses.asdict(profile)) for profile in self.profiles]
        run.write_results({"machine": self.machine, "date": self.date}, {"profiles": rows})

    @classmethod
    def read(cls, run: RunFolder) -> Profiles:
        """Read them.

        Raises:
            OptionsInvalid: There are none.
        """
        return run.read(cls._of)

    @classmethod
    def _of(cls, found: Any) -> Profiles:
        profiles = [Profile(**row) for row in found["profiles"]]
        if unknown := {name for one in profiles for name in one.phases} - {*Phase}:
            raise ValueError(f"no phase {min(unknown)!r}")
        return cls(found["machine"], found["date"], profiles)


def _rounded(value: Any) -> Any:
    """Keep what was measured, not what a float can hold."""
    if isinstance(value, dict):
        return {name: _rounded(part) for name, part in value.items()}
    if isinstance(value, tuple | list):
        return [_rounded(part) for part in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
