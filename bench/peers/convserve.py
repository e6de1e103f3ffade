"""This project's server: admission, deadlines, metrics and golden answers on; as it comes, or with one instance.

It takes the tree that it is run from; its environment holds what that depends on.
"""

from __future__ import annotations

from dataclasses import dataclass

from bench.peers.base import ROOT, Case, Command, Place
from bench.peers.doors import OverGrpc
from bench.peers.environment import pinned_onnxruntime


@dataclass(frozen=True)
class Convserve(OverGrpc):
    """One of its two doors, as it comes or with a few flags."""

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
        # In front of whatever else is installed: what is measured is this tree.
        return Command((*argv, "--transport", self.transport, *self.flags, *ports), {"PYTHONPATH": str(ROOT)})
