"""Two models that want one core get it in proportion to their weights."""

from __future__ import annotations

import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.integration.harness import MODELS, ServerProcess, eventually, infer_request
from tests.integration.threads import of_each_thread

MODEL = "resnet20-cifar10"
LIGHT, HEAVY = "light", "heavy"
CALLERS = 4  # a model: one has always something to run, however late a caller asks again
LEAST_CALLS = 12  # of the light model


def rows(server: ServerProcess, name: str) -> float:
    return server.metric("convserve_batch_size_sum", model=name)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system does not pin processes to cores")
def test_a_quarter_of_the_weight_is_about_a_quarter_of_the_time(tmp_path: Path):
    for name in (LIGHT, HEAVY):
        shutil.copytree(MODELS / MODEL, tmp_path / name, ignore=shutil.ignore_patterns("cost.json"))
    (tmp_path / LIGHT / "serving.toml").write_text("weight = 0.25\n")
    batch = np.zeros((32, 32, 32, 3), np.uint8)
    with ServerProcess(tmp_path, "native", "--instances", "1", "--intra-op-threads", "1") as server:
        core = {min(os.sched_getaffinity(0))}
        of_each_thread(server.process.pid, lambda thread: os.sched_setaffinity(thread, core))
        stop = threading.Event()

        def keep_busy(name: str) -> None:
            while not stop.is_set():
                server.client.infer(infer_request(name, {"images": batch}))

        with ThreadPoolExecutor(2 * CALLERS) as callers:
            calling = [callers.submit(keep_busy, name) for name in (LIGHT, HEAVY) for _ in range(CALLERS)]
            try:
                eventually(lambda: rows(server, LIGHT) >= LEAST_CALLS * len(batch), "the light one has run too")
                light, heavy = rows(server, LIGHT), rows(server, HEAVY)
            finally:
                stop.set()
        for caller in calling:
            caller.result()
    assert 2 < heavy / light < 8, f"{heavy} and {light} rows"
