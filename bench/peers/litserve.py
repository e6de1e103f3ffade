"""LitServe, over HTTP with JSON: besides forms it reads nothing else.

Tuned for two cores: one API process, one worker, ``fast_queue`` (ZeroMQ in place of a multiprocessing queue), one
thread a run, no batching: with batches of up to 16 or 64 within 1 ms, and with two workers, LeNet-5 got fewer answers.
"""

from __future__ import annotations

from typing import Any

from bench.peers.doors import OverJson
from bench.peers.environment import pinned_onnxruntime


class LitServe(OverJson):
    """The server."""

    name = home = "litserve"
    path = "/predict"
    requirements = (("litserve", "pyzmq", pinned_onnxruntime()),)
    shows = ("litserve", "onnxruntime", "uvicorn")
    program = "litserve_server.py"
    tuning = "one worker, no batching, fast_queue, one thread a run"

    def wrapped(self, encoded: str) -> Any:
        """Put it under ``input``."""
        return {"input": encoded}

    def unwrapped(self, answer: Any) -> str:
        """Take ``output``."""
        return str(answer["output"])
