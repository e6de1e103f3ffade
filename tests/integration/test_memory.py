"""Loading and unloading leaves memory flat, failures included: a gate by slope, not by size."""

from __future__ import annotations

import gc
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from service.backend.onnx import OnnxBackend
from service.errors import LoadFailed
from service.metrics import Metrics
from service.repository.lifecycle import Lifecycle
from service.repository.reconciler import Reconciler
from service.settings import Settings
from tests.integration import graphs
from tests.integration.harness import MODELS, reseal

CYCLES = 200
WARM_UP = 50  # arenas, caches and import side effects settle
WINDOW = 50
MAX_BYTES_A_CYCLE = 32768  # a leaked LeNet-5 session is 250,000 bytes at least


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_200_cycles_of_loading_and_unloading_leave_memory_flat(tmp_path: Path):
    """Every other cycle also loads a version whose golden answers are wrong, and fails."""
    for name in ("good", "bad"):
        shutil.copytree(MODELS / "lenet5-mnist", tmp_path / name)
    golden = tmp_path / "bad" / "1" / "golden.npz"
    with np.load(golden) as archive:
        arrays = {key: archive[key] for key in archive.files}
    arrays["output_0"] = arrays["output_0"][:, ::-1]
    np.savez_compressed(golden, **arrays)
    reseal(golden.parent)
    settings = Settings(models=str(tmp_path), model_control_mode="explicit", device="cpu", max_batch_size=2)
    metrics = Metrics("0", "test")
    lifecycle = Lifecycle(metrics)
    reconciler = Reconciler(settings, metrics, lifecycle)
    reconciler.load_all()
    resident = []
    for cycle in range(CYCLES):
        reconciler.load_model("good")
        assert lifecycle.find("good").verified
        if cycle % 2:
            with pytest.raises(LoadFailed):
                reconciler.load_model("bad")
        reconciler.unload_model("good")
        gc.collect()
        resident.append(resident_bytes())
    # Medians, since the allocator moves in steps of a megabyte now and then.
    early, late = np.median(resident[WARM_UP : WARM_UP + WINDOW]), np.median(resident[-WINDOW:])
    slope = (late - early) / (CYCLES - WARM_UP - WINDOW)
    assert slope < MAX_BYTES_A_CYCLE, f"{slope:.0f} bytes a cycle: {resident[::20]}"


def test_sessions_share_what_their_largest_batches_need(tmp_path: Path):
    """Four sessions of a graph whose batch needs 64 MB: one after the other they need it once."""
    rows, width = 8, 2**21
    path = tmp_path / "model.onnx"
    path.write_bytes(graphs.spread(width).SerializeToString())
    first, *others = [OnnxBackend(path, "cpu") for _ in range(4)]
    batch = np.arange(rows, dtype=np.float32)[:, None]
    for _ in range(3):  # the second run is planned by what the first one needed
        np.testing.assert_array_equal(first.run([batch])[0], batch)
    before = resident_bytes()
    for backend in others:
        np.testing.assert_array_equal(backend.run([batch])[0], batch)
    assert resident_bytes() - before < rows * width * 4 / 2
