"""Takes turn after turn, and keeps their results."""

from __future__ import annotations

from collections.abc import Sequence

from bench.compare import measure
from bench.compare.grounds import Grounds
from bench.compare.results import About, FailureRow, Results, Turn
from bench.peers import PEERS
from bench.progress import show
from bench.run_folder import RunFolder


def interleaved(peers: Sequence[str], models: Sequence[str], rounds: int, first_round: int = 0) -> list[Turn]:
    """Return the turns, for each model A B C A B C …, so that changes on the machine affect all peers alike."""
    numbers = range(first_round, first_round + rounds)
    return [Turn(peer, model, number) for model in models for number in numbers for peer in peers]


def take(
    turns: Sequence[Turn], concurrency: Sequence[int] | None, terms: measure.Terms, grounds: Grounds,
    results: Results, kept: RunFolder,
) -> None:  # fmt: skip
    """Take all turns; one that fails is noted with its reason, and left out in later rounds.

    Args:
        turns: In this order.
        concurrency: Calls in flight; None: those that suit the model.
        terms: What all turns have in common.
        grounds: Environments and models.
        results: Rounds are added to them.
        kept: Where they are written after each turn, so that nothing is lost.
    """
    failed: set[tuple[str, str]] = set()
    for number, turn in enumerate(turns):
        show(str(turn), number, len(turns))
        if (turn.model, turn.peer) in failed:
            continue
        try:
            _take(turn, concurrency, terms, grounds, results)
        except measure.FAULTS as error:
            failed.add((turn.model, turn.peer))
            reason = " ".join(str(error).split())
            results.failures.append(FailureRow(turn.peer, turn.model, turn.round, reason))
        results.write(kept)


def _take(
    turn: Turn, concurrency: Sequence[int] | None, terms: measure.Terms, grounds: Grounds, results: Results
) -> None:
    peer = PEERS[turn.peer]
    results.peers.setdefault(peer.name, About(peer.tuning, {}, None))
    place = grounds.place(peer)
    size = place.environment.installed_bytes if grounds.installs else None
    results.peers[peer.name] = About(peer.tuning, place.environment.versions(peer.shows), size)
    case, expected = grounds.case(turn.model)
    if case.encoded:
        place.environment.need("pillow")
    loads = concurrency or case.in_flight or (1, 16, 64)
    starts, rows = measure.take_turn(turn, peer, case, place, expected, loads, terms)
    results.starts += starts
    results.loads += rows
