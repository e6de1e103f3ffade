"""This project's server, with its default settings or a few flags: admission, deadlines, metrics and golden answers on.

What runs is the tree around this file; its environment holds what that depends on.
"""

from __future__ import annotations

from dataclasses import dataclass

from bench.peers.base import ROOT, Case, Command, Place
from bench.peers.doors import OverGrpc
from bench.peers.environment import pinned_onnxruntime


@dataclass(frozen=True)
class Convserve(OverGrpc):
    """The server with one of its two transports, and perhaps a few flags."""

    name: str
    transport: str
    flags: tuple[str, ...] = ()
    takes_encoded = True
    home = "convserve"
    requirements = (("--editable", f"{ROOT}[cpu,fast]", pinned_onnxruntime()),)
    shows = ("convserve", "onnxruntime", "grpcio", "pygrpc-native")

    @property
    def tuning(self) -> str:
        """See :class:`bench.peers.base.Peer`."""
        return " ".join(("as it comes, --transport", self.transport, *self.flags))

    def command(self, case: Case, place: Place) -> Command:
        """Serve the one model."""
        repository = place.folder / "models"
        repository.mkdir(parents=True, exist_ok=True)
        for stale in repository.iterdir():
            stale.unlink()
        (repository / case.name).symlink_to(case.repository / case.name)
        argv = (str(place.environment.python), "-m", "service", "serve", "--models", str(repository))
        ports = ("--grpc-port", str(place.port), "--http-port", str(place.spare_port))
        # Before anything else that is installed: this tree is what is measured.
        return Command((*argv, "--transport", self.transport, *self.flags, *ports), {"PYTHONPATH": str(ROOT)})
