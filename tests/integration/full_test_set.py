"""All 10,000 MNIST test pictures through a server, as PNG and as tensors; the accuracy must be the manifest's.

    python -m tests.integration.full_test_set --data DIR [--transport native|grpcio]

``DIR/mnist/test.npz`` holds ``images`` uint8 (10000, 28, 28) and ``labels`` (10000,), as the exporter reads them.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from service.manifest import read_manifest
from service.pb.convserve.classification.v1 import classification_pb2
from tests.integration.harness import (
    DEADLINE_SECONDS,
    MODELS,
    TRANSPORTS,
    Client,
    ServerProcess,
    arrays_of,
    infer_request,
)

MODEL = "lenet5-mnist"
_PICTURES_A_CALL = 25
_CALLS_AT_ONCE = 16


def read_test_set(data: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return pictures (N, 28, 28) and labels (N,)."""
    with np.load(data / "mnist" / "test.npz") as archive:
        return archive["images"], archive["labels"]


def as_png(client: Client, images: np.ndarray) -> list[int]:
    """Classify by ClassifyImages; return the best classes."""
    request = classification_pb2.ClassifyImagesRequest(model_name=MODEL, top_k=1)
    for image in images:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        request.images.append(buffer.getvalue())
    response = client.classification.ClassifyImages(request, timeout=DEADLINE_SECONDS)
    return [result.classification.scored_labels[0].index for result in response.results]


def as_tensor(client: Client, images: np.ndarray) -> list[int]:
    """Classify by ModelInfer; return the best classes."""
    response = client.infer(infer_request(MODEL, {"images": images[..., np.newaxis]}))
    return arrays_of(response)["probabilities"].argmax(axis=1).tolist()


def classify_all(client: Client, images: np.ndarray, how: Callable[[Client, np.ndarray], list[int]]) -> np.ndarray:
    """Classify everything, many calls at once; return the best classes (N,)."""
    parts = [images[start : start + _PICTURES_A_CALL] for start in range(0, len(images), _PICTURES_A_CALL)]
    with ThreadPoolExecutor(_CALLS_AT_ONCE) as pool:
        answers: Sequence[list[int]] = list(pool.map(lambda part: how(client, part), parts))
    return np.concatenate(answers)


def stated_accuracy() -> float:
    """Return the manifest's figure for the file that is served."""
    accuracies = read_manifest(MODELS / MODEL / "1").accuracy
    return next(each.value for each in accuracies if (each.metric, each.dataset) == ("top1", "mnist"))


def measured_accuracies(data: Path, transport: str) -> dict[str, float]:
    """Serve the bundled model and return the accuracy by the way that the pictures came."""
    images, labels = read_test_set(data)
    with ServerProcess(MODELS, transport) as server:
        return {
            name: float((classify_all(server.client, images, how) == labels).mean())
            for name, how in (("ClassifyImages, PNG", as_png), ("ModelInfer, tensors", as_tensor))
        }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--transport", choices=TRANSPORTS, default="native")
    flags = parser.parse_args()
    stated = stated_accuracy()
    print(f"manifest: {stated}")
    measured = measured_accuracies(flags.data, flags.transport)
    for name, accuracy in measured.items():
        print(f"{name} over {flags.transport}: {accuracy}")
    return 0 if set(measured.values()) == {stated} else 1


if __name__ == "__main__":
    sys.exit(main())
