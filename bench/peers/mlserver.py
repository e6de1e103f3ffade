"""MLServer, over its gRPC.

Tuned for two cores: no worker processes (``parallel_workers`` 0: handing a request to one costs more than these models
do), no batching (up to 32 rows within 1 ms gives LeNet-5 fewer answers for more CPU at every load), metrics as they
come, no debug log.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from bench.peers.base import Case, Command, Place, free_port, program_variables
from bench.peers.doors import OverGrpc
from bench.peers.environment import pinned_onnxruntime


class MLServer(OverGrpc):
    """The server."""

    name = home = "mlserver"
    requirements = (("mlserver", pinned_onnxruntime()),)
    shows = ("mlserver", "onnxruntime", "grpcio")
    tuning = "in one process, no batching, one thread a run"

    def command(self, case: Case, place: Place) -> Command:
        """Write the settings."""
        folder = place.folder / "models"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        model: dict[str, Any] = {
            "name": case.name,
            "implementation": "mlserver_model.Onnx",
            "inputs": [{"name": case.input, "datatype": case.datatype, "shape": [-1, *case.row_shape]}],
            "outputs": [{"name": case.output, "datatype": "FP32", "shape": [-1, -1]}],
        }
        (folder / "model-settings.json").write_text(json.dumps(model))
        return start(place, folder, program_variables(case, place, 1, 1))


def start(place: Place, folder: Path, variables: dict[str, str]) -> Command:
    """Return the command that serves a folder of models without worker processes."""
    settings = {
        "host": "127.0.0.1",
        "grpc_port": place.port,
        "http_port": place.spare_port,
        "metrics_port": free_port(),
        "parallel_workers": 0,
        "debug": False,
        "grpc_max_message_length": 100 * 2**20,
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    return Command((str(place.environment.folder / "bin" / "mlserver"), "start", str(folder)), variables)
