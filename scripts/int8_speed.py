"""Measure how much faster a torchvision classifier runs in int8 than in float32, on one thread.

    python scripts/int8_speed.py resnet50 vgg16_bn

Random weights and pictures take as long as real ones. Needs the environment of `make install`.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
import torchvision

from export.quantize import quantize_int8

_ROUNDS = 5


class _Classifier(torch.nn.Module):
    """Maps uint8 (N, 224, 224, 3) to probabilities, as a published version does."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.network = torchvision.models.get_model(name).eval()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.softmax(self.network((images.permute(0, 3, 1, 2).float() / 255 - 0.45) / 0.225), dim=1)


def _session(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _seconds(session: ort.InferenceSession, images: np.ndarray) -> float:
    started = time.process_time()
    session.run(None, {"images": images})
    return time.process_time() - started


def main(names: list[str]) -> None:
    """Print one line per classifier and batch size: medians of alternating rounds."""
    pictures = np.random.default_rng(0)
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder) / "float32.onnx", Path(folder) / "int8.onnx"
            example = torch.zeros((2, 224, 224, 3), dtype=torch.uint8)
            torch.onnx.export(
                _Classifier(name),
                (example,),
                str(source),
                input_names=["images"],
                dynamic_shapes={"images": {0: torch.export.Dim("N")}},
                dynamo=True,
                external_data=False,
                verbose=False,
            )
            quantize_int8(source, target, [pictures.integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)] * 2, ())
            sessions = [_session(source), _session(target)]
            for rows in (1, 8):
                images = pictures.integers(0, 256, (rows, 224, 224, 3), dtype=np.uint8)
                turns = [[_seconds(session, images) for session in sessions] for _ in range(_ROUNDS + 1)][1:]
                float32, int8 = (statistics.median(turn[place] for turn in turns) for place in (0, 1))
                ratio = f"{float32 / int8:.2f} times as fast"
                print(f"{name}, {rows} rows: {float32 * 1e3:.0f} ms, int8 {int8 * 1e3:.0f} ms, {ratio}")


if __name__ == "__main__":
    main(sys.argv[1:])
