"""The native door's threads go where a batch ends while all cores run batches, and are free again after."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from tests.integration.harness import MODELS, ServerProcess, infer_request
from tests.integration.threads import of_each_thread

MODEL = "resnet20-cifar10"
PATIENCE_SECONDS = 60.0


def doors(pid: int) -> list[Path]:
    """Return the tasks of the listener; the intake's is the one that follows the same way, but has no name."""
    tasks = Path(f"/proc/{pid}/task")
    names = of_each_thread(pid, lambda thread: (tasks / str(thread) / "comm").read_text().strip())
    return [tasks / str(thread) for thread, name in names.items() if name == "grpc-native-io"]


@pytest.mark.skipif(sys.platform != "linux", reason="threads are bound to cores on Linux")
def test_the_listener_follows_the_batches_and_is_set_free() -> None:
    cores = len(os.sched_getaffinity(0))
    if cores < 2:
        pytest.skip("one core")
    request = infer_request(MODEL, {"images": np.zeros((4, 32, 32, 3), np.uint8)})
    flags = ("--model-control-mode", "explicit", "--load-models", MODEL, "--instances", str(cores))
    with ServerProcess(MODELS, "native", *flags, "--intra-op-threads", "1") as server:
        stop = threading.Event()

        def keep_busy() -> None:
            while not stop.is_set():
                server.client.infer(request)

        callers = [threading.Thread(target=keep_busy) for _ in range(3 * cores)]
        for caller in callers:
            caller.start()
        try:
            server.client.infer(request)
            (door,) = doors(server.process.pid)
            seen: set[int] = set()
            give_up = time.monotonic() + PATIENCE_SECONDS
            while not {1, cores} <= seen and time.monotonic() < give_up:
                seen.add(len(os.sched_getaffinity(int(door.name))))
        finally:
            stop.set()
            for caller in callers:
                caller.join()
        assert seen == {1, cores}
        server.client.infer(request)
        assert len(os.sched_getaffinity(int(door.name))) == cores, "the last batch had a core to spare"
