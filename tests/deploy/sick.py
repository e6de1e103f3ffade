"""A server with one of every fault that the alerts of deploy/ know, for a real Prometheus to find."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from tests.integration import graphs
from tests.integration.harness import DEADLINE_SECONDS, MODELS, ServerProcess, eventually, infer_request, reseal

LONGEST_QUEUE = 100


def sick_repository(root: Path) -> Path:
    """Models with something wrong, one each, and two that can be made to misbehave."""
    graphs.write(root, "loop", graphs.loop())
    graphs.write(root, "look-up", graphs.look_up())
    graphs.write(root, "renewed", graphs.add_sub())
    (graphs.write(root, "renewed", graphs.add_sub(), version=2) / "model.onnx").write_bytes(b"not a graph")
    (root / "renewed" / "serving.toml").write_text('versions = "all"\n')
    shutil.copytree(MODELS / "lenet5-mnist", root / "wrong")
    golden = root / "wrong" / "1" / "golden.npz"
    with np.load(golden) as archive:
        arrays = dict(archive)
    arrays["output_0"] = np.roll(arrays["output_0"], 1, axis=1)
    np.savez_compressed(golden, **arrays)
    reseal(golden.parent)
    return root


class Sick:
    """A server whose model ``loop`` is kept busy for minutes, so that its queue does what the test says."""

    def __init__(self, server: ServerProcess) -> None:
        self.server = server
        self._infer = server.client.inference.ModelInfer
        eventually(lambda: self._state("wrong", "UNAVAILABLE") and self._state("loop", "READY"), "all is tried")
        started = time.perf_counter()
        self._infer(self._loop(1000))
        self._long = self._loop(int(1000 * 5 / (time.perf_counter() - started)))
        self._calls: list[grpc.Future] = []

    def _state(self, model: str, state: str) -> bool:
        return self.server.metric("convserve_model_state", model=model, state=state) == 1

    @staticmethod
    def _loop(iterations: int) -> Any:
        return infer_request("loop", {"iterations": np.array([[iterations]])})

    def enqueue(self, count: int) -> None:
        """Let so many more requests wait."""
        waiting = self.server.metric("convserve_queue_depth", model="loop")
        self._calls += [self._infer.future(self._long) for _ in range(count)]
        eventually(
            lambda: self.server.metric("convserve_queue_depth", model="loop") >= waiting + count - 2, "they wait"
        )

    def misbehave(self) -> None:
        """Give one call each cause to end badly."""
        bad = [self._loop(1), infer_request("look-up", {"index": np.array([[9]])}), infer_request("wrong", {})]
        left = (1, DEADLINE_SECONDS, DEADLINE_SECONDS)
        calls = [self._infer.future(request, timeout=seconds) for request, seconds in zip(bad, left, strict=True)]
        failed = [call.exception() for call in calls]
        codes = [error.code().name if isinstance(error, grpc.RpcError) else "OK" for error in failed]
        assert codes[0] in ("RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED")  # behind so many that it is hopeless
        assert codes[1:] == ["INTERNAL", "UNAVAILABLE"]
        if self.server.metric("convserve_queue_depth", model="loop") < LONGEST_QUEUE - 10:
            self._calls += [self._infer.future(self._long) for _ in range(2)]
            self._calls.pop().cancel()

    def close(self) -> None:
        for call in self._calls:
            call.cancel()
