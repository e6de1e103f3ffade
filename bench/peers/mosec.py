"""Mosec: a front in Rust, workers in Python, over HTTP with raw bytes both ways.

Tuned for two cores: two workers, one thread a run. Its batching waits up to a millisecond for a fuller batch (it has no
"none"), which costs where little is in flight, so there is a row with batches of up to eight and one without.
"""

from __future__ import annotations

from dataclasses import dataclass

from bench.peers.base import PROGRAMS, Case, Command, Place, told
from bench.peers.doors import OverHttp
from bench.peers.environment import pinned_onnxruntime

_WORKERS = 2


@dataclass(frozen=True)
class Mosec(OverHttp):
    """The server with batches of so many rows at most."""

    name: str
    batch: int
    path: str = "/inference"
    home: str = "mosec"

    @property
    def requirements(self) -> tuple[tuple[str, ...], ...]:
        """Its wheel."""
        return (("mosec", pinned_onnxruntime()),)

    @property
    def shows(self) -> tuple[str, ...]:
        """What serves."""
        return ("mosec", "onnxruntime")

    @property
    def tuning(self) -> str:
        """On one line."""
        batching = f"batches of up to {self.batch} within 1 ms" if self.batch > 1 else "no batching"
        return f"{_WORKERS} workers, {batching}, one thread a run"

    def command(self, case: Case, place: Place) -> Command:
        """Start the program."""
        argv = (str(place.environment.python), str(PROGRAMS / "mosec_server.py"))
        return Command(argv, told(case, place, self.batch, _WORKERS))
