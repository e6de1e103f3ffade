"""Mosec: a front in Rust, workers in Python, over HTTP with raw bytes both ways.

Tuned for two cores, one thread a run. Its batching waits a millisecond or more for a fuller batch (it has no "none"),
so what is best depends on what is in flight, and there are three rows: two workers with batches of up to 8, best at 16
in flight; the same with up to 16, best at 64; and one worker without batching, best at 1.
"""

from __future__ import annotations

from dataclasses import dataclass

from bench.peers.doors import OverHttp
from bench.peers.environment import pinned_onnxruntime


@dataclass(frozen=True)
class Mosec(OverHttp):
    """The server with so many workers and rows in a batch."""

    name: str
    batch: int
    instances: int
    path = "/inference"
    home = "mosec"
    requirements = (("mosec", pinned_onnxruntime()),)
    shows = ("mosec", "onnxruntime")
    program = "mosec_server.py"

    @property
    def tuning(self) -> str:
        """See :class:`bench.peers.base.Peer`."""
        batching = f"batches of up to {self.batch} within 1 ms" if self.batch > 1 else "no batching"
        return f"{self.instances} worker(s), {batching}, one thread a run"
