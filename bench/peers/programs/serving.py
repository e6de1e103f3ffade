"""What the peers' programs share: their ONNX Runtime session, and the settings that they are given.

``bench.peers`` sets these environment variables: ``BENCH_NAME`` (of the model), ``BENCH_MODEL`` (its file),
``BENCH_INPUT``, ``BENCH_DATATYPE`` (NumPy's name), ``BENCH_SHAPE`` (of a row), ``BENCH_OUTPUT``, ``BENCH_PORT``,
``BENCH_SPARE_PORT``, ``BENCH_BATCH`` (most rows a run), ``BENCH_INSTANCES``, and ``BENCH_ENCODED`` where rows come as
JPEG.
"""

import io
import os

import numpy as np
import onnxruntime

NAME = os.environ["BENCH_NAME"]
INPUT, OUTPUT = os.environ["BENCH_INPUT"], os.environ["BENCH_OUTPUT"]
DTYPE = np.dtype(os.environ["BENCH_DATATYPE"])
SHAPE = tuple(int(size) for size in os.environ["BENCH_SHAPE"].split(","))
BATCH, INSTANCES = int(os.environ["BENCH_BATCH"]), int(os.environ["BENCH_INSTANCES"])
ENCODED = bool(os.environ.get("BENCH_ENCODED"))
PORT, SPARE_PORT = int(os.environ["BENCH_PORT"]), int(os.environ["BENCH_SPARE_PORT"])


def session(threads: int = 1) -> onnxruntime.InferenceSession:
    """Open the model on the CPU. One thread a run, since the instances share two cores; no thread spins."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(os.environ["BENCH_MODEL"], options, providers=["CPUExecutionProvider"])


def row(body: bytes) -> np.ndarray:
    """Read a row as it was sent, decoding a picture."""
    if ENCODED:
        from PIL import Image  # noqa: PLC0415 - installed where pictures are asked for

        with Image.open(io.BytesIO(body)) as picture:
            return np.asarray(picture.convert("L" if SHAPE[2] == 1 else "RGB")).reshape(SHAPE)
    return np.frombuffer(body, DTYPE).reshape(SHAPE)


def run(opened: onnxruntime.InferenceSession, rows: list[np.ndarray]) -> np.ndarray:
    """Answer rows in one run: float32 (N, K)."""
    return opened.run([OUTPUT], {INPUT: np.stack(rows)})[0]
