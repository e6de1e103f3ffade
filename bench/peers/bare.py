"""ONNX Runtime without a server: the limit.

Two rows. ``bare-1-thread`` runs all rows in flight as one batch on one thread: the least CPU that an answer can cost,
with which a server's CPU per answer is compared. ``bare`` tries batches and threads (one run at a time on one thread or
two, or two runs at once) before each measurement and keeps what gives most answers per second.
"""

from __future__ import annotations

from dataclasses import dataclass

from bench.peers.base import MOST_ROWS, Door
from bench.peers.doors import OverHttp
from bench.peers.environment import pinned_onnxruntime


@dataclass(frozen=True)
class Bare(OverHttp):
    """The loop. It takes commands on its standard input, see ``programs/bare.py``."""

    name: str
    best: bool
    door: Door = "none"
    home = "bare"
    requirements = ((pinned_onnxruntime(),),)
    shows = ("onnxruntime", "numpy")
    program = "bare.py"
    batch = MOST_ROWS

    @property
    def tuning(self) -> str:
        """See :class:`bench.peers.base.Peer`."""
        if self.best:
            return "the batch, loops and threads that gave most answers a second, tried before each measurement"
        return "all rows in flight in one run, on one thread"
