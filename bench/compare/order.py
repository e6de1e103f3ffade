"""The order in which peers are measured. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple


class Turn(NamedTuple):
    """One peer's go at one model.

    Attributes:
        round: From 0 on.
        model: Its name.
        peer: Its name.
    """

    round: int
    model: str
    peer: str


def interleaved(peers: Sequence[str], models: Sequence[str], rounds: int, first_round: int = 0) -> Iterator[Turn]:
    """Yield the turns, for each model A B C A B C …, so that changes on the machine affect all peers alike.

    Args:
        peers: In the order of a round.
        models: Each is finished before the next begins.
        rounds: How many for each model.
        first_round: Number of the first, where earlier ones are kept.
    """
    for model in models:
        for turn in range(first_round, first_round + rounds):
            for peer in peers:
                yield Turn(turn, model, peer)
