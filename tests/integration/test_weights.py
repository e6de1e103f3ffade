"""Two models that want one core get it in proportion to their weights."""

from __future__ import annotations

import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.integration.harness import MODELS, ServerProcess, infer_request
from tests.integration.threads import of_each_thread

MODEL = "resnet20-cifar10"
LIGHT, HEAVY = "light", "heavy"
SECONDS = 2.0


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
        stop = time.monotonic() + SECONDS

        def keep_busy(name: str) -> None:
            while time.monotonic() < stop:
                server.client.infer(infer_request(name, {"images": batch}))

        with ThreadPoolExecutor(4) as callers:
            list(callers.map(keep_busy, (LIGHT, LIGHT, HEAVY, HEAVY)))
        light, heavy = rows(server, LIGHT), rows(server, HEAVY)
    assert 2 < heavy / light < 8, f"{heavy} and {light} rows"
