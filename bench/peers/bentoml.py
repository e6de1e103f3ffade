"""BentoML, over HTTP with JSON, which its typed interfaces read directly.

Tuned for two cores: two workers without batching, one thread a run, no access log. One worker with adaptive batching
up to 64 rows needs less CPU for an answer from 16 in flight on, yet gives fewer answers a second.
"""

from __future__ import annotations

from typing import Any

from bench.peers.base import PROGRAMS, Case, Command, Place, program_variables
from bench.peers.doors import OverJson
from bench.peers.environment import pinned_onnxruntime

_WORKERS = 2


class BentoML(OverJson):
    """The server."""

    name = home = "bentoml"
    path = "/infer"
    requirements = (("bentoml", pinned_onnxruntime()),)
    shows = ("bentoml", "onnxruntime", "uvicorn")
    tuning = f"{_WORKERS} workers, no batching, one thread a run"

    def command(self, case: Case, place: Place) -> Command:
        """Start the service."""
        program = str(place.environment.folder / "bin" / "bentoml")
        where = ("--working-dir", str(PROGRAMS), "--host", "127.0.0.1", "--port", str(place.port))
        own = {"BENTOML_HOME": str(place.folder / "home"), "BENTOML_DO_NOT_TRACK": "true"}
        return Command(
            (program, "serve", "bentoml_service:Model", *where), program_variables(case, place, 1, _WORKERS) | own
        )

    def wrapped(self, encoded: str) -> Any:
        """Put it into the list that a batch is made of."""
        return {"data": [encoded]}

    def unwrapped(self, answer: Any) -> str:
        """Take the only one."""
        return str(answer[0])
