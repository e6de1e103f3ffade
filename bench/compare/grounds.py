"""What all turns share: the peers' environments, and the models with their right answers."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from bench.compare import measure
from bench.errors import PeerFailed
from bench.peers import PEERS
from bench.peers.bare import Bare
from bench.peers.base import Case, Peer, Place, free_port
from bench.peers.cases import open_case
from bench.peers.environment import Environment
from bench.progress import show

_T = TypeVar("_T")
HERE = ("bare", "convserve")  # environments that the present one can replace


class Grounds:
    """Makes each environment and each model once."""

    def __init__(self, work: Path | None, scratch: Path, *, install: bool = True) -> None:
        """Prepare.

        Args:
            work: Folder for environments and models, kept from one run to the next; None: only peers that need neither.
            scratch: Folder for what is not kept.
            install: Whether peers get environments of their own in ``work``; otherwise the present one serves all.
        """
        self._work, self._scratch = work, scratch
        self.installs = install and work is not None
        self._homes: dict[str, Environment | PeerFailed] = {}  # or why there is none
        self._cases: dict[str, tuple[Case, tuple[int, ...]] | PeerFailed] = {}

    def place(self, peer: Peer) -> Place:
        """Return where a peer runs, with ports that are free now.

        Raises:
            PeerFailed: It needs an environment of its own, and there is no folder for one, or it cannot be installed.
        """
        folder = (self._work or self._scratch) / "peers" / peer.name
        folder.mkdir(parents=True, exist_ok=True)
        return Place(folder, self._environment(peer), free_port(), free_port())

    def _environment(self, peer: Peer) -> Environment:
        if not self.installs or self._work is None:
            if peer.home not in HERE:
                raise PeerFailed("it needs an environment of its own: give --work DIR")
            return Environment.own()
        if peer.home not in self._homes:
            show(f"installing {peer.home}")
            made = Environment(self._work / "environments" / peer.home)
            try:
                made.make(peer.requirements)
                self._homes[peer.home] = made
            except PeerFailed as failed:
                self._homes[peer.home] = PeerFailed(f"not installed: {failed}")
        return _had(self._homes[peer.home])

    def case(self, model: str) -> tuple[Case, tuple[int, ...]]:
        """Return a model and its right answers, which ONNX Runtime gives without a server.

        Raises:
            PeerFailed: The model cannot be had.
        """
        if model not in self._cases:
            show(f"{model}: asking ONNX Runtime for the right answers")
            bare = PEERS["bare"]
            assert isinstance(bare, Bare)
            try:
                case = open_case(model, self._work)
                place = self.place(bare)
                if case.encoded:
                    place.environment.need("pillow")
                self._cases[model] = case, measure.reference(bare, case, place)
            except PeerFailed as failed:
                self._cases[model] = PeerFailed(f"{model}: {failed}")
        return _had(self._cases[model])


def _had(found: _T | PeerFailed) -> _T:
    if isinstance(found, PeerFailed):
        raise found
    return found
