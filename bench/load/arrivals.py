"""When requests are sent. Pure: process, rate, length and seed fix a schedule before anything is sent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.errors import OptionsInvalid


@dataclass(frozen=True, slots=True)
class Constant:
    """One arrival every 1 / rate seconds."""

    def __str__(self) -> str:
        return "constant arrivals"

    def instants(self, rate: float, seconds: float, random: np.random.Generator) -> np.ndarray:
        """See :func:`schedule`."""
        instants = np.arange(math.ceil(rate * seconds)) / rate
        return instants[instants < seconds]


@dataclass(frozen=True, slots=True)
class Gamma:
    """Independent gaps, gamma distributed; a variation of 1 makes it a Poisson process, a greater one burstier.

    Attributes:
        variation: Standard deviation of the gaps over their mean.
    """

    variation: float = 1.0

    def __str__(self) -> str:
        return "Poisson arrivals" if self.variation == 1 else f"gamma arrivals, variation {self.variation:g}"

    def instants(self, rate: float, seconds: float, random: np.random.Generator) -> np.ndarray:
        """See :func:`schedule`."""
        shape = self.variation**-2
        parts, end = [], 0.0
        while end < seconds:
            count = max(16, math.ceil((seconds - end) * rate))
            part = end + np.cumsum(random.gamma(shape, 1 / (shape * rate), count))
            parts.append(part)
            end = float(part[-1])
        instants = np.concatenate(parts)
        return instants[instants < seconds]


@dataclass(frozen=True, slots=True)
class Bursts:
    """Poisson arrivals for ``on_seconds``, none for ``off_seconds``, and so on; the mean rate is kept."""

    on_seconds: float
    off_seconds: float

    def __str__(self) -> str:
        return f"bursts of {self.on_seconds:g} s, {self.off_seconds:g} s apart"

    def instants(self, rate: float, seconds: float, random: np.random.Generator) -> np.ndarray:
        """See :func:`schedule`."""
        period = self.on_seconds + self.off_seconds
        whole, rest = divmod(seconds, period)
        busy = Gamma().instants(
            rate * period / self.on_seconds, whole * self.on_seconds + min(rest, self.on_seconds), random
        )
        # Laid end to end the busy spells are one Poisson process; put the quiet ones back between them.
        instants = np.floor(busy / self.on_seconds) * period + busy % self.on_seconds
        return np.sort(instants[instants < seconds])


@dataclass(frozen=True, slots=True)
class Trace:
    """Recorded arrivals, repeated until the time is over.

    Attributes:
        recorded: Ascending instants from 0, in seconds; their mean rate is scaled to the one asked for.
    """

    recorded: tuple[float, ...]

    @property
    def rate(self) -> float:
        """The mean rate as recorded; before the trace repeats, a mean gap follows the last arrival."""
        return (len(self.recorded) - 1) / self.recorded[-1]

    def __str__(self) -> str:
        return f"a trace of {len(self.recorded)} arrivals"

    def instants(self, rate: float, seconds: float, random: np.random.Generator) -> np.ndarray:
        """See :func:`schedule`."""
        once = np.array(self.recorded) * (self.rate / rate)
        length = len(once) / rate
        times = math.ceil(seconds / length)
        instants = (np.arange(times)[:, None] * length + once).ravel()
        return instants[instants < seconds]


Arrivals = Constant | Gamma | Bursts | Trace


def schedule(arrivals: Arrivals, rate: float, seconds: float, seed: int) -> np.ndarray:
    """Return when to send, as ascending seconds in [0, seconds); the same arguments give the same instants.

    Args:
        arrivals: The arrival process.
        rate: Mean arrivals a second.
        seconds: Length.
        seed: Of all randomness.
    """
    return arrivals.instants(rate, seconds, np.random.default_rng(seed))


def parse_trace(lines: Sequence[str]) -> Trace:
    """Read a trace: one instant in seconds per line, or first on a line of CSV; a heading and empty lines are skipped.

    Raises:
        OptionsInvalid: There are fewer than two instants, or they do not ascend.
    """
    instants: list[float] = []
    for number, line in enumerate(lines, start=1):
        cell = line.split(",", 1)[0].strip()
        if not cell:
            continue
        try:
            instant = float(cell)
        except ValueError:
            if number == 1:
                continue
            raise OptionsInvalid(f"line {number}: expected seconds, got '{cell}'") from None
        if not math.isfinite(instant):
            raise OptionsInvalid(f"line {number}: expected seconds, got '{cell}'")
        if instants and instant < instants[-1]:
            raise OptionsInvalid(
                f"line {number}: expected at least {instants[-1]}, as in the line before, got {instant}"
            )
        instants.append(instant)
    if not instants or instants[-1] == instants[0]:
        raise OptionsInvalid("expected at least two different instants")
    return Trace(tuple(instant - instants[0] for instant in instants))


def read_trace(path: Path) -> Trace:
    """Read a trace from a file; see :func:`parse_trace`.

    Raises:
        OptionsInvalid: It cannot be read, or is no trace.
    """
    try:
        return parse_trace(path.read_text().splitlines())
    except (OSError, UnicodeDecodeError, OptionsInvalid) as error:
        raise OptionsInvalid(f"{path}: {getattr(error, 'strerror', None) or error}") from None
