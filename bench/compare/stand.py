"""Turn after turn: what they share (environments, models, right answers), and what is kept of them."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.compare import measure
from bench.compare.order import Turn
from bench.compare.results import About, FailureRow, Results
from bench.load.progress import Steps
from bench.peers import PEERS
from bench.peers.bare import Bare
from bench.peers.base import Case, Peer, PeerFailed, Place, free_port
from bench.peers.cases import open_case
from bench.peers.environment import Environment, InstallFailed

HERE = ("bare", "convserve")  # environments that the present one can stand for


class Stand:
    """Where peers are measured."""

    def __init__(self, work: Path | None, results: Results, file: Path, progress: Steps) -> None:
        """Prepare.

        Args:
            work: Folder for environments and models, kept from one run to the next; None: only what needs neither.
            results: Rounds are added to them.
            file: They are written there after each turn, so that nothing is lost.
            progress: Told which turn it is.
        """
        self._work, self._results, self._file, self._progress = work, results, file, progress
        self._homes: dict[str, Environment | str] = {}  # or why there is none
        self._sizes: dict[str, int] = {}
        self._cases: dict[str, tuple[Case, tuple[int, ...]] | str] = {}

    def take(self, turns: Sequence[Turn], concurrency: Sequence[int] | None, terms: measure.Terms) -> None:
        """Take all turns; what fails is noted with its reason, and left out in later rounds.

        Args:
            turns: In this order.
            concurrency: Calls in flight; None: what says something of the model.
            terms: The rest.
        """
        failed: set[tuple[str, str]] = set()
        with tempfile.TemporaryDirectory() as scratch:
            for turn in turns:
                self._progress.begin(f"{turn.model}, {turn.peer}, round {turn.round + 1}")
                if (turn.model, turn.peer) in failed:
                    continue
                try:
                    self._one(turn, concurrency, terms, Path(scratch))
                except (InstallFailed, *measure.FAULTS) as error:
                    failed.add((turn.model, turn.peer))
                    reason = " ".join(str(error).split())
                    self._results.failures.append(FailureRow(turn.peer, turn.model, turn.round, reason))
                self._results.written(self._file)

    def _one(self, turn: Turn, concurrency: Sequence[int] | None, terms: measure.Terms, scratch: Path) -> None:
        peer = PEERS[turn.peer]
        self._results.peers.setdefault(peer.name, About(peer.tuning, {}, None))
        place = self._place(peer, scratch)
        own = self._work is not None
        if own and peer.home not in self._sizes:
            self._sizes[peer.home] = place.environment.installed_bytes()
        versions = place.environment.versions(peer.shows)
        self._results.peers[peer.name] = About(peer.tuning, versions, self._sizes.get(peer.home))
        case, expected = self._case(turn.model, scratch)
        if case.encoded:
            place.environment.need("pillow")
        loads = concurrency or case.in_flight or (1, 16, 64)
        starts, rows = measure.take_turn(turn, peer, case, place, expected, loads, terms)
        self._results.starts += starts
        self._results.loads += rows

    def _place(self, peer: Peer, scratch: Path) -> Place:
        folder = (self._work or scratch) / "peers" / peer.name
        folder.mkdir(parents=True, exist_ok=True)
        return Place(folder, self._environment(peer), free_port(), free_port())

    def _environment(self, peer: Peer) -> Environment:
        if self._work is None:
            if peer.home not in HERE:
                raise PeerFailed("it is installed into an environment of its own: give --work DIR")
            return Environment.own()
        if peer.home not in self._homes:
            self._progress.say("installing")
            made = Environment(self._work / "environments" / peer.home)
            try:
                made.make(peer.requirements)
                self._homes[peer.home] = made
            except InstallFailed as failed:
                self._homes[peer.home] = f"not installed: {failed}"
        home = self._homes[peer.home]
        if isinstance(home, str):
            raise InstallFailed(home)
        return home

    def _case(self, model: str, scratch: Path) -> tuple[Case, tuple[int, ...]]:
        """Return a model and its right answers, which ONNX Runtime gives alone."""
        if model not in self._cases:
            self._progress.say("asking ONNX Runtime for the right answers")
            bare = PEERS["bare"]
            assert isinstance(bare, Bare)
            try:
                case = open_case(model, self._work)
                place = self._place(bare, scratch)
                if case.encoded:
                    place.environment.need("pillow")
                self._cases[model] = case, measure.reference(bare, case, place)
            except (PeerFailed, InstallFailed) as failed:
                self._cases[model] = f"{model}: {failed}"
        known = self._cases[model]
        if isinstance(known, str):
            raise PeerFailed(known)
        return known
