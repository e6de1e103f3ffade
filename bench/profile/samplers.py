"""perf and py-spy: their command lines and their output. Pure.

perf interrupts the thread on a core, so its samples are CPU, the kernel's included; but it sees only the interpreter,
not Python's functions. py-spy sees those; but it judges by a thread's state. With more threads than cores, a thread
that waits for its turn looks as if it ran, one that yields in a loop most of all, so py-spy's shares of CPU are far
off. What it says of the thread that holds the interpreter lock is right: that thread executes Python, and no other
does. So perf tells how much of a thread's CPU is Python, and py-spy which functions that is.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.errors import BenchError

_PERF_RATE = 997  # a second; a prime, so that it keeps no step with anything
_SPY_RATE = 400
_FRAME = re.compile(r"\s+[0-9a-f]+ (.*) \((.*)\)$")
_THREAD = re.compile(r"thread \((\d+)\): (.*)")
Stack = tuple[str, ...]


class SamplerFailed(BenchError):
    """A sampler is missing, may not sample, or failed; the message says why, on one line."""


@dataclass(frozen=True, slots=True)
class CpuSample:
    """What a thread was executing at an instant.

    Attributes:
        thread: Its number.
        frames: Symbol and library from the innermost outwards, as far as they are known.
    """

    thread: int
    frames: tuple[tuple[str, str], ...]


def perf_command(program: str, pid: int, out: Path) -> list[str]:
    """Return the command line that samples a process until it is interrupted."""
    how = ("-q", "-N", "-e", "cpu-clock", "-F", str(_PERF_RATE), "-g")
    return [program, "record", *how, "-p", str(pid), "-o", str(out)]


def parse_perf(said: str) -> Iterator[CpuSample]:
    """Yield the samples that ``perf script`` printed."""
    for block in said.split("\n\n"):
        lines = [line for line in block.splitlines() if line.strip()]
        if not lines:
            continue
        frames = tuple((found[1], found[2]) for line in lines[1:] if (found := _FRAME.match(line)))
        yield CpuSample(int(lines[0].split()[0]), frames)


def spy_command(program: str, pid: int, out: Path) -> list[str]:
    """Return the command line that samples who holds the interpreter lock, until it is interrupted."""
    how = ("--gil", "--threads", "--function", "--format", "raw", "--rate", str(_SPY_RATE))
    return [program, "record", *how, "--pid", str(pid), "--output", str(out)]


def parse_spy(said: str) -> dict[int, Counter[Stack]]:
    """Read how often each stack was seen, by thread number, without the frames of ``threading`` at its root."""
    found: dict[int, Counter[Stack]] = {}
    for line in said.splitlines():
        stack, _, count = line.rpartition(" ")
        thread, *frames = stack.split(";")
        if (named := _THREAD.fullmatch(thread)) is None:
            continue  # a stack that was torn while it was read
        while frames and frames[0].startswith("Thread.") and "(threading.py:" in frames[0]:
            frames.pop(0)
        found.setdefault(int(named[1]), Counter())[tuple(frames)] += int(count)
    return found
