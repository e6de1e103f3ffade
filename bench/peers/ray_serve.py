"""Ray Serve, through its HTTP proxy, with raw bytes both ways.

Tuned for two cores: one replica, batches of up to 64 without a wait, no dashboard, no access log, one thread a run.
"""

from __future__ import annotations

from bench.peers.base import MOST_ROWS, Case, Command, Place
from bench.peers.doors import OverHttp
from bench.peers.environment import pinned_onnxruntime


class RayServe(OverHttp):
    """The server, with all the processes of a Ray of its own."""

    name = home = "ray-serve"
    requirements = (("ray[serve]", pinned_onnxruntime()),)
    shows = ("ray", "onnxruntime", "uvicorn")
    program = "ray_server.py"
    batch = MOST_ROWS
    tuning = f"one replica, batches of up to {MOST_ROWS} without a wait, one thread a run"

    def command(self, case: Case, place: Place) -> Command:
        """Start the program, which says little."""
        made = super().command(case, place)
        own = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_SERVE_LOG_TO_STDERR": "0", "RAY_DEDUP_LOGS": "0"}
        return Command(made.argv, {**made.variables, **own})
