"""Takes turn after turn, and keeps their results."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.compare import measure
from bench.compare.grounds import Grounds
from bench.compare.order import Turn
from bench.compare.results import About, FailureRow, Results
from bench.load.progress import Steps
from bench.peers import PEERS
from bench.peers.environment import InstallFailed
from bench.run_folder import RunFolder


class Stand:
    """Where peers are measured."""

    def __init__(self, work: Path | None, results: Results, run: RunFolder, progress: Steps) -> None:
        """Prepare.

        Args:
            work: Folder for environments and models, kept from one run to the next; None: only peers that need neither.
            results: Rounds are added to them.
            run: Where they are written after each turn, so that nothing is lost.
            progress: Shows which turn it is.
        """
        self._work, self._results, self._run, self._progress = work, results, run, progress
        self._sizes: dict[str, int] = {}

    def take(self, turns: Sequence[Turn], concurrency: Sequence[int] | None, terms: measure.Terms) -> None:
        """Take all turns; one that fails is noted with its reason, and left out in later rounds.

        Args:
            turns: In this order.
            concurrency: Calls in flight; None: those that suit the model.
            terms: What all turns have in common.
        """
        failed: set[tuple[str, str]] = set()
        with tempfile.TemporaryDirectory() as scratch:
            grounds = Grounds(self._work, Path(scratch), self._progress.say)
            for turn in turns:
                self._progress.begin(f"{turn.model}, {turn.peer}, round {turn.round + 1}")
                if (turn.model, turn.peer) in failed:
                    continue
                try:
                    self._one(turn, concurrency, terms, grounds)
                except (InstallFailed, *measure.FAULTS) as error:
                    failed.add((turn.model, turn.peer))
                    reason = " ".join(str(error).split())
                    self._results.failures.append(FailureRow(turn.peer, turn.model, turn.round, reason))
                self._results.write(self._run)

    def _one(self, turn: Turn, concurrency: Sequence[int] | None, terms: measure.Terms, grounds: Grounds) -> None:
        peer = PEERS[turn.peer]
        self._results.peers.setdefault(peer.name, About(peer.tuning, {}, None))
        place = grounds.place(peer)
        own = self._work is not None
        if own and peer.home not in self._sizes:
            self._sizes[peer.home] = place.environment.installed_bytes()
        versions = place.environment.versions(peer.shows)
        self._results.peers[peer.name] = About(peer.tuning, versions, self._sizes.get(peer.home))
        case, expected = grounds.case(turn.model)
        if case.encoded:
            place.environment.need("pillow")
        loads = concurrency or case.in_flight or (1, 16, 64)
        starts, rows = measure.take_turn(turn, peer, case, place, expected, loads, terms)
        self._results.starts += starts
        self._results.loads += rows
