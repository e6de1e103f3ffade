"""Levels of priority, as in Triton: 1 goes first. Pure.

A level is worth a second of waiting: a request queues as if it had arrived a second later
for each level below the first. So urgent requests overtake, the order within a level is that of arrival,
and a request waits only for those that arrived before it or within ``levels - 1`` seconds after it.
"""

from __future__ import annotations

from dataclasses import dataclass

_SECONDS_A_LEVEL = 1.0


@dataclass(frozen=True, slots=True)
class Priorities:
    """The levels of one model.

    Attributes:
        levels: How many there are; 0 ignores what callers ask for.
        default: The level of a request that asks for none, or for one that does not exist; 0 for the middle one.
    """

    levels: int = 0
    default: int = 0

    @property
    def default_level(self) -> int:
        """The level of a request that asks for none; 0 without levels."""
        return min(self.default, self.levels) or (self.levels + 1) // 2

    def handicap(self, asked: int) -> float:
        """Return how many seconds after its arrival a request takes its place in line.

        Args:
            asked: The level that the caller asks for; 0 for none.
        """
        if not self.levels:
            return 0.0
        level = asked if 1 <= asked <= self.levels else self.default_level
        return (level - 1) * _SECONDS_A_LEVEL
