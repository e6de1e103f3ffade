"""From weights trained elsewhere to a version: converted and proven as our own, with no accuracy to tell."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from export import provenance
from export.classifier import Classifier, Probabilities
from export.convert import convert
from export.data.inputs import PictureInputs, Preprocessing, proving_pictures
from export.errors import ConversionFailed
from export.load import Loaded
from export.publish import Described, Say, make_manifest, write_aside, write_parts
from export.verify import are_probabilities, verify_graph, verify_version
from service.backend.onnx import OnnxBackend
from service.manifest import MODEL_FILE, Dataset, write_manifest


def publish_loaded(loaded: Loaded, target: Path, version: int | None, max_batch_size: int, say: Say) -> Path:
    """Publish a loaded network.

    Without a test set there is no accuracy to measure, and none is claimed: torch and the graph are
    compared on the golden pictures and on noise.

    Args:
        loaded: The network.
        target: Folder of the model, ``<repository>/<name>``.
        version: Positive integer, or None for the next free one.
        max_batch_size: Largest batch to prove.
        say: Hears one line a step.

    Returns:
        The version folder.

    Raises:
        ConversionFailed: The network answers with probabilities, or the graph is not as it should be.
        VerificationFailed: The graph does not give torch's answers.
        PublishFailed: The version exists already, or the repository cannot be written.
    """
    for note in loaded.notes:
        say(f"note: {note}")
    classifier, inputs = Classifier(loaded.network, loaded.spec).eval(), PictureInputs(proving_pictures(loaded.spec))
    _check_logits(loaded, classifier, inputs)
    model = Probabilities(classifier).eval()
    with write_aside(target, version) as (aside, folder):
        convert(model, loaded.spec, len(loaded.labels), aside / MODEL_FILE)
        say(f"converted: {(aside / MODEL_FILE).stat().st_size / 1e6:.2f} MB")
        backend = OnnxBackend(aside / MODEL_FILE, "cpu")
        parity = verify_graph(model, backend, inputs, max_batch_size)
        say(f"verified: at most {parity.max_abs_difference:.2g} from torch; same top-1 on all {parity.count}")
        write_parts(aside, loaded.labels, Preprocessing(loaded.spec, None), model)
        about = provenance.of_loaded(loaded.name, Dataset(f"weights {loaded.weights}", loaded.digest))
        described = Described(loaded.spec, loaded.labels, max_batch_size, about)
        write_manifest(make_manifest(described, (), parity, aside), aside)
        verify_version(aside)
    say(f"published: {folder}")
    return folder


def _check_logits(loaded: Loaded, classifier: Classifier, inputs: PictureInputs) -> None:
    """Refuse a network that ends in softmax: with a second one every answer would be nearly uniform.

    Raises:
        ConversionFailed: It does.
    """
    try:
        with torch.inference_mode():
            answers = classifier(torch.from_numpy(inputs.batch(np.arange(2)))).numpy()
        ends_in_softmax = answers.ndim == 2 and are_probabilities(answers)
    except Exception:  # it is anybody's code, and the conversion says in one line what is wrong with it
        return
    if ends_in_softmax:
        raise ConversionFailed(f"{loaded.name}: answers with probabilities, expected logits; softmax is added here")
