"""KServe's model server, over its gRPC.

It batches nothing itself (its batcher is a side-car for another protocol). Tuned for two cores: one process, the model
run in its event loop, no access log.
"""

from __future__ import annotations

from bench.peers.doors import OverGrpc
from bench.peers.environment import pinned_onnxruntime


class KServe(OverGrpc):
    """The server."""

    name = home = "kserve"
    requirements = (("kserve", pinned_onnxruntime()),)
    shows = ("kserve", "onnxruntime", "grpcio")
    program = "kserve_server.py"
    tuning = "one process, no batching (it has none), one thread a run"
