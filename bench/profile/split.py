"""Divides each thread's CPU, as /proc tells it, by what the samplers saw. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bench.profile.phases import (
    Phase,
    is_in_the_runtime,
    phase_of_machine_code,
    phase_of_stack,
    phase_of_thread,
    thread_kind,
)
from bench.profile.samplers import CpuSample, Stack

_MACHINE_CODE = {
    Phase.MODEL: "ONNX Runtime, machine code",
    Phase.THREADS: "kernel: futex, sched_yield",
    Phase.REPLY: "kernel: write, sendto",
    Phase.HTTP2: "machine code and kernel",
}
_POOL = "ONNX Runtime's threads"


@dataclass(frozen=True, slots=True)
class Thread:
    """A thread of the server.

    Attributes:
        number: The kernel's number of it.
        name: Python's name of it, else the kernel's.
        runs_python: Whether Python knows it.
        cpu: What it used, in any unit.
    """

    number: int
    name: str
    runs_python: bool
    cpu: float


@dataclass(frozen=True, slots=True)
class Cost:
    """A part of the CPU.

    Attributes:
        stack: Kind of thread, then functions from the outermost to the innermost.
        phase: What it was for.
        cpu: In the unit of the threads.
    """

    stack: Stack
    phase: Phase
    cpu: float


def split(
    threads: Sequence[Thread], total: float, on_core: Sequence[CpuSample], in_python: Mapping[int, Counter[Stack]]
) -> list[Cost]:
    """Divide a server's CPU; the parts add up to the total.

    Args:
        threads: All of them.
        total: Of the process; it exceeds theirs by what ended threads used, or by rounding.
        on_core: Samples of perf.
        in_python: Samples of py-spy, of the thread that held the interpreter lock, by thread number.
    """
    known = sum(thread.cpu for thread in threads)
    scale = min(1.0, total / known) if known else 1.0
    by_number = {thread.number: thread for thread in threads}
    code: dict[int, Counter[Phase | None]] = {}
    for sample in on_core:
        if (thread := by_number.get(sample.thread)) is not None:
            phase = phase_of_machine_code(sample.frames, thread_kind(thread.name), runs_python=thread.runs_python)
            code.setdefault(thread.number, Counter())[phase] += 1
    kinds: dict[str, _Kind] = {}
    for thread in threads:
        seen = code.get(thread.number, Counter())
        name = thread_kind(thread.name)
        if not thread.runs_python and seen[Phase.MODEL]:
            # One of the pool that runs an operator in parts; while it sleeps in the kernel it looks like any other.
            name, seen = _POOL, Counter({Phase.MODEL: seen.total()})
        kind = kinds.setdefault(name, _Kind(name, None if thread.runs_python else Phase.HTTP2))
        kind.cpu += thread.cpu * scale
        kind.code += seen
        kind.python += in_python.get(thread.number, Counter())
    costs = [cost for kind in kinds.values() if kind.cpu for cost in kind.costs()]
    rest = total - sum(cost.cpu for cost in costs)
    if rest > 0:
        costs.append(Cost(("threads that ended, rounding",), Phase.OTHER, rest))
    return costs


@dataclass(slots=True)
class _Kind:
    """Threads of one kind, added up; ``unseen`` is their phase if there are no samples."""

    name: str
    unseen: Phase | None
    cpu: float = 0.0
    code: Counter[Phase | None] = field(default_factory=Counter)
    python: Counter[Stack] = field(default_factory=Counter)

    def costs(self) -> list[Cost]:
        """Divide what they used."""
        code = self.code or Counter({self.unseen: 1})
        share = self.cpu / code.total()
        costs = [
            Cost((self.name, _MACHINE_CODE[phase]), phase, count * share)
            for phase, count in code.items()
            if phase is not None
        ]
        if code[None]:
            executed = {stack: count for stack, count in self.python.items() if not is_in_the_runtime(stack)}
            stacks = Counter(executed) or Counter({(): 1})
            each = code[None] * share / stacks.total()
            for stack, count in stacks.items():
                phase = phase_of_stack(stack) or phase_of_thread(self.name)
                costs.append(Cost((self.name, *stack), phase, count * each))
        return costs


def by_phase(costs: Sequence[Cost]) -> dict[Phase, float]:
    """Add up by phase."""
    sums = dict.fromkeys(Phase, 0.0)
    for cost in costs:
        sums[cost.phase] += cost.cpu
    return sums


def by_thread(costs: Sequence[Cost]) -> dict[str, float]:
    """Add up by kind of thread."""
    sums: dict[str, float] = {}
    for cost in costs:
        sums[cost.stack[0]] = sums.get(cost.stack[0], 0.0) + cost.cpu
    return dict(sorted(sums.items(), key=lambda pair: -pair[1]))
