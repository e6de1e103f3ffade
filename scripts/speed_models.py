"""Make the benchmark models that are not bundled: .venv/bin/python scripts/speed_models.py FOLDER [MODEL …].

Their weights are random, which does not change the time of a run. Each is written to FOLDER/NAME/1/model.onnx:

- ``textcnn-20k``: Kim's TextCNN, 20,000 word vectors of 300, windows of 3, 4, 5, 100 filters each, two classes
- ``resnet50``: torchvision's ResNet-50 for 224 x 224, with the scaling in the graph
- ``lenet5-mnist-int8``, ``resnet20-cifar10-int8``, ``textcnn-20k-int8``, ``resnet50-int8``: the same in int8, ranges
  from random inputs
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from export.architectures.base import Sizes
from export.architectures.textcnn import TextCNN, TextCNNOptions
from export.classifier import Classifier, Probabilities
from export.convert import convert
from export.load import Order, load_network
from export.quantize import quantize_int8
from service.backend.onnx import OnnxBackend
from service.spec import TextSpec

BUNDLED = Path(__file__).resolve().parents[1] / "models"
_VOCABULARY = 20_000
_TOKENS = 64


def textcnn(path: Path) -> None:
    options = TextCNNOptions(
        widths=(3, 4, 5), filters=100, dimensions=300, dropout=0.5, max_norm=3.0, variant="rand", table="float32"
    )
    spec = TextSpec("text", "tokenizer.json", padding_id=0, unknown_id=1, max_tokens=_TOKENS)
    network = TextCNN(options, Sizes(classes=2, vocabulary=_VOCABULARY))
    convert(Probabilities(Classifier(network, spec)).eval(), spec, 2, path)


def resnet50(path: Path) -> None:
    loaded = load_network(Order("resnet50"))
    model = Probabilities(Classifier(loaded.network, loaded.spec)).eval()
    convert(model, loaded.spec, len(loaded.labels), path)


def int8(path: Path) -> None:
    name = path.parents[1].name.removesuffix("-int8")
    bundled = BUNDLED / name / "1" / "model.onnx"
    source = bundled if bundled.exists() else made(path.parents[2], name)
    spec = OnnxBackend(source, "cpu").inputs[0]
    shape, values = (spec.shape[1:], 256) if spec.datatype == "UINT8" else ((_TOKENS,), _VOCABULARY)
    draw = np.random.default_rng(0)
    batches = [draw.integers(0, values, (8, *shape), dtype=spec.dtype) for _ in range(4)]
    quantize_int8(source, path, batches, ())


MODELS = {
    "textcnn-20k": textcnn, "resnet50": resnet50,
    "lenet5-mnist-int8": int8, "resnet20-cifar10-int8": int8, "textcnn-20k-int8": int8,
    "resnet50-int8": int8,
}  # fmt: skip


def made(folder: Path, name: str) -> Path:
    """Return a model's file; make it if it does not exist."""
    path = folder / name / "1" / "model.onnx"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(0)
        MODELS[name](path)
    return path


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1].startswith("-") or set(sys.argv[2:]) - MODELS.keys():
        sys.exit(f"usage: speed_models.py FOLDER [{' | '.join(MODELS)}] …")
    for wanted in sys.argv[2:] or MODELS:
        print(made(Path(sys.argv[1]), wanted))
